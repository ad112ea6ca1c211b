"""Open commands on disk: a file for each, locked by the process that lives, so that a killed one is seen.

The file gets its name when it is complete and locked. The lock ends with the process, whatever ends that: no process
id has to be checked. Whoever finds the lock free turns the file into one `command` event, whose uuid is in the file's
name. That uuid is noted in the queue in the same transaction as the event, also by the process itself: file and event
are never both counted.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from spool.beside import aside
from spool.beside.entry import refusal
from spool.errors import EventTooLargeError, InvalidEventError, LockBusyError, SpoolError, UnavailableError
from spool.event import check_stored, encode_message, normalise, rfc3339
from spool.home import (
    Paths,
    Quarantine,
    is_plain,
    listed,
    private_folder,
    publish,
    read_bounded,
    restore_mode,
    write_new,
)
from spool.queue import FileLock, Queue
from spool.settings import LONGEST_S, MOST_EVENT_BYTES

__all__ = ["OpenSpan", "recover_all", "recover_some"]

_SUFFIX = ".json"
# An event is made of a dead command in some milliseconds.
_PATIENCE_S = 0.05
_NAME_LENGTH = 36 + len(_SUFFIX)
# Commands in one transaction: each has a descriptor open, and a process may have 256.
_BATCH = 100
# What a host may spend on what others left, which is 50 ms with the transaction and the listing of two folders.
_MOST_FOR_HOST, _HOST_S = 32, 0.02
_MOST_LISTED = 5_000


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


def recover_some(paths: Paths, queue: Queue) -> int:
    """Turn some dead commands into their events: as many as a host has time for. Gives how many.

    Bounded by the clock and by numbers, since the clock may stand still. The rest is left to the flusher, what doesn't
    read too, and all of them where so many events wait aside that to list those would take too long.
    """
    spans = [name for name in listed(paths.spans, _MOST_LISTED) if aside.is_name(name)][:_MOST_FOR_HOST]
    beside = listed(paths.aside, _MOST_LISTED + 1) if spans else []
    if not spans or len(beside) > _MOST_LISTED:
        return 0
    deadline = time.monotonic() + _HOST_S
    names = takewhile(lambda _: time.monotonic() < deadline, _not_aside(spans, beside))
    with _dead(paths, names) as found:
        return _close(paths, queue, found.events, {})


def recover_all(paths: Paths, queue: Queue, quarantine: Quarantine | None = None) -> int:
    """Turn each dead command into one `command` event: outcome aborted, `spool_recovered` killed. Gives how many.

    Exactly one event for each command, also with two processes at once, and when killed anywhere: the lock admits one,
    and the queue remembers the uuid. What doesn't read goes to quarantine with its reason; a file is counted as lost.
    """
    quarantine = quarantine or Quarantine(paths)
    recovered = 0
    spans = sorted(filter(aside.is_name, listed(paths.spans)))
    spans = _not_aside(spans, listed(paths.aside) if spans else [])
    for start in range(0, len(spans), _BATCH):
        with _dead(paths, spans[start : start + _BATCH]) as found:
            lost = {_uuid(name): "damaged" for name in found.odd if is_plain(paths.spans / name)}
            recovered += _close(paths, queue, found.events, lost)
            quarantine.lost += [(name, "damaged", str(why)) for name, why in found.odd.items() if _uuid(name) in lost]
            for name, why in found.odd.items():
                quarantine.take(paths.spans / name, str(why))
            for name, error in found.shut.items():
                quarantine.leave(paths.spans / name, f"it can't be read now: {error}")
    return recovered


def _not_aside(spans: list[str], beside: list[str]) -> list[str]:
    """Leave out the commands whose event went aside: absorbing that accounts for them."""
    events = {name[-_NAME_LENGTH:] for name in beside}
    return [name for name in spans if name not in events]


class _Found(NamedTuple):
    """Of some dead commands: the events, by uuid; and by name why a file holds none, or can't be read now."""

    events: dict[str, str]
    odd: dict[str, SpoolError]
    shut: dict[str, Exception]


@contextmanager
def _dead(paths: Paths, names: Iterable[str]) -> Iterator[_Found]:
    """Lock and read these files for a block, each by itself. A command that lives is left out."""
    found, locks = _Found({}, {}, {}), list[FileLock]()
    try:
        for name in names:
            path = paths.spans / name
            locks.append(FileLock(path, create=False))
            try:
                found.events[_uuid(name)] = _event(path, locks[-1])
            except (FileNotFoundError, LockBusyError):
                continue  # another process was faster, or the command lives
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are none the worse
                why = refusal(error)
                if why is None:
                    found.shut[name] = error
                else:
                    found.odd[name] = why
        yield found
    finally:
        for lock in locks:
            lock.close()


def _uuid(name: str) -> str:
    return name.removesuffix(_SUFFIX)


def _event(path: Path, lock: FileLock) -> str:
    """Lock the file of a dead command and give its event. Raises LockBusyError where the command lives."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise InvalidEventError("is no plain file")
    try:
        lock.acquire(0.0)
    except PermissionError:
        if not restore_mode(path):
            raise
        lock.acquire(0.0)
    alive_until = os.stat(path).st_mtime
    killed = _killed(read_bounded(path, follow=False).decode(), _uuid(path.name), alive_until)
    text = normalise(check_stored(killed))
    if len(text) > MOST_EVENT_BYTES:
        raise EventTooLargeError(f"{len(text)} bytes as ASCII, and {MOST_EVENT_BYTES} are the limit")
    return text


def _close(paths: Paths, queue: Queue, events: Mapping[str, str], lost: Mapping[str, str]) -> int:
    """Put events into the queue and count losses, each once; then remove the events' files. Gives how many were new."""
    if not events and not lost:
        return 0
    new = queue.close_spans(events, lost)
    for uuid in events:
        with suppress(OSError):  # it stays, and so does its uuid in the queue
            os.unlink(paths.span(uuid))
    return new


def _killed(data: str, uuid: str, alive_until: float) -> str:
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
