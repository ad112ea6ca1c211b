"""Signals wait while an event is put on disk, and are delivered right after it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType, MappingProxyType

__all__ = ["raised_by_handler", "signals_held"]

Handlers = Mapping[int, Callable[..., object]]

# All but those that tell of a fault in the program itself, and the two that nobody can hold back.
_FAULTS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS", "SIGKILL", "SIGSTOP"}
_HELD = [number for number in signal.Signals if number.name.startswith("SIG") and number.name not in _FAULTS]


class _Block:
    """Whether a block is under way, and in which thread. Only the main thread enters one, so there is one at a time."""

    active = False
    thread: int | None = None
    exchanged: Handlers = MappingProxyType({})


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold signals back for the block; those that came are delivered at its end. A nested block does nothing.

    An exception that a handler raises inside a transaction would leave it open. Handlers run in the main thread only,
    so other threads need nothing. A mask is enough while the main thread is the only one. Otherwise another thread may
    receive the signal, and CPython would still run the handler in the main thread: then each handler is replaced by one
    that only notes the signal.
    """
    if _Block.active or threading.get_ident() != threading.main_thread().ident:
        yield
        return
    alone = threading.active_count() == 1 and sys.platform != "win32"
    _Block.active, _Block.thread = True, threading.get_ident()
    try:
        with _masked() if alone else _noted():
            yield
    finally:
        _Block.active = False


@contextmanager
def _masked() -> Iterator[None]:
    if sys.platform == "win32":  # there is no mask on Windows, and nobody asks for one
        yield
        return
    # The mask is read first: the call that sets it may run a handler that raises, after it has set it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        yield
    finally:
        _Block.active = False
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _noted() -> Iterator[None]:
    came: list[tuple[int, FrameType | None]] = []
    exchanged: dict[int, Callable[..., object]] = {}
    _Block.exchanged = exchanged

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    try:
        for number in _HELD:
            handler = signal.getsignal(number)
            # A default action ends the process, which can't harm an append; a handler set by C code can't be restored.
            if callable(handler):
                exchanged[number] = handler
                signal.signal(number, note)
        yield
    finally:
        try:
            _put_back(exchanged)
        finally:
            _Block.active = False
            _deliver(came, exchanged)


def _put_back(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _deliver(came: list[tuple[int, FrameType | None]], handlers: Handlers) -> None:
    """Call the handler of each signal that was noted, even when an earlier one raises.

    The signal is not raised again: whoever reads the wakeup descriptor (asyncio) was told when it came.
    """
    if came:
        number, frame = came.pop(0)
        try:
            handlers[number](number, frame)
        finally:
            _deliver(came, handlers)


def raised_by_handler(error: BaseException) -> bool:
    """Tell whether an error passed through a signal handler of this process: then it is the host's, not ours."""
    handlers = [signal.getsignal(number) for number in _HELD]
    codes = {code for handler in handlers if (code := _code_of(handler)) is not None}
    call = error.__traceback__
    while call is not None:
        if call.tb_frame.f_code in codes:
            return True
        call = call.tb_next
    return False


def _code_of(handler: object) -> CodeType | None:
    """Give the code of a function, a method, a partial or an object that is called."""
    handler = getattr(handler, "func", handler)
    if not hasattr(handler, "__code__"):  # a method has its function's; of an object, that of its class's `__call__`
        handler = vars(type(handler)).get("__call__")
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _end_in_child() -> None:
    """End the block in a child that another thread forked: the thread that would have ended it does not exist there."""
    if _Block.active and _Block.thread != threading.get_ident():
        _Block.active = False
        _put_back(_Block.exchanged)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_in_child)
