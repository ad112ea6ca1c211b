"""Signal handlers for a process entry: the command's event is on disk before the host hears of the signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spool.telemetry import Telemetry

__all__ = ["handled"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def handled(telemetry: Telemetry) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP for the block; nothing in a thread other than the main one.

    On the first signal the open command is put on disk as aborted; then whatever was there before is done:
    the host's handler is called (Python's own raises KeyboardInterrupt, so `finally` blocks run), or the
    process dies of the signal, so that its parent sees what it would have seen. A second signal ends it at
    once. A signal that was ignored stays ignored; a handler that the host sets later stays.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    given_up: set[int] = set()

    def take(number: int, frame: FrameType | None) -> None:
        for other in before:
            if signal.getsignal(other) is take:
                signal.signal(other, signal.SIG_DFL)
                given_up.add(other)
        if telemetry.span is not None:
            telemetry.span.finish(outcome="aborted")
        _go_on(before[number], number, frame)

    for number in _handleable():
        before[number] = signal.getsignal(number)
        signal.signal(number, take)
    try:
        yield
    finally:
        for number, handler in before.items():
            present = signal.getsignal(number)
            if present is take or (number in given_up and present is signal.SIG_DFL):
                signal.signal(number, handler)


def _handleable() -> list[int]:
    """Give the signals that are not ignored, and whose handler could be put back."""
    numbers = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _go_on(handler: Handler | int, number: int, frame: FrameType | None) -> None:
    """Do what would have been done without us."""
    if callable(handler):
        handler(number, frame)
    else:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
