"""Signal handlers for a process entry: the command's event is on disk before a signal ends the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from spool.host import Host
from spool.interrupts import to_the_end

__all__ = ["handled"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(host: Host) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP for the block, where they would end the process at once.

    The command is put on disk as aborted, then the process dies of the signal, so that its parent sees what it would
    have seen. What has another handler is left alone, Python's own for Ctrl-C too: asyncio and others look for that one
    and bring theirs only in its place. If what a handler raises ends the command, that was aborted.

    A signal that was ignored stays ignored; a handler that the host sets later stays. Python runs handlers between
    two steps of its own: during a long call into C, SIGTERM now waits for the end of that call, as Ctrl-C always did.
    Does nothing in a thread other than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    end = _ending(host)
    exchanged = []
    try:
        for number in [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]:
            if signal.getsignal(number) is signal.SIG_DFL:
                exchanged.append(number)
                signal.signal(number, end)
        yield
    finally:
        to_the_end(lambda: _put_back(exchanged, end))


def _put_back(numbers: list[int], end: Handler) -> None:
    for number in numbers:
        if signal.getsignal(number) is end:
            signal.signal(number, signal.SIG_DFL)


def _ending(host: Host) -> Handler:
    """Give a handler for a signal that ends the process, and does so whatever else comes meanwhile."""

    def end(number: int, _frame: FrameType | None) -> None:
        def die() -> None:
            if host.span is not None:
                host.span.abort()
            signal.signal(number, signal.SIG_DFL)
            if sys.platform != "win32":
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
            os.kill(os.getpid(), number)

        to_the_end(die)

    return end
