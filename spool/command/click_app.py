"""Typer and Click apps as a process's entry. Neither is imported here: the host brings its own.

Counted is every command that the app finds, under its full path, with the names of the flags that were given. A usage
error counts as `error` with its class and no text (the text holds what the person typed). Not counted, since no
command began: what the app answers while it parses the line (`--help`, `--version` and the like), and shell
completion. Whether `--help` is the app's own or an argument to pass on is the app's decision.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NoReturn

from spool.command.click_watch import ClickWatch
from spool.command.command_line import Asked, read
from spool.command.signals import handled
from spool.command.span import CommandSpan
from spool.errors import InvalidEventError
from spool.host import Host
from spool.interrupts import signals_held, to_the_end

__all__ = ["run"]


def run(host: Host, app: Any, args: Sequence[str] | None = None) -> NoReturn:
    """Run the app and end the process as the app does. Raises TypeError for what is no Typer or Click app."""
    command = _command(app)
    if _uncounted(host):
        _leave_by(app, args)
    host.note_typed(args or ())
    with handled(host):
        _counted(host, app, command, args)


def _uncounted(host: Host) -> bool:
    """Tell whether nothing is counted here: telemetry is off, the shell asks for completion, or nobody can tell."""
    with signals_held(), suppress(Exception):
        return host.silenced_by(host.look()) is not None or _completes(host.options.app)
    host.unexplained += 1
    return True


def _leave_by(app: Any, args: Sequence[str] | None) -> NoReturn:
    # Without arguments it reads them itself: on Windows it also expands them.
    sys.exit(app() if args is None else app(args=list(args)))


def _counted(host: Host, app: Any, command: Any, args: Sequence[str] | None) -> NoReturn:
    with signals_held():  # here and below: what a signal handler raises is not taken for a failure of ours
        draft = read(command, host.options.app, sys.argv[1:] if args is None else args)
    span = CommandSpan(host, draft.path, draft.flags)

    def taken(asked: Asked) -> None:
        span.describe(asked.path, asked.flags)
        if not span.began:
            span.begin()

    watch = ClickWatch(host.options.app, taken)
    if not draft.informs:  # otherwise it begins when the app has found the command, if it does
        span.begin()
    watched = ExitStack()
    try:
        watched.enter_context(watch.over(command))
        watched.enter_context(_given_to(app, command))
        _leave_by(app, args)
    except BaseException as error:
        watched.callback(_end, span, watch, error)
        to_the_end(watched.close)
        raise


def _end(span: CommandSpan, watch: ClickWatch, error: BaseException) -> None:
    if watch.informed:
        span.drop()
        return
    if watch.asked is not None:
        span.name(watch.asked.path, watch.asked.flags)
    with suppress(InvalidEventError):
        if not span.began:
            span.begin()
    span.end(watch.ended_by(error))


def _command(app: Any) -> Any:
    """Give the Click command of an app, whichever click it was made with."""
    if callable(getattr(app, "make_context", None)) and hasattr(app, "params"):
        return app
    module = _typer_of(app)
    if module is None:
        raise TypeError(
            f"telemetry.main takes a Typer or Click app, not {type(app).__name__}:"
            " for other programs there are telemetry.signals() and telemetry.command()"
        )
    return module.get_command(app)


def _typer_of(app: Any) -> Any:
    """Give the module that a Typer app came from, which is loaded already."""
    for kind in type(app).__mro__:
        if kind.__name__ == "Typer" and kind.__module__.split(".")[0] == "typer":
            return sys.modules[kind.__module__]
    return None


@contextmanager
def _given_to(app: Any, command: Any) -> Iterator[None]:
    """Let a Typer app, which makes its Click command when it is called, use this one."""
    module = _typer_of(app)
    if command is app or module is None:
        yield
        return
    make = module.get_command
    module.get_command = lambda asked: command if asked is app else make(asked)
    try:
        yield
    finally:
        module.get_command = make


def _completes(app: str) -> bool:
    """Tell whether this is shell completion: click and typer ask for it by a variable named after the program."""
    names = {app, os.path.basename(sys.argv[0] or app).removesuffix(".py")}
    return any(f"_{name.replace('-', '_').replace('.', '_').upper()}_COMPLETE" in os.environ for name in names)
