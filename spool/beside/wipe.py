"""Opting out deletes everything that waits, and every record of it; counted, so that the account adds up.

What stays below `spool/` holds no event: the new, empty queue with the counters, the locks, where to deliver, when a
flusher was started and when it may try next, the reserve, and which opt-out was carried out. Anything else goes,
whatever its name.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from spool.beside import aside, loss_notes
from spool.consent.opt_out import is_wiped, mark_wiped
from spool.errors import SpoolError
from spool.home import Paths, Quarantine, Signature, listed, open_own, private_folder, read_bounded, write_atomic

__all__ = ["Wiped", "wipe", "wipe_once"]

_KEPT = {"queue", "destination.json", "flush.json", "launched", "reserve", "wiped"}
_LOCK = ".lock"


class Wiped(NamedTuple):
    """How many events went, each counted as `opted_out`; and why something is left, "" where nothing is."""

    events: int = 0
    left: str = ""


def wipe(paths: Paths, decided: Signature | None, wait_s: float = 1.0) -> Wiped:
    """Delete what waits, for the opt-out of this `telemetry.json`. The counters stay.

    Where the queue can't be had, everything beside it goes all the same: files that count an event are emptied, and the
    next run counts and deletes them with the rest. A spool that is a link or another user's is left alone:
    UnsafePathError. Raises OSError where the machine refuses.
    """
    if not os.path.isdir(paths.spool):
        return Wiped()
    private_folder(paths.spool)
    left: list[str] = []
    try:
        gone = _wipe_queue(paths, left, wait_s)
    except (SpoolError, ImportError) as refusal:
        _delete_around(paths)
        return Wiped(left=str(refusal))
    if left:
        return Wiped(gone, f"{left[0]} can't be deleted")
    mark_wiped(paths, decided)
    return Wiped(gone)


def wipe_once(paths: Paths, decided: Signature | None, wait_s: float = 1.0) -> None:
    """Delete what waits, once for each decision: later runs only check that it was done. Never raises for the machine.

    What can't be deleted now is deleted at the next run.
    """
    with suppress(OSError, SpoolError):
        if not is_wiped(paths, decided):
            wipe(paths, decided, wait_s)


def _wipe_queue(paths: Paths, left: list[str], wait_s: float) -> int:
    """Count and delete all of it in one turn at the queue, in which nobody absorbs or adds anything."""
    from spool.queue import Beside, Queue  # noqa: PLC0415 - sqlite3, only when there is something to delete

    def beside() -> Beside:
        events = [path.name for path in aside.files(paths)]
        names = set(listed(paths.aside)).difference(map(loss_notes.name_in_place_of, events))  # each is counted once
        notes = {name: note for name in names if (note := loss_notes.parse(name))}
        return Beside(events, [path.stem for path in _entries(paths.spans) if _is_command(path)], notes)

    def delete() -> None:
        for path in _entries(paths.spool):
            if path.name not in _KEPT and path.suffix != _LOCK:
                left.extend(_delete(path))
        _forget_words(paths)

    quarantine = Quarantine(paths)
    quarantine.clear(paths.queue_lock, "file")  # no flusher makes way while telemetry is off
    quarantine.clear(paths.aside, "folder")
    quarantine.clear(paths.spans, "folder")
    queue = Queue(paths, wait_s=wait_s)
    try:
        return queue.wipe(beside, delete)
    finally:
        queue.close()


def _is_command(path: Path) -> bool:
    return path.suffix == ".json" and path.name[0] != "."


def _entries(folder: Path) -> list[Path]:
    return [folder / name for name in listed(folder)]


def _delete(path: Path) -> Iterator[str]:
    """Delete a file, a folder or a link, never what it leads to; give the path if it is there afterwards."""
    import shutil  # noqa: PLC0415 - it loads every compressor, for what is done once

    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # already renamed by its process; if it is still there, the caller is told
            os.unlink(path)
    if os.path.lexists(path):
        yield str(path)


def _delete_around(paths: Paths) -> None:
    """Delete what can be deleted without the queue, and take the text out of the files that stand for an event."""
    for path in _entries(paths.spool):
        if path in (paths.aside, paths.spans) and not os.path.islink(path):
            for entry in _entries(path):
                if _is_command(entry):
                    _empty(entry)
                elif loss_notes.parse(entry.name) is None:
                    list(_delete(entry))
        elif path.name not in _KEPT and path.suffix != _LOCK and not path.name.startswith(paths.queue.name):
            list(_delete(path))
    _forget_words(paths)


def _forget_words(paths: Paths) -> None:
    """Keep of the last run its times alone: a server may have quoted an event in its refusal."""
    with suppress(OSError, ValueError, RecursionError):
        state = json.loads(read_bounded(paths.flush_state, follow=False))
        if isinstance(state, dict) and state.get("reason"):
            write_atomic(paths.flush_state, json.dumps({**state, "reason": ""}, indent=2).encode() + b"\n")
            return
        if isinstance(state, dict):
            return
    with suppress(OSError):  # there is none, or nothing in it reads
        os.unlink(paths.flush_state)


def _empty(path: Path) -> None:
    with suppress(OSError, SpoolError):  # no plain file of ours: nobody reads it, and the next run deletes it
        if stat.S_ISREG(os.lstat(path).st_mode):
            os.close(open_own(path, os.O_WRONLY | os.O_TRUNC))
