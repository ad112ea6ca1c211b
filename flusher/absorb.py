"""Take the files aside into the queue, each once, also when killed in the middle.

A flusher knows a host's catalogue only by its name in destination.json, and checks against the catalogues that come
with this package. It imports no module of a host: otherwise whoever can write below the home could run code.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flusher.delivery.gather import batches
from spool.beside import aside, loss_notes
from spool.beside.entry import read_entry, refusal
from spool.consent import first_run
from spool.errors import EventTooLargeError, InvalidEventError, SpoolError
from spool.event import check_stored, normalise
from spool.home import Paths, Quarantine, is_plain, private_folder
from spool.queue import CHUNK, REFUSED, Queue
from spool.settings import MOST_EVENT_BYTES

__all__ = ["absorb"]

# What one transaction of the absorbing, and the memory of one process, should take.
_CHUNK_BYTES = 8 * 1024 * 1024


class Taken(NamedTuple):
    """How many events entered the queue, and how many became dead letters."""

    events: int
    rejected: int


def absorb(
    paths: Paths,
    queue: Queue,
    install_id: str | None = None,
    catalogue: str | None = None,
    quarantine: Quarantine | None = None,
) -> Taken:
    """Absorb every finished file; give how many events that were.

    The names go into the queue with the events, in one transaction; then the files are removed. After a kill in
    between, the next run finds the names and first removes those files. A file that is no event moves to quarantine
    with its reason, and is counted as lost by `invalid` or `too_large`; one that can't be read now stays. A sound event
    that the catalogue of this name doesn't allow becomes a dead letter. Notes of losses are counted in the same way.
    What can't be removed stays, and so does its name in the queue: it is counted once all the same.
    """
    quarantine = quarantine or Quarantine(paths)
    if not os.path.lexists(paths.aside) or not quarantine.clear(paths.aside, "folder"):
        return Taken(0, 0)
    private_folder(paths.aside)
    first_run.complete(paths, install_id)
    work = _Absorbing(paths, queue, quarantine, catalogue)
    work.clear_away(queue.absorbed_names(), {})
    queue.forget_absorbed(work.kept)
    total = rejected = 0
    for chunk in batches(_sized(aside.files(paths)), lambda file: file[1], CHUNK, _CHUNK_BYTES):
        taken = work.events(path for path, _size in chunk)
        total, rejected = total + taken.events, rejected + taken.rejected
    for notes in batches(loss_notes.notes(paths), lambda _note: 0, CHUNK):
        work.notes(notes)
    queue.forget_absorbed(work.kept)
    return Taken(total, rejected)


def _sized(files: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Give each file with its size; one that is gone is left out."""
    for path in files:
        with contextlib.suppress(OSError):
            yield path, os.lstat(path).st_size


@dataclass(slots=True)
class _Absorbing:
    """One pass over the folder. `kept` are names that the queue must remember, for their files could not be removed."""

    paths: Paths
    queue: Queue
    quarantine: Quarantine
    catalogue: str | None
    kept: set[str] = field(default_factory=set)

    def events(self, files: Iterable[Path]) -> Taken:
        """Take these files, in one transaction, and remove them."""
        events: dict[str, str] = {}
        rejected: dict[str, tuple[str, str]] = {}
        refused: dict[str, SpoolError] = {}
        for path in files:
            if {path.name, REFUSED + path.name} & self.kept:
                continue
            try:
                text, found = _event_of(path, self.catalogue)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are none the worse
                why = refusal(error)
                if why is not None:
                    refused[path.name] = why
                elif not isinstance(error, FileNotFoundError):
                    self.quarantine.leave(path, f"it can't be read now: {error}")
                continue
            if found:
                rejected[path.name] = text, f"not in the catalogue: {found}"
            else:
                events[path.name] = text
        causes = {name: why.cause for name, why in refused.items()}
        new = self.queue.absorb(events, causes, rejected, self.kept)
        self.quarantine.lost += [(name, why.cause, str(why)) for name, why in refused.items()]
        self.clear_away([*events, *rejected, *(REFUSED + name for name in refused)], refused)
        return Taken(new, len(rejected))

    def notes(self, notes: Iterable[Path]) -> None:
        """Claim each of these notes first, so that its process starts another, then count it once."""
        losses: dict[str, loss_notes.Note] = {}
        for path in notes:
            if path.name in self.kept:
                continue
            if not is_plain(path):
                self.quarantine.take(path, "is no plain file")
                continue
            claimed = path if path.name.endswith(loss_notes.CLAIMED) else path.with_name(path.name + loss_notes.CLAIMED)
            try:
                os.rename(path, claimed)
            except FileNotFoundError:  # renamed by its process meanwhile: next time
                continue
            except OSError as error:
                self.quarantine.leave(path, str(error.strerror))
                continue
            note = loss_notes.parse(claimed.name)
            if note is not None:
                losses[claimed.name] = note
        if losses:
            self.queue.absorb_losses(losses, self.kept)
            self.clear_away(losses, {})

    def clear_away(self, names: Iterable[str], reasons: Mapping[str, SpoolError]) -> None:
        """Remove the files whose names are in the queue, and set aside those that are in it as refused."""
        for name in names:
            path = self.paths.aside / name
            if name.startswith(REFUSED) and not os.path.lexists(path):
                refused = name.removeprefix(REFUSED)
                reason = str(reasons.get(refused, "refused by an earlier run"))
                gone = self.quarantine.take(self.paths.aside / refused, reason)
            else:
                gone = self._remove(path)
            if not gone:
                self.kept.add(name)

    def _remove(self, path: Path) -> bool:
        try:
            os.unlink(path)
        except FileNotFoundError:  # a host that has too many may have made a note of its loss of it: it is not lost
            with contextlib.suppress(OSError):
                os.unlink(path.with_name(loss_notes.name_in_place_of(path.name)))
            return True
        except OSError as error:
            return self.quarantine.take(path, f"is in the queue, and can't be removed: {error.strerror}")
        return True


def _event_of(path: Path, catalogue: str | None) -> tuple[str, str]:
    """Give an event's text as the queue needs it, and what is wrong with it by the catalogue, if anything."""
    message = check_stored(read_entry(path, MOST_EVENT_BYTES).decode())
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
