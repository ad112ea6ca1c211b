"""A file lock with a deadline, by filelock. The only module that imports it; every lock of ours is one of these.

`filelock.lock_descriptor` takes the lock on a descriptor that stays open: one system call for each append. Its
`FileLock` would open and close the file each time, and polls at 50 ms.
"""

from __future__ import annotations

import errno
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

from spool.errors import LockBusyError, LockUnsupportedError
from spool.home import Descriptor, open_found, open_own, private_folder

__all__ = ["FileLock"]

# No system has a file lock with a deadline, so it is tried again and again. An append holds it for 0.2 ms.
_PAUSE_S = 0.001
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}

_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive lock on one file.

    The file is created 0600, in a private folder, and never deleted: a deleted lock file would give two holders.
    If somebody else deletes it, the next `acquire` notices and locks the new file. A dead process holds nothing. If
    the host closes the descriptor, the lock is not held any more; what has its number since is left alone.
    Neither re-entrant nor thread-safe: its owner takes care of that. Without `create` a missing file raises
    FileNotFoundError, and a plain one that is there is taken as it is.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self._create = create
        self._descriptor: Descriptor | None = None
        _open_locks.add(self)

    @property
    def is_open(self) -> bool:
        """Whether the descriptor is open, held or not."""
        return self._descriptor is not None and self._descriptor.is_ours()

    def acquire(self, wait_s: float) -> None:
        """Hold the lock when this returns, after at most `wait_s` seconds.

        Raises LockBusyError at the deadline, LockUnsupportedError where the file system has no locks,
        UnsafePathError for a link or a foreign file, OSError where the machine refuses.
        """
        deadline = time.monotonic() + wait_s
        # The number of tries is bounded as well: a host's test may have stopped the clock.
        for _ in range(1 + round(wait_s / _PAUSE_S)):
            if self._try():
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_PAUSE_S)
        self.close()  # whoever gave up may be forgotten, and a descriptor with it
        raise LockBusyError(f"{self.path.name} was held by another process for {wait_s:.2g} s")

    def _try(self) -> bool:
        if not self.is_open:
            self._open()
        assert self._descriptor is not None  # noqa: S101 - opened one line above
        try:
            if not lock_descriptor(self._descriptor.number, blocking=False):
                return False
        except OSError as error:
            self.close()
            if error.errno in _UNSUPPORTED:
                raise LockUnsupportedError(f"no file locks here ({error.strerror})") from error
            raise
        if self._is_current():
            return True
        self.close()
        return False

    def _open(self) -> None:
        if self._create:
            private_folder(self.path.parent)
            self._descriptor = Descriptor(open_own(self.path, os.O_RDWR | os.O_CREAT))
        else:
            self._descriptor = Descriptor(open_found(self.path, os.O_RDWR))

    def _is_current(self) -> bool:
        """Tell whether the locked file still has the name: otherwise other processes lock another file."""
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return self._descriptor is not None and os.path.samestat(named, self._descriptor.opened)

    def release(self) -> None:
        """Give the lock back. The descriptor stays open for the next time."""
        if self.is_open and self._descriptor is not None:
            unlock_descriptor(self._descriptor.number)

    def close(self) -> None:
        """Close the descriptor, which gives the lock back, unless a parent process holds it too."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            descriptor.close()

    @contextmanager
    def held(self, wait_s: float) -> Iterator[None]:
        """Hold the lock for a block and close it afterwards; raises as `acquire`."""
        try:
            self.acquire(wait_s)
            yield
        finally:
            self.close()


def _close_in_child() -> None:
    """Give a forked child descriptors of its own: with the inherited ones it would share the lock."""
    for lock in list(_open_locks):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
