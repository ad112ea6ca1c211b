"""One file lock with a deadline, the same as filelock's: either keeps the other out. The only module that imports it.

On POSIX filelock's lock is one `flock`, which is called here directly: filelock loads inspect, secrets and logging on
the way, 15 ms of every command (measured with 4.2). tests/libraries/test_lock.py holds the two against each other.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from spool.errors import LockBusyError, LockUnsupportedError
from spool.home.files import open_own

if sys.platform == "win32":
    from filelock import lock_descriptor, unlock_descriptor
else:
    import fcntl

    def lock_descriptor(descriptor: int, *, blocking: bool) -> bool:
        """Lock an open file; False if somebody else has it and `blocking` is not wanted."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # some network file systems say the second
            return False
        return True

    def unlock_descriptor(descriptor: int) -> None:
        """Let go of the lock of an open file."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)


__all__ = ["FileLock"]

# No system has a lock with a deadline, so it is asked for again and again. Whoever only sleeps in between is overtaken
# by those who come and find it free: with 16 writers on two cores, one capture in a hundred waited 50 ms. So one asks
# in bursts, leaving the processor to others after each attempt, and in longer ones the longer one has waited: 18 ms,
# and with 64 writers 98 ms instead of 195. Whoever holds it for long is not just appending: bursts end.
_FIRST_BURST_S = 0.0001
_LONGEST_BURST_S = 0.01
_BETWEEN_BURSTS_S = 0.001
_EAGER_S = 0.03
_PAUSE_S = 0.003
_yield = getattr(os, "sched_yield", lambda: time.sleep(0))

_live: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive lock on one file, held through one descriptor that stays open.

    The file is created 0600 and never deleted: a deleted lock file would give two holders. Should somebody
    else delete it, the next `acquire` notices and locks the new file. A dead process holds nothing. Not
    re-entrant and not for several threads at once: its owner sees to that. Without `create` a file that is
    not there raises FileNotFoundError. `guard` is called before the file is opened: it makes or refuses the
    folder.
    """

    def __init__(self, path: Path, *, create: bool = True, guard: Callable[[], object] | None = None) -> None:
        self.path = path
        self._guard = guard
        self._flags = os.O_RDWR | (os.O_CREAT if create else 0)
        self._descriptor: int | None = None
        self._opened: os.stat_result | None = None
        _live.add(self)

    def acquire(self, wait_s: float) -> None:
        """Hold the lock when this returns, after at most `wait_s` seconds.

        Raises LockBusyError at the deadline, LockUnsupportedError where the file system has no flock,
        UnsafePathError for a link or a foreign file, OSError where the machine refuses.
        """
        if self._try():
            return
        started = time.monotonic()
        deadline, eager_until, burst_s = started + wait_s, started + min(_EAGER_S, wait_s), _FIRST_BURST_S
        while (now := time.monotonic()) < deadline:
            if now < eager_until and self._try_until(min(now + burst_s, eager_until)):
                return
            time.sleep(max(0.0, min(_BETWEEN_BURSTS_S if now < eager_until else _PAUSE_S, deadline - time.monotonic())))
            burst_s = min(2 * burst_s, _LONGEST_BURST_S)
            if self._try():
                return
        raise LockBusyError(f"{self.path.name} was held by another process for {wait_s:g} s")

    def _try_until(self, end: float) -> bool:
        while time.monotonic() < end:
            _yield()
            if self._try():
                return True
        return False

    def _try(self) -> bool:
        if self._descriptor is None:
            if self._guard is not None:
                self._guard()
            self._descriptor = open_own(self.path, self._flags)
            self._opened = os.fstat(self._descriptor)
        try:
            if not lock_descriptor(self._descriptor, blocking=False):
                return False
        except OSError as error:
            self.forget()
            if error.errno in {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}:
                raise LockUnsupportedError(f"no file locks here ({error.strerror})") from error
            raise
        if self._is_current():
            return True
        self.forget()
        return False

    def _is_current(self) -> bool:
        """Tell whether the locked file still bears the name: else others lock another file."""
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return self._opened is not None and os.path.samestat(named, self._opened)

    def release(self) -> None:
        """Let the next one in. The descriptor stays open for the next time."""
        if self._descriptor is not None:
            unlock_descriptor(self._descriptor)

    def forget(self) -> None:
        """Close the descriptor: what this object held is free, unless a parent process holds it too."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    @contextmanager
    def held(self, wait_s: float) -> Iterator[None]:
        """Hold the lock for a block; raises as `acquire`."""
        self.acquire(wait_s)
        try:
            yield
        finally:
            self.release()

    def __del__(self) -> None:
        self.forget()


def _forget_in_child() -> None:
    """Give a forked child descriptors of its own: with the inherited ones it would share the lock."""
    for lock in list(_live):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
