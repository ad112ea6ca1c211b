"""What a command line asks for, read before the app reads it: the draft of a command's span, in case of an early kill.

Click's own parsing decides (see `click_watch`). This one runs no code of the app, so it doesn't know commands that are
loaded lazily, options whose value may be left out, or names that the app changes while parsing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from spool.settings import is_plain_name

__all__ = ["Asked", "flags_present", "long_name", "read"]

_HOLDERS = (str, bytes, list, tuple, dict, set, frozenset)

# Options that print something, or write a completion script, and leave: by Typer's names for them. Click's own are
# read first and give the command no value.
_INFORM = {"install_completion", "show_completion", "version"}


class Asked(NamedTuple):
    """The path of the command, the flags by name, and whether it seems to ask for information only."""

    path: list[str]
    flags: dict[str, bool]
    informs: bool = False


def read(command: Any, name: str, arguments: Iterable[str]) -> Asked:
    """Read a command line much as the app will. Gives only names that the app declares. Never raises."""
    try:
        return _read(command, name, list(arguments))
    except Exception:  # noqa: BLE001 - an unknown kind of app: its command is drafted without its name
        return Asked([name], {})


def _read(command: Any, name: str, words: list[str]) -> Asked:
    path, flags, informs = [name], dict[str, bool](), False
    helps = _help_names(command)
    while words:
        word = words.pop(0)
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            inner = getattr(command, "commands", {}).get(word)
            if inner is not None:
                command, helps = inner, helps | _help_names(inner)
                path.append(word)
            continue
        informs = informs or word in helps
        for option, spelling, attached in _options(command, word):
            informs = informs or _informs(option)
            flags[long_name(option, opposite=spelling in getattr(option, "secondary_opts", ()))] = True
            if not attached and not _is_flag(option):
                del words[: max(1, abs(int(option.nargs)))]
    return Asked(path, flags, informs)


def flags_present(flags: Mapping[str, object]) -> dict[str, bool]:
    """Tell which flags were given: their names, and never a value. What does not look like a name is left out."""
    return {
        name: not (value is None or value is False or (isinstance(value, _HOLDERS) and len(value) == 0))
        for name, value in flags.items()
        if isinstance(name, str) and is_plain_name(name)
    }


def long_name(option: Any, *, opposite: bool) -> str:
    """Give an option's longest name; of `--json/--no-json` the `opposite` is `no-json`."""
    names = getattr(option, "secondary_opts" if opposite else "opts", ())
    return str(max(names, key=len)).strip().lstrip("-") if names else str(option.name)


def _help_names(command: Any) -> set[str]:
    settings = getattr(command, "context_settings", None) or {}
    return set(settings.get("help_option_names", ["--help"]))


def _options(command: Any, word: str) -> list[tuple[Any, str, bool]]:
    """Give the declared options that a word names, each as spelled, and whether its value stands in the word."""
    if word.startswith("--"):
        spelling, equals, _value = word.partition("=")
        option = _find(command, spelling)
        return [(option, spelling, bool(equals))] if option is not None else []
    whole = _find(command, word)
    if whole is not None:
        return [(whole, word, False)]
    found: list[tuple[Any, str, bool]] = []
    for position, letter in enumerate(word[1:], start=1):
        option = _find(command, "-" + letter)
        if option is None:
            break
        found.append((option, "-" + letter, not _is_flag(option) and position + 1 < len(word)))
        if not _is_flag(option):
            break
    return found


def _find(command: Any, spelling: str) -> Any:
    for parameter in getattr(command, "params", ()):
        if spelling in (*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ())):
            return parameter
    return None


def _informs(option: Any) -> bool:
    unseen = getattr(option, "is_eager", False) and not getattr(option, "expose_value", True)
    return bool(unseen or option.name in _INFORM)


def _is_flag(option: Any) -> bool:
    return bool(getattr(option, "is_flag", False) or getattr(option, "count", False))
