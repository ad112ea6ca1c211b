"""Signals wait while an append is under way; they are delivered right after it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType, MappingProxyType
from typing import Any

# The function below `signal.pthread_sigmask`, where there is one: that makes enumerations of each number, and a capture
# calls it three times (measured: 6 us instead of 20).
try:
    from _signal import pthread_sigmask as _sigmask  # type: ignore[import-not-found]  # has no stub
except ImportError:
    _sigmask = getattr(signal, "pthread_sigmask", None)

__all__ = ["signals_held"]

# Those that people and supervisors send to end a command, and the one that raises from timers.
_HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP") if hasattr(signal, name)]


def signals_held() -> AbstractContextManager[None]:
    """Hold SIGINT, SIGTERM, SIGHUP and SIGALRM back for the block; what came is delivered at its end.

    An exception raised by a handler inside a transaction would leave it open. Handlers run in the main thread only,
    so another thread needs nothing. In the main thread the mask is enough as long as it is alone; another thread may
    take the signal from the system, and CPython would still run the handler here: then the handlers themselves are
    exchanged for one that takes a note. A block within a block costs nothing.
    """
    if _Held.now or threading.get_ident() != threading.main_thread().ident:
        return _NOTHING
    if threading.active_count() > 1 or _sigmask is None:
        return _with_notes()
    return _Masked(_sigmask)


class _Held:
    """Whether a block is under way, and whose: there is one main thread, and one mask."""

    now = False
    # The main thread that began it, and the handlers that it has exchanged.
    by: int | None = None
    exchanged: Mapping[int, Callable[..., object]] = MappingProxyType({})


class _Masked:
    """The block of a process with one thread. A class, for a generator's block costs 3 us more.

    Where a handler that is not held raises before the first step of `__exit__`, the mask goes back when the block is
    forgotten: else Ctrl-C would be dead for good.
    """

    _left = True

    def __init__(self, mask: Callable[..., Any]) -> None:
        self._mask = mask

    def __enter__(self) -> None:
        # The mask is read first: the call that sets it may run a handler that raises, after it has set it.
        self._before = self._mask(signal.SIG_BLOCK, ())
        self._left = False
        try:
            self._mask(signal.SIG_BLOCK, _HELD)
        except BaseException:
            self._left = True
            self._mask(signal.SIG_SETMASK, self._before)
            raise
        _Held.now = True

    def __exit__(self, *_: object) -> None:
        _Held.now = False
        self._left = True
        self._mask(signal.SIG_SETMASK, self._before)

    def __del__(self) -> None:
        if not self._left:
            self.__exit__()


_NOTHING = nullcontext()


@contextmanager
def _with_notes() -> Iterator[None]:
    came: list[tuple[int, FrameType | None]] = []
    exchanged: dict[int, Callable[..., object]] = {}
    _Held.by, _Held.exchanged = threading.get_ident(), exchanged
    _Held.now = True

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
            _Held.now = False
            _deliver(came, exchanged)


def _end_in_child() -> None:
    """End the block in a child that another thread forked: the one that would have ended it is not there."""
    if _Held.now and _Held.by != threading.get_ident():
        _Held.now = False
        _put_back(_Held.exchanged)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_in_child)


def _put_back(handlers: Mapping[int, Callable[..., object]]) -> None:
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
