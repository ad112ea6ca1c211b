"""How Click parses a command line, observed while it does: the path, the flags, and what ended the command.

Click and Typer turn every error into an exit before it leaves the app, and only their contexts know the parsed command
line (lazy and chained groups, normalised names, values that may be left out). So three methods are wrapped, on the
command objects that take part and on no class: `make_context` (the line is parsed), `resolve_command` (a group found
the next command), and `invoke` of the outermost command, which every exception passes. All three exist in every Click
since 8.0, and in the copy of it that Typer carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from spool.command.command_line import Asked, long_name
from spool.exception.outcome import is_clicks, is_control_flow, outcome_of
from spool.interrupts import signals_held

__all__ = ["ClickWatch"]

Method = Callable[..., Any]
_ABSENT = object()


class ClickWatch:
    """Observes one command line while an app parses and runs it.

    `on_taken` is called when the app has found a command, with what the line asks for as far as it was parsed.
    """

    def __init__(self, name: str, on_taken: Callable[[Asked], None]) -> None:
        self._asked = Asked([name], {})
        self._on_taken = on_taken
        self._contexts: list[Any] = []
        self._before: list[tuple[Any, str, Any]] = []
        # The exception that left the outermost command, before it became an exit; and the one that left the parsing.
        self._error: BaseException | None = None
        self._left_reading: BaseException | None = None

    @property
    def asked(self) -> Asked | None:
        """What the line asks for, as far as the app parsed it; None for an app that can't be observed."""
        return self._asked if self._contexts else None

    @property
    def informed(self) -> bool:
        """Whether the app only printed information: --help, --version, or what else ends well during the parsing."""
        error = self._left_reading
        if error is None or error is not self._error:
            return False
        return is_clicks(error, "NoArgsIsHelpError") or outcome_of(error).outcome == "ok"

    def ended_by(self, exit_: BaseException) -> BaseException:
        """Give the exception that ended the command; the app may have turned it into this exit."""
        if not isinstance(exit_, SystemExit) or outcome_of(exit_).outcome == "ok":
            return exit_
        if self._error is None:  # not seen: some exits keep the exception that they came from as their context
            before = exit_.__context__
            return before if before is not None and is_control_flow(before) else exit_
        # Click turns it into an abort: the person pressed Ctrl-D at a prompt.
        return KeyboardInterrupt() if isinstance(self._error, EOFError) else self._error

    @contextmanager
    def over(self, command: Any) -> Iterator[None]:
        """Wrap the methods of the outermost command of an app, for the block."""
        try:
            with signals_held(), suppress(Exception):  # an unknown kind of object: it runs unobserved
                self._look(command, "invoke", self._ending)
                self._look(command, "make_context", self._ending)
                self._look_at_reading(command)
            yield
        finally:
            for one, name, before in reversed(self._before):
                with suppress(AttributeError):
                    delattr(one, name) if before is _ABSENT else setattr(one, name, before)

    def _look(self, command: Any, name: str, by: Callable[[Method], Method]) -> None:
        method = getattr(command, name)
        self._before.append((command, name, vars(command).get(name, _ABSENT)))
        setattr(command, name, by(method))

    def _look_at_reading(self, command: Any) -> None:
        self._look(command, "make_context", self._reading)
        if hasattr(command, "resolve_command"):
            self._look(command, "resolve_command", self._resolving)

    # -- the methods ----------------------------------------------------------------------------------------

    def _ending(self, method: Method) -> Method:
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                result = method(*args, **kwargs)
            except BaseException as error:
                self._error = error
                raise
            self._error = None  # of a command that the host ran within this one
            return result

        return watched

    def _reading(self, make_context: Method) -> Method:
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                context = make_context(*args, **kwargs)
            except BaseException as error:
                self._left_reading = error
                with signals_held(), suppress(Exception):
                    self._read(getattr(error, "ctx", None))
                raise
            with signals_held(), suppress(Exception):
                if self._read(context) and not hasattr(context.command, "resolve_command"):
                    self._on_taken(self._asked)
            return context

        return watched

    def _resolving(self, resolve: Method) -> Method:
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                found = resolve(*args, **kwargs)
            except BaseException as error:
                self._left_reading = error  # a group may find an option here, --help for one
                raise
            with signals_held(), suppress(Exception):
                name, command, _rest = found
                context = args[0] if args else kwargs["ctx"]
                if self._knows(context):
                    self._asked.path.append(_declared(context, str(name), command))
                    if all(one is not command for one, _name, _before in self._before):
                        self._look_at_reading(command)
            return found

        return watched

    def _read(self, context: Any) -> bool:
        """Take the flags from a context; False for one of a command that the host runs within this one."""
        first = context.parent is None and not self._contexts
        if not first and not self._knows(context.parent):
            return False
        self._contexts.append(context)
        self._asked.flags.update(_given(context))
        return True

    def _knows(self, context: Any) -> bool:
        return any(context is one for one in self._contexts)


def _declared(context: Any, typed: str, command: Any) -> str:
    """Give a command's name as its group declares it; a name that the group doesn't know becomes "unknown"."""
    there = getattr(context.command, "commands", {})
    for name in (typed, command.name):
        if name in there:
            return str(name)
    listed = context.command.list_commands(context)
    return next((str(name) for name in (typed, command.name) if name in listed), "unknown")


def _given(context: Any) -> dict[str, bool]:
    """Name the options that were given on the command line, by the context."""
    found: list[Any] = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name)
        if option.param_type_name == "option" and getattr(source, "name", "") == "COMMANDLINE":
            found.append(option)
    return {_spelled(option, context.params.get(option.name), found): True for option in found}


def _spelled(option: Any, value: object, given: list[Any]) -> str:
    """Give an option's name: of `--json/--no-json` the one that was used, of several for one value the value's."""
    rivals = [one for one in given if one.name == option.name]
    if len(rivals) > 1:
        chosen = [one for one in rivals if one.is_flag and one.flag_value == value]
        return long_name(chosen[0], opposite=False) if chosen else str(option.name)
    return long_name(option, opposite=value is False and bool(option.secondary_opts))
