"""Losses that could not be written into the queue when they happened: noted beside it for the flusher.

A note is an empty file whose name holds everything, `aside/<time>-<random>.<cause>.<count>.lost`: it needs no block, so
it can mostly be made on a full disk too. A further loss of the same process renames it. The flusher claims a note by
renaming it first; a process whose note was claimed starts another.
"""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from spool.beside.places import make_way
from spool.errors import UnsafePathError
from spool.home import Paths, listed, private_folder, write_new

__all__ = ["CLAIMED", "LossNotes", "Note", "name_in_place_of", "notes", "parse"]

CLAIMED = ".claimed"
# A stem of ours has 29 characters; with a longer one the name might have no room for `.claimed`.
_TOO_MANY = "over_count"
_NAME = r"[0-9a-f-]{1,60}\.([a-z_]{1,40})\.([0-9]{1,9})\.lost(\.claimed)?"


class Note(NamedTuple):
    """What the name of a note says."""

    cause: str
    losses: int


def parse(name: str) -> Note | None:
    """Read a note's name; None for any other file."""
    match = re.fullmatch(_NAME, name)
    return Note(match[1], int(match[2])) if match else None


def notes(paths: Paths) -> list[Path]:
    """Give the notes, claimed or not; an empty list where there is no such folder."""
    return [paths.aside / name for name in listed(paths.aside) if parse(name)]


def name_in_place_of(event: str) -> str:
    """Give the name of the note that `replace` makes of the file of an event, by the name of that."""
    from hashlib import sha256  # noqa: PLC0415 - only where the oldest events go

    return f"{sha256(os.fsencode(event)).hexdigest()[:29]}.{_TOO_MANY}.1.lost"


class LossNotes:
    """The losses of this process that are in no ledger yet. Once a loss is in memory, nothing raises."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._begin()

    def _begin(self) -> None:
        # The causes of those that are in no note, one for each. A destructor of the host's may lose an event while
        # this thread notes another: it adds one here, and no more.
        self.unnoted: list[str] = []
        self._noted: dict[str, tuple[str, int]] = {}
        self._threads = threading.RLock()
        self._noting = False
        self._pid = os.getpid()

    def add(self, cause: str) -> None:
        """Note one loss; where not even an empty file can be made, remember it until one can."""
        self._leave_to_parent()
        self.unnoted.append(cause)
        with suppress(MemoryError, RecursionError):
            self._note_all()

    def _leave_to_parent(self) -> None:
        """Begin afresh in a forked child: what the parent remembers is the parent's to note."""
        if self._pid != os.getpid():
            self._begin()

    def replace(self, event: Path) -> None:
        """Rename an event's file to the note of its loss: in one step, so it is either the one or the other.

        Whoever has absorbed the event meanwhile knows the note by its name, and deletes it.
        """
        with suppress(OSError):  # absorbed meanwhile, or it can't be renamed: then it is not lost either
            os.rename(event, event.with_name(name_in_place_of(event.name)))

    def retry(self) -> None:
        """Note what could not be noted before."""
        self._leave_to_parent()
        if self.unnoted:
            self._note_all()

    def _note_all(self) -> None:
        with self._threads:
            if self._noting:
                return
            self._noting = True
            try:
                while self.unnoted:
                    cause = self.unnoted[0]
                    count = self.unnoted.count(cause)
                    self._note(cause, count)
                    for _ in range(count):
                        self.unnoted.remove(cause)
            except Exception:  # noqa: BLE001 - no space, descriptor, memory or stack
                return  # they stay in memory; the next capture or the end of the process tries again
            finally:
                self._noting = False

    def _note(self, cause: str, count: int) -> None:
        stem, noted = self._noted.get(cause, ("", 0))
        if stem:
            try:
                os.rename(self._path(stem, cause, noted), self._path(stem, cause, noted + count))
                self._noted[cause] = (stem, noted + count)
                return
            except FileNotFoundError:
                pass  # claimed by a flusher: those are in the ledger, these begin a new note
        stem = _stem()
        private_folder(self._paths.spool)
        try:
            private_folder(self._paths.aside)
        except UnsafePathError:
            make_way(self._paths)
            private_folder(self._paths.aside)
        write_new(self._path(stem, cause, count), b"")
        self._noted[cause] = (stem, count)

    def _path(self, stem: str, cause: str, count: int) -> Path:
        return self._paths.aside / f"{stem}.{cause}.{count}.lost"


def _stem() -> str:
    return f"{time.time_ns():020d}-{os.urandom(4).hex()}"
