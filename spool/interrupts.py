"""Signals wait while an append is under way; they are delivered right after it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["signals_held"]

# Those that people and supervisors send to end a command, and the one that raises from timers.
_HELD = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP") if hasattr(signal, name)
]


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT, SIGTERM, SIGHUP and SIGALRM back for the block; what came is delivered at its end.

    An exception raised by a handler inside diskcache's transaction would leave it open. Handlers run in the
    main thread only, so another thread needs nothing. In the main thread the mask is enough as long as it
    is alone; another thread may take the signal from the system, and CPython would still run the handler
    here: then the handlers themselves are exchanged for one that takes a note.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
    elif threading.active_count() > 1 or not hasattr(signal, "pthread_sigmask"):
        yield from _with_notes()
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _with_notes() -> Iterator[None]:
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    # A default action ends the process, which no append minds; a handler of C's can't be put back.
    handlers = {number: signal.getsignal(number) for number in _HELD}
    exchanged = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in exchanged:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in exchanged.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
