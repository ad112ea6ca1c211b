"""Open commands on disk: a file for each, locked by the process that lives, so that a killed one is seen.

The file gets its name when it is complete and locked. The lock ends with the process, whatever ends that: no process
id has to be checked. Whoever finds the lock free turns the file into one `command` event, whose uuid is in the file's
name. That uuid is noted in the queue in the same transaction as the event, also by the process itself: file and event
are never both counted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spool.errors import LockBusyError, SpoolError, UnavailableError
from spool.event import encode_message, rfc3339
from spool.home import Paths, private_folder, publish, read_bounded, write_new
from spool.queue import FileLock, Queue
from spool.settings import LONGEST_S

__all__ = ["OpenSpan", "recover"]

_SUFFIX = ".json"
# An event is made of a dead command in some milliseconds.
_PATIENCE_S = 0.05


class OpenSpan:
    """The file of a command that is under way, locked while this process lives.

    A host may close the descriptor of the lock: then the file looks like that of a dead process until it is locked
    again. `touch` and `holds` do that.
    """

    def __init__(self, paths: Paths, uuid: str, message: Mapping[str, Any], *, durable: bool) -> None:
        """Write and lock the file. UnavailableError where that can't be done: then a kill leaves no event.

        `message` is the event of the command in case it is killed.
        """
        self._path = paths.span(uuid)
        self._began_s = _seconds(message["timestamp"])
        draft = self._path.with_name(f".{self._path.name}")
        self._lock = FileLock(draft, create=False)
        try:
            private_folder(paths.spool)
            private_folder(paths.spans)
            write_new(draft, encode_message(message).encode("ascii"), durable=durable)
            self._lock.acquire(0.0)
            publish(draft, self._path, durable=durable)
        except (OSError, SpoolError) as error:
            self._lock.close()
            with suppress(OSError):
                os.unlink(draft)
            raise UnavailableError(f"the command's span can't be written: {error}") from error
        self._lock.path = self._path

    def touch(self, lasted_s: float) -> None:
        """Record that the command has lasted so long by now: a killed command's duration ends here.

        The file's time is the command's beginning and this, whatever the clock says by now: that may have jumped.
        """
        self.holds()
        alive_until = self._began_s + lasted_s
        with suppress(OSError, OverflowError):  # the home is gone, or read-only by now: the duration ends earlier
            os.utime(self._path, (alive_until, alive_until))

    def holds(self) -> bool:
        """Lock the file again if the lock was lost. False where somebody has made an event of it meanwhile."""
        if self._lock.is_open:
            return True
        try:
            self._lock.acquire(_PATIENCE_S)
        except FileNotFoundError:
            return not self._path.parent.exists()  # with its folder it was removed, and no event was made of it
        except (OSError, SpoolError):
            pass  # somebody is about to; the queue takes one of the two events
        return True

    def forget(self) -> None:
        """Release the lock, after another file took this one's place."""
        self._lock.close()

    def end(self) -> None:
        """Remove the file, after its event is on disk."""
        with suppress(OSError):  # the flusher removes it: the queue knows that its command is closed
            os.unlink(self._path)
        self._lock.close()


def recover(paths: Paths, queue: Queue) -> int:
    """Turn each dead span into one `command` event: outcome aborted, `spool_recovered` killed. Gives how many.

    Exactly one event for each command, also with two processes at once, and when killed anywhere: the lock admits one,
    and the queue remembers the uuid. A file that can't be parsed is removed and counted as lost.
    """
    recovered = 0
    try:
        names = sorted(entry.name for entry in os.scandir(paths.spans))
    except OSError:
        return 0  # no such folder: no command was ever under way
    for name in names:
        path = paths.spans / name
        if name.startswith("."):
            _sweep(path)
        elif name.endswith(_SUFFIX):
            with suppress(FileNotFoundError, LockBusyError):  # another process was faster, or the command lives
                recovered += _recover_one(paths, queue, path)
    return recovered


def _recover_one(paths: Paths, queue: Queue, path: Path) -> int:
    lock = FileLock(path, create=False)
    try:
        lock.acquire(0.0)
        uuid = path.name.removesuffix(_SUFFIX)
        if any(entry.name.endswith(path.name) for entry in _entries(paths.aside)):
            return 0  # its event went aside: absorbing that closes the span
        alive_until = os.stat(path).st_mtime
        try:
            text = _killed(read_bounded(path, follow=False), uuid, alive_until)
        except (ValueError, KeyError, TypeError):
            queue.count_lost("damaged")
            os.unlink(path)
            return 0
        taken = queue.close_span(uuid, text)
        os.unlink(path)
        return int(taken)
    finally:
        lock.close()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _killed(data: bytes, uuid: str, alive_until: float) -> str:
    """Write the event of a killed command, which lasted until the last moment at which it is known to have lived.

    ValueError, KeyError or TypeError for what is no event of a command.
    """
    message = json.loads(data)
    lasted_s = alive_until - _seconds(message["timestamp"])
    if not 0 <= lasted_s < LONGEST_S:  # a clock that jumped, or a file that somebody else touched
        lasted_s = 0.0
    properties = {
        "durationMs": round(lasted_s * 1000, 3),
        **{name: value for name, value in message["properties"].items() if name != "durationMs"},
        "outcome": "aborted",
        "spool_recovered": "killed",
    }
    try:
        moment = rfc3339(datetime.fromisoformat(message["timestamp"]) + timedelta(seconds=lasted_s))
    except OverflowError as error:
        raise ValueError("its time is beyond the calendar") from error
    return encode_message({**message, "uuid": uuid, "timestamp": moment, "properties": properties})


def _seconds(timestamp: str) -> float:
    """Give an event's timestamp in seconds since the epoch."""
    return (datetime.fromisoformat(timestamp) - datetime.fromtimestamp(0, UTC)).total_seconds()


def _sweep(draft: Path) -> None:
    """Delete the draft of a process that was killed before its command began."""
    with suppress(OSError):
        if abs(time.time() - os.stat(draft).st_mtime) > 24 * 3600:  # from a day ahead, too: the clock was set back
            os.unlink(draft)
