"""Typer and Click apps as a process's entry. Neither is imported here: the host brings its own.

What is counted: every command that the app takes up, under its full path, with the names of the flags that were
given. A usage error counts as `error` with its class and no text (the text holds what the person typed). Not
counted: `--help` and `--version` alike options that print and leave, and shell completion, for no command began.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from spool.telemetry import Telemetry

__all__ = ["Invocation", "invocation", "run"]


class Invocation(NamedTuple):
    """What a command line asks for: the path of the command, the flags by name, and whether it only informs."""

    path: list[str]
    flags: dict[str, bool]
    informs: bool


def run(telemetry: Telemetry, app: Any, args: Sequence[str] | None = None) -> NoReturn:
    """Run the app to its end, and the process with it. Raises TypeError for no Typer and no Click app."""
    command = _command(app)
    arguments = list(sys.argv[1:] if args is None else args)
    if telemetry.recorder.silenced_by() is not None or _completes(telemetry.app):
        sys.exit(app(args=arguments))
    try:
        asked = invocation(command, telemetry.app, arguments)
    except Exception:  # noqa: BLE001 - an app of a kind never seen: its command is counted without its name
        asked = Invocation([telemetry.app], {}, informs=False)
    if asked.informs:
        sys.exit(app(args=arguments))
    with telemetry.signals(), telemetry.command(asked.path, asked.flags):
        sys.exit(app(args=arguments))


def _command(app: Any) -> Any:
    """Give the Click command of an app, whichever click it was made with."""
    if callable(getattr(app, "make_context", None)) and hasattr(app, "params"):
        return app
    for kind in type(app).__mro__:
        if kind.__name__ == "Typer" and kind.__module__.split(".")[0] == "typer":
            # The very module that the app came from: importing it costs nothing any more.
            return sys.modules[kind.__module__].get_command(app)
    raise TypeError(
        f"telemetry.main takes a Typer or Click app, not {type(app).__name__}:"
        " for other programs there are telemetry.signals() and telemetry.command()"
    )


def _completes(app: str) -> bool:
    """Tell shell completion: click and typer ask for it by a variable that is named after the program."""
    names = {app, os.path.basename(sys.argv[0] or app).removesuffix(".py")}
    return any(f"_{name.replace('-', '_').replace('.', '_').upper()}_COMPLETE" in os.environ for name in names)


def invocation(command: Any, name: str, arguments: Iterable[str]) -> Invocation:
    """Read a command line as the app will, without running anything of it.

    Only names that the app declares come out: words that a person typed never do.
    """
    path, flags, informs = [name], dict[str, bool](), False
    helps = _help_names(command)
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            inner = getattr(command, "commands", {}).get(word)
            if inner is not None:
                command, helps = inner, helps | _help_names(inner)
                path.append(str(inner.name or word))
            continue
        informs = informs or word in helps
        for option, attached in _options(command, word):
            informs = informs or option.name in _INFORM
            flags[_long_name(option)] = True
            if not attached and not _is_flag(option):
                del words[: max(1, abs(int(option.nargs)))]
    return Invocation(path, flags, informs)


# Options that print something, or write a completion script, and leave.
_INFORM = {"install_completion", "show_completion", "version"}


def _help_names(command: Any) -> set[str]:
    settings = getattr(command, "context_settings", None) or {}
    return set(settings.get("help_option_names", ["--help"]))


def _long_name(option: Any) -> str:
    names = [*getattr(option, "opts", ()), *getattr(option, "secondary_opts", ())]
    return str(max(names, key=len)).strip().lstrip("-") if names else str(option.name)


def _options(command: Any, word: str) -> list[tuple[Any, bool]]:
    """Give the declared options that a word names, each with whether its value stands in the word itself."""
    if word.startswith("--"):
        option = _find(command, word.split("=", 1)[0])
        return [(option, "=" in word)] if option is not None else []
    whole = _find(command, word)
    if whole is not None:
        return [(whole, False)]
    found: list[tuple[Any, bool]] = []
    for position, letter in enumerate(word[1:], start=1):
        option = _find(command, "-" + letter)
        if option is None:
            break
        found.append((option, not _is_flag(option) and position + 1 < len(word)))
        if not _is_flag(option):
            break
    return found


def _find(command: Any, spelling: str) -> Any:
    for parameter in getattr(command, "params", ()):
        if spelling in (*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ())):
            return parameter
    return None


def _is_flag(option: Any) -> bool:
    return bool(getattr(option, "is_flag", False) or getattr(option, "count", False))
