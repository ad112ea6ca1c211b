"""The guard around every public method: whatever the machine does, the host goes on with an empty answer.

It catches what nobody foresaw: an import that fails at first use, no descriptor or memory left, a stack that is
nearly full, the end of the interpreter. Signals are held meanwhile, so what is raised inside is never a signal
handler's, and what a handler raises comes out at the end, untouched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

from spool.host import Host
from spool.interrupts import raised_by_handler, to_the_end, with_signals_held

__all__ = ["guarded"]


class _Guarded(Protocol):
    """What has methods to guard."""

    _host: Host


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=_Guarded)


def guarded(  # noqa: C901 - each way out of a method, in one place
    empty: Any, answer: Callable[..., Any] | None = None, *, ending: bool = False
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Guard a method: where it fails it gives `empty`, or what `answer` makes of the host, the error and the arguments.

    `answer` is for what loses an event by failing, and counts it. Where it fails too, the loss is remembered in
    `Host.unexplained`, which takes no call. A mistake of the program's raises in strict mode. `ending` is for what is
    done at the end of a command or of the process.
    """

    def decorate(  # noqa: C901 - as above
        method: Callable[Concatenate[S, P], R],
    ) -> Callable[Concatenate[S, P], R]:
        # Names of a closure stay as they are; those of a module are gone at the end of the interpreter.
        hold, ends, is_hosts = to_the_end if ending else with_signals_held, sys.is_finalizing, raised_by_handler

        @wraps(method)
        def call(  # noqa: C901 - as above
            self: S, /, *args: P.args, **kwargs: P.kwargs
        ) -> R:
            given: R = empty
            settled = answer is None
            mistake: Exception | None = None

            def step() -> None:
                nonlocal given, settled, mistake
                try:
                    given = method(self, *args, **kwargs)
                    settled = True
                except Exception as error:  # noqa: BLE001 - the host comes first, whatever it is
                    with suppress(Exception):
                        if self._host.raises(error):
                            mistake = error
                        elif answer is not None:
                            given = answer(self._host, error, *args, **kwargs)
                        settled = True

            try:
                hold(step)
            except (MemoryError, RecursionError) as error:  # mostly there was no room for the holding itself
                try:
                    passes = is_hosts(error)
                except (MemoryError, RecursionError):  # nor is there for a look
                    passes = False
                if passes:
                    raise
            except Exception:
                if not ends():
                    raise  # what a signal handler of the host's raised
            if mistake is not None:
                raise mistake
            if not settled:
                self._host.unexplained += 1
            return given

        return call

    return decorate


class NoCommand:
    """What `Telemetry.command` gives where not even that can be made: a command without an event."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Do nothing."""

    def annotate(self, **_told: Any) -> None:
        """Do nothing."""

    def finish(self, _outcome: str | None = None) -> None:
        """Do nothing."""
