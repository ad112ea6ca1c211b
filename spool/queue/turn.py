"""Whose turn it is at the queue: one thread of one process at a time, with signals held back."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from spool.errors import LockBusyError
from spool.queue.disk import in_our_words
from spool.queue.interrupts import signals_held
from spool.queue.lock import FileLock

__all__ = ["Turn"]


class Turn:
    """The queue's lock between processes, and one between the threads of this one."""

    def __init__(self, lock: FileLock) -> None:
        self.lock = lock
        self.renew()

    def renew(self) -> None:
        """Begin afresh, in a forked child: whoever had the turn is not there."""
        # It knows its owner by itself: a note of ours could be cut off by a signal handler that raises.
        self._threads = threading.RLock()

    @property
    def is_ours(self) -> bool:
        """Whether this very thread has it: a signal handler or a destructor has interrupted its append."""
        return self._threads._is_owned()  # type: ignore[attr-defined,no-any-return]  # noqa: SLF001 - as `Condition` asks it

    def taken(self, wait_s: float) -> _Taken:
        """Give a block that has the turn, and that knows the moment (of `time.monotonic`) until which it may wait.

        Raises LockBusyError after `wait_s`; at once where this thread has the turn already, for the append that was
        interrupted could not go on. UnavailableError where the machine has no lock to give.
        """
        return _Taken(self, wait_s)

    def take(self, wait_s: float) -> None:
        """Keep the other threads out, then the other processes; raises as `taken`."""
        deadline = time.monotonic() + wait_s
        if not self.keep_threads_out(wait_s):
            raise LockBusyError(f"another thread held the queue for {wait_s:g} s")
        try:
            self.lock_processes_out(max(0.0, deadline - time.monotonic()))
        except BaseException:
            self._threads.release()
            raise

    def leave(self) -> None:
        """Let the next one in."""
        try:
            self.lock.release()
        finally:
            self._threads.release()

    def keep_threads_out(self, wait_s: float) -> bool:
        """Take half of the turn; False if another thread has it for longer than `wait_s`."""
        return self._threads.acquire(timeout=wait_s)

    def let_threads_in(self) -> None:
        """Give that half back."""
        self._threads.release()

    def lock_processes_out(self, wait_s: float) -> None:
        """Take the other half, the lock file; `lock.release` gives it back. Raises as `taken`."""
        try:
            self.lock.acquire(wait_s)
        except OSError as error:
            raise in_our_words(error) from error


class _Taken:
    """A block with the turn. A class, for every capture has one, and a generator's block costs 2 us more.

    A handler of a signal that is not held may raise between any two steps, also in `__exit__` before its first one.
    What is left then is given back when the block is forgotten, as that of a generator would be: else nobody on this
    machine could write to the queue again while this process lives.
    """

    _left = True

    def __init__(self, turn: Turn, wait_s: float) -> None:
        self._turn = turn
        self._wait_s = wait_s
        self._signals = signals_held()

    def __enter__(self) -> float:
        if self._turn.is_ours:
            raise LockBusyError("an append of this thread is under way")
        deadline = time.monotonic() + self._wait_s
        self._left = False
        self._signals.__enter__()
        try:
            self._turn.take(self._wait_s)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return deadline

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        try:
            if self._turn.is_ours:
                self._turn.leave()
            self._left = True
        finally:
            self._signals.__exit__(None, None, None)

    def __del__(self) -> None:
        if not self._left and self._turn.is_ours:
            self._turn.leave()
