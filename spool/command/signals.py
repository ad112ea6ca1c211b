"""Signal handlers for a process entry: the command's event is on disk before a signal ends the process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import FrameType

from spool.command.own_calls import hide_own_calls
from spool.host import Host
from spool.interrupts import to_the_end

__all__ = ["handled"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
Handler = Callable[[int, FrameType | None], None]


class handled(AbstractContextManager[None]):  # noqa: N801 - used as a function is, in a `with`
    """Handle SIGINT, SIGTERM and SIGHUP for the block, where they would end the process at once.

    The command is put on disk as aborted, then the process dies of the signal, so that its parent sees what it would
    have seen. What has another handler is left alone, Python's own for Ctrl-C too: asyncio and others look for that one
    and bring theirs only in its place. If what a handler raises ends the command, that was aborted.

    A signal that was ignored stays ignored; a handler that the host sets later stays. Python runs handlers between
    two steps of its own: during a long call into C, SIGTERM now waits for the end of that call, as Ctrl-C always did.
    Does nothing in a thread other than the main one. What leaves the block has none of this package's calls in its
    traceback: a second Ctrl-C may have come in the middle of one.
    """

    def __init__(self, host: Host) -> None:
        self._end = _ending(host)
        self._exchanged: list[int] = []

    def __enter__(self) -> None:
        with suppress(ValueError):  # not the main thread of the main interpreter
            for number in [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._end)
                    self._exchanged.append(number)

    def __exit__(self, _type: object, error: BaseException | None, _where: object) -> None:
        to_the_end(lambda: _put_back(self._exchanged, self._end))
        hide_own_calls(error)


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
