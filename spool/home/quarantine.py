"""What can't be used goes to `quarantine/`: moved there whole, with its reason in a file beside it.

What is moved is never opened or followed: of a link the link itself goes, of a folder all that is in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spool.errors import UnavailableError, UnsafePathError
from spool.home.files import Kind, is_odd, oddity, private_folder, write_atomic, write_new
from spool.home.paths import Paths

__all__ = ["Quarantine", "write_state"]

# Some file systems take names of 143 bytes, and a mark and `.reason` are added. Every name of ours is shorter.
_LONGEST_NAME = 120


class Quarantine:
    """The quarantine of one home; it remembers what it took, and what it had to leave where it was.

    Two processes may use it at once. Nothing here raises for the machine, but `folder` and `move`.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self.taken: list[str] = []
        self.left: list[str] = []
        # Of what was taken, what is counted as a lost event: its name, the cause, the reason.
        self.lost: list[tuple[str, str, str]] = []

    def take(self, path: Path, reason: str) -> bool:
        """Move an entry here. True when its place is free; False where it can't be moved, so that it stays."""
        try:
            moved = os.path.lexists(path) and self.move(path, reason)
        except (OSError, UnsafePathError) as error:
            self.leave(path, f"{reason}; it can't be moved: {_said(error)}")
            return False
        if moved:
            self.taken.append(f"{self._name(path)} ({reason})")
        return True

    def leave(self, path: Path, reason: str) -> None:
        """Note that an entry stays where it is."""
        told = f"{self._name(path)} ({reason})"
        if told not in self.left:
            self.left.append(told)

    @contextmanager
    def going_on(self, path: Path) -> Iterator[None]:
        """Go on after a block that the machine, or what lies at a path, keeps from its end."""
        try:
            yield
        except (OSError, UnavailableError) as error:
            self.leave(path, _said(error))

    def clear(self, path: Path, kind: Kind) -> bool:
        """Take what is at a place of ours, unless it is a plain file or folder of ours, or nothing. As `take`."""
        try:
            odd = oddity(path, kind)
        except OSError:  # nothing there, mostly
            return True
        return odd is None or self.take(path, odd)

    def move(self, path: Path, reason: str, name: str | None = None) -> bool:
        """Move an entry here, under `name` if given; False if it is gone. Raises where it can't be moved."""
        folder = self.folder()
        name = name or f"{os.urandom(3).hex()}-{_cut(path.name)}"
        stem = name if name.endswith(".reason") else name.removesuffix(path.suffix)
        explanation = folder / f"{stem}.reason"
        with suppress(OSError):  # without space for the reason the entry goes all the same
            write_new(explanation, f"{reason}\nfrom {self._name(path)}\n".encode(errors="backslashreplace"))
        try:
            self._rename(path, folder / name)
        except OSError as error:
            with suppress(OSError):
                os.unlink(explanation)
            if isinstance(error, FileNotFoundError):
                return False
            raise
        return True

    def _rename(self, path: Path, target: Path) -> None:
        """Move an entry. A folder can be moved out of the one that it is in by those alone who may write into it.

        So one of ours that is shut is opened first. Another user's gets another name where it is, if its place is one
        of those directly below the spool, which are needed.
        """
        try:
            os.rename(path, target)
        except PermissionError:
            if not is_odd(path, "folder"):
                private_folder(path)
                os.rename(path, target)
            elif path.parent == self._paths.spool:
                os.rename(path, path.with_name(f"{target.parent.name}-{target.name}"))
            else:
                raise

    def folder(self) -> Path:
        """Give the folder, made if need be. What stands in its place is moved aside and into it."""
        folder = self._paths.quarantine
        private_folder(self._paths.spool)  # if that is not ours, nothing below it is touched
        try:
            private_folder(folder)
        except UnsafePathError as odd:
            beside = folder.with_name(f"{folder.name}-{os.urandom(3).hex()}")
            os.rename(folder, beside)
            private_folder(folder)
            self.taken.append(f"{folder.name} ({odd})")
            with suppress(OSError):  # where it can't be moved in, it stays beside it
                self.move(beside, str(odd))
        return folder

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self._paths.spool)


def write_state(paths: Paths, path: Path, data: bytes, *, durable: bool = False) -> None:
    """Replace a state file of the spool in one step. What is no plain file in its place goes to quarantine.

    Raises OSError or UnsafePathError where it can't be written.
    """
    private_folder(paths.spool)
    Quarantine(paths).clear(path, "file")
    write_atomic(path, data, durable=durable)


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _cut(name: str) -> str:
    """Give as much of a name as fits, by its bytes, without cutting a character."""
    while len(os.fsencode(name)) > _LONGEST_NAME:
        name = name[:-1]
    return name
