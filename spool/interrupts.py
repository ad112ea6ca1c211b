"""Signals wait while an append is under way; they are delivered right after it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["signals_held"]

# Those that people and supervisors send to end a command, and the one that raises from timers.
_HELD = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP") if hasattr(signal, name)
]


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT, SIGTERM, SIGHUP and SIGALRM back from this thread for the block.

    An exception raised by a handler inside diskcache's transaction would leave it open. With other threads
    about, CPython may still run a handler here (whichever thread got the signal): the queue then discards
    its connection, which rolls back.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows delivers no signal into the middle of this
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
