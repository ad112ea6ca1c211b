"""Take the files aside into the queue, each once, also when killed in the middle.

A flusher knows a host's catalogue only by its name in destination.json, and checks against the catalogues that come
with this package. It imports no module of a host: otherwise whoever can write below the home could run code.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flusher.delivery.gather import batches
from spool.beside import aside, loss_notes
from spool.consent import first_run
from spool.errors import EventTooLargeError, InvalidEventError, SpoolError
from spool.event import check_stored, normalise
from spool.home import Paths, private_folder, read_bounded, write_new
from spool.queue import CHUNK, REFUSED, Queue
from spool.settings import MOST_EVENT_BYTES

__all__ = ["absorb"]

# Errors that the next run would meet again: a folder, a link, a file larger than any event.
_NEVER = {errno.EISDIR, errno.ELOOP, errno.EFBIG, errno.ENXIO}
_STALE_S = 24 * 3600.0
# What one transaction of the absorbing, and the memory of one process, should take.
_CHUNK_BYTES = 8 * 1024 * 1024


class Taken(NamedTuple):
    """How many events entered the queue, and how many became dead letters."""

    events: int
    rejected: int


def absorb(paths: Paths, queue: Queue, install_id: str | None = None, catalogue: str | None = None) -> Taken:
    """Absorb every finished file; give how many events that were.

    The names go into the queue with the events, in one transaction; then the files are removed. After a kill in
    between, the next run finds the names and first removes those files. A file that is no event moves to quarantine
    with its reason, and is counted as lost by `invalid` or `too_large`; one that can't be read now stays. A sound event
    that the catalogue of this name doesn't allow becomes a dead letter. Notes of losses are counted in the same way. A
    folder that isn't ours is left alone: UnsafePathError.
    """
    if not os.path.lexists(paths.aside):
        return Taken(0, 0)
    private_folder(paths.aside)
    first_run.complete(paths, install_id)
    for name in queue.absorbed_names():
        if name.startswith(REFUSED):
            _quarantine(paths, paths.aside / name.removeprefix(REFUSED), "refused by a run that was killed")
        else:
            _remove(paths.aside / name)
    queue.forget_absorbed()
    total = rejected = 0
    for chunk in batches(_sized(aside.files(paths)), lambda file: file[1], CHUNK, _CHUNK_BYTES):
        taken = _absorb_chunk(paths, queue, [path for path, _size in chunk], catalogue)
        total, rejected = total + taken.events, rejected + taken.rejected
    _absorb_notes(paths, queue)
    queue.forget_absorbed()
    _sweep(paths)
    return Taken(total, rejected)


def _sized(files: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Give each file with its size; one that is gone is left out."""
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            yield path, os.lstat(path).st_size


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _sweep(paths: Paths) -> None:
    """Delete drafts that are older than a day: their writers were killed before they acknowledged the event."""
    for entry in os.scandir(paths.aside):
        age_s = abs(time.time() - entry.stat(follow_symlinks=False).st_mtime)  # a clock may have been set back
        if entry.name[0] == "." and age_s > _STALE_S:
            _remove(Path(entry.path))


def _absorb_notes(paths: Paths, queue: Queue) -> None:
    """Claim each note first, so that its process starts another, then count it once."""
    claimed = []
    for path in loss_notes.notes(paths):
        target = path if path.name.endswith(loss_notes.CLAIMED) else path.with_name(path.name + loss_notes.CLAIMED)
        with contextlib.suppress(FileNotFoundError):  # renamed by its process meanwhile: next time
            os.rename(path, target)
            claimed.append(target)
    if claimed:
        queue.absorb_losses({path.name: note for path in claimed if (note := loss_notes.parse(path.name))})
    for path in claimed:
        os.unlink(path)


def _absorb_chunk(paths: Paths, queue: Queue, chunk: list[Path], catalogue: str | None) -> Taken:
    events: dict[str, str] = {}
    rejected: dict[str, tuple[str, str]] = {}
    refused: dict[str, SpoolError] = {}
    for path in chunk:
        try:
            text, found = _event_of(path, catalogue)
            if found:
                rejected[path.name] = text, f"not in the catalogue: {found}"
            else:
                events[path.name] = text
        except SpoolError as error:
            refused[path.name] = error
        except ValueError as error:
            refused[path.name] = InvalidEventError(str(error))
        except OSError as error:
            if error.errno in _NEVER:
                kind = EventTooLargeError if error.errno == errno.EFBIG else InvalidEventError
                refused[path.name] = kind(f"no event's file: {error.strerror}")
    new = queue.absorb(events, {name: refusal.cause for name, refusal in refused.items()}, rejected)
    for name, refusal in refused.items():
        _quarantine(paths, paths.aside / name, str(refusal))
    for name in (*events, *rejected):
        _remove(paths.aside / name)
    return Taken(new, len(rejected))


def _event_of(path: Path, catalogue: str | None) -> tuple[str, str]:
    """Give an event's text as the queue needs it, and what is wrong with it by the catalogue, if anything."""
    message = check_stored(read_bounded(path, MOST_EVENT_BYTES, follow=False).decode())
    text = normalise(message)
    if len(text) > MOST_EVENT_BYTES:
        raise EventTooLargeError(f"{len(text)} bytes as ASCII, and {MOST_EVENT_BYTES} are the limit")
    return text, _complaint(catalogue, message)


def _complaint(catalogue: str | None, message: Mapping[str, Any]) -> str:
    """Say what is wrong with a sound event by the catalogue of this name; empty if nothing, or if it is not known."""
    if catalogue != "ktx":
        return ""
    from spool.ktx_events import CATALOGUE  # noqa: PLC0415 - its classes, only where there are files aside

    # No catalogue has the envelope's fields, and none of its own begins with these prefixes.
    fields = {name: value for name, value in message["properties"].items() if not name.startswith(("$", "spool_"))}
    try:
        CATALOGUE.check_complete(message["event"], fields)
    except InvalidEventError as error:
        return str(error)
    return ""


def _quarantine(paths: Paths, path: Path, reason: str) -> None:
    private_folder(paths.quarantine)
    target = paths.quarantine / f"{os.urandom(3).hex()}-{path.name}"
    with contextlib.suppress(FileNotFoundError):
        write_new(target.with_suffix(".reason"), f"{reason}\n".encode())
        os.replace(path, target)
