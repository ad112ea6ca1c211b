"""How a command ended, by the exception that left it. Click and Typer are known by name: a host brings its own."""

from __future__ import annotations

import os
from types import UnionType
from typing import NamedTuple

__all__ = ["OUTCOMES", "Outcome", "cause_of", "is_clicks", "is_control_flow", "is_usage", "outcome_of"]

OUTCOMES = ("ok", "error", "aborted")
# Exit codes by which a shell reports a command that SIGHUP, SIGINT or SIGTERM ended.
_OF_SIGNALS = {129, 130, 143}
# Packages with Click's exceptions; Typer has its own copy since 0.25.
_CLICKS = {"click", "typer", "asyncclick"}


class Outcome(NamedTuple):
    """One of OUTCOMES, and the error to name, if there is one."""

    outcome: str
    cause: BaseException | None = None


def outcome_of(error: BaseException | None) -> Outcome:
    """Tell a command's outcome by the exception that left it.

    A plain return, `sys.exit(0)` and `typer.Exit()` are ok. Ctrl-C, an abort of Click or Typer, a cancelled task
    and an exit with the code of a signal are aborted. Everything else is an error; an exit that was raised `from`
    an error names that one.
    """
    if error is None:
        return Outcome("ok")
    if _is(error, KeyboardInterrupt) or is_clicks(error, "Abort") or _is_cancelled(error):
        return Outcome("aborted")
    if _is(error, SystemExit):
        return _exited(error, vars(SystemExit)["code"].__get__(error))
    if is_clicks(error, "Exit"):
        return _exited(error, getattr(error, "exit_code", 1))
    return Outcome("error", error)


def _exited(error: BaseException, code: object) -> Outcome:
    if code is None or (isinstance(code, int) and code == 0):
        return Outcome("ok")
    if isinstance(code, int) and code in _OF_SIGNALS and os.name == "posix":
        return Outcome("aborted")
    return Outcome("error", cause_of(error))


def cause_of(error: BaseException) -> BaseException | None:
    """Give the error that this one was raised from, even if its class overrides attributes."""
    cause: BaseException | None = vars(BaseException)["__cause__"].__get__(error)
    return cause


def is_clicks(error: BaseException, name: str) -> bool:
    """Tell an exception of Click or Typer, or one derived from it, by the name of its class."""
    return any(
        kind.__name__ == name and str(kind.__module__).partition(".")[0] in _CLICKS for kind in type(error).__mro__
    )


def is_usage(error: BaseException) -> bool:
    """Tell Click's usage errors: their text holds what the person typed."""
    return is_clicks(error, "UsageError")


def is_control_flow(error: BaseException) -> bool:
    """Tell whether an error only leaves the program or informs the person, and is no fault of the program."""
    if _is(error, KeyboardInterrupt | SystemExit | GeneratorExit) or _is_cancelled(error):
        return True
    return any(is_clicks(error, name) for name in ("Exit", "Abort", "ClickException"))


def _is(error: BaseException, kinds: type[BaseException] | UnionType) -> bool:
    return issubclass(type(error), kinds)  # isinstance would run code of the error's class


def _is_cancelled(error: BaseException) -> bool:
    return type(error).__name__ == "CancelledError"
