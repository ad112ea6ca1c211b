"""Signal handlers for a process entry: the command's event is on disk before a signal ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from spool.host import Host

__all__ = ["handled"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def handled(host: Host) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP for the block; does nothing in a thread other than the main one.

    What would happen without us still happens, and the open command takes note of it:

    - A signal that would end the process at once: the command is put on disk as aborted, then the process dies of
      the signal, so that its parent sees what it would have seen. A second one ends it without waiting.
    - A signal that the host handles itself: its handler is called, each time. If what it raises ends the command,
      that was aborted; a command that lives on ends as it ends.
    - Ctrl-C as Python handles it is left alone: asyncio and others look for Python's own handler and bring theirs
      only in its place. Its KeyboardInterrupt passes through the command, which is aborted by it.

    A signal that was ignored stays ignored; a handler that the host sets later stays. Python runs handlers between
    two steps of its own: during a long call into C, SIGTERM now waits for the end of that call, as Ctrl-C always did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    exchanged: dict[int, tuple[Any, Handler]] = {}
    try:
        for number, present in _to_handle():
            ours = _calling(host, present) if callable(present) else _ending(host)
            exchanged[number] = (present, ours)
            signal.signal(number, ours)
        yield
    finally:
        for number, (before, ours) in exchanged.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, before)


def _to_handle() -> list[tuple[int, Handler | int]]:
    """Give the signals with their handlers, without those that are ignored, Python's own or set by C code."""
    numbers = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
    left_alone = (signal.SIG_IGN, signal.default_int_handler)
    return [
        (number, handler)
        for number in numbers
        if (handler := signal.getsignal(number)) is not None and not any(handler is one for one in left_alone)
    ]


def _ending(host: Host) -> Handler:
    """Give a handler for a signal that ends the process."""

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # the next one does not wait
        if host.span is not None:
            host.span.abort()
        os.kill(os.getpid(), number)

    return end


def _calling(host: Host, handler: Handler) -> Handler:
    """Give a handler that calls the host's own, and notes on the command what that raised."""

    def call(number: int, frame: FrameType | None) -> None:
        span = host.span
        if span is not None:
            span.touch()
        try:
            handler(number, frame)
        except BaseException as error:
            if span is not None:
                span.interrupted_by = error
            raise

    return call
