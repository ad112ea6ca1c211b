"""Signals wait while an append is under way; they are delivered right after it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# The function below `signal.pthread_sigmask`, where there is one: that makes enumerations of each number, and a capture
# calls it three times (measured: 6 us instead of 20).
try:
    from _signal import pthread_sigmask as _sigmask  # type: ignore[import-not-found]  # has no stub
except ImportError:
    _sigmask = getattr(signal, "pthread_sigmask", None)

__all__ = ["signals_held"]

# Those that people and supervisors send to end a command, and the one that raises from timers.
_HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP") if hasattr(signal, name)]


_held = False


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT, SIGTERM, SIGHUP and SIGALRM back for the block; what came is delivered at its end.

    An exception raised by a handler inside diskcache's transaction would leave it open. Handlers run in the
    main thread only, so another thread needs nothing. In the main thread the mask is enough as long as it
    is alone; another thread may take the signal from the system, and CPython would still run the handler
    here: then the handlers themselves are exchanged for one that takes a note. A block within a block
    costs nothing.
    """
    global _held  # noqa: PLW0603 - one main thread, one mask
    if _held or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        _held = True
        yield from _hold()
    finally:
        _held = False


def _hold() -> Iterator[None]:
    if threading.active_count() > 1 or _sigmask is None:
        yield from _with_notes()
    else:
        # The mask is read first: the call that sets it may run a handler that raises, after it has set it.
        before = _sigmask(signal.SIG_BLOCK, ())
        try:
            _sigmask(signal.SIG_BLOCK, _HELD)
            yield
        finally:
            _sigmask(signal.SIG_SETMASK, before)


def _with_notes() -> Iterator[None]:
    came: list[tuple[int, FrameType | None]] = []
    exchanged: dict[int, Callable[..., object]] = {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    try:
        for number in _HELD:
            handler = signal.getsignal(number)
            # A default action ends the process, which no append minds; a handler of C's can't be put back.
            if callable(handler):
                exchanged[number] = handler
                signal.signal(number, note)
        yield
    finally:
        try:
            _put_back(exchanged)
        except BaseException:
            _put_back(exchanged)  # one that was back already raised: the others go back all the same
            raise
        finally:
            _deliver(came, exchanged)


def _put_back(handlers: dict[int, Callable[..., object]]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _deliver(came: list[tuple[int, FrameType | None]], handlers: dict[int, Callable[..., object]]) -> None:
    """Call the handler of each signal that was noted, also when that of one before it raises.

    Not by raising the signal again: whoever listens on the wakeup descriptor (asyncio) heard of it when it came.
    """
    if came:
        number, frame = came.pop(0)
        try:
            handlers[number](number, frame)
        finally:
            _deliver(came, handlers)
