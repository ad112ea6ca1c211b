"""PostHog's `$exception` from a Python exception, with the standard library alone.

What is sent of an error: the classes, the redacted text, the places in the code (see `error_frames`). Never local
variables, notes or arguments. Source of the format: PostHog's error tracking, posthog-python 7.91.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from spool.command.outcome import is_control_flow
from spool.exception.frames import Frames, plain
from spool.exception.redaction import Redactor, error_class, whereabouts

__all__ = ["exception_properties", "first_time", "forget", "is_expected", "mark_expected"]

# Somebody reads them; and 20 texts take 240,000 bytes of an event's 900,000 at the very most.
_MOST_ERRORS = 20
# Groups within groups whose members are asked for their marks.
_DEEPEST_GROUP = 3

_EXPECTED, _REPORTED = "__spool_expected__", "__spool_reported__"
_E = TypeVar("_E", bound=BaseException | type[BaseException])


def exception_properties(
    error: BaseException,
    *,
    handled: bool,
    secrets: Iterable[str] = (),
    typed: Iterable[str] = (),
    in_app: Callable[[str], bool] | None = None,
) -> dict[str, object]:
    """Give the properties of a `$exception` event: the error, then what caused it, then a group's members.

    `typed` are words of the command line, which go out of the errors' texts alone: source lines are the same
    everywhere. `in_app` tells of a module's name whether it is the host's own. Never raises, whatever the error
    does: what can't be read is left out. Call it with signals held: a KeyboardInterrupt out of `str(error)` is
    taken for the error's own.
    """
    entries: list[dict[str, object]] = []
    try:
        told = _Teller(secrets, typed, in_app)
        for number, (one, parent) in enumerate(_related(error)):
            entries.append({**told(one), "mechanism": _mechanism(number, parent, handled=handled)})
    except Exception:  # noqa: BLE001 - the host comes first; an error that can't be told still counts
        mechanism = _mechanism(0, None, handled=handled)
        entries = entries or [{"type": "Exception", "value": "", "module": None, "mechanism": mechanism}]
    return {"$exception_list": entries, "$exception_level": "error"}


def _mechanism(number: int, parent: int | None, *, handled: bool) -> dict[str, object]:
    shared = {"handled": bool(handled), "synthetic": False, "exception_id": number}
    return {"type": "generic", **shared} if parent is None else {"type": "chained", **shared, "parent_id": parent}


# -- which errors ---------------------------------------------------------------------------------------

# The interpreter's own slots: a class may hide them behind properties, which would run the host's code.
_slots = vars(BaseException)


def _attributes(error: BaseException) -> dict[str, Any]:
    attributes: dict[str, Any] = _slots["__dict__"].__get__(error)
    return attributes


def _cause(error: BaseException) -> BaseException | None:
    """Give what the traceback would show as the reason: `raise ... from None` hides it."""
    cause: BaseException | None = _slots["__cause__"].__get__(error)
    if cause is None and not _slots["__suppress_context__"].__get__(error):
        cause = _slots["__context__"].__get__(error)
    return cause


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if not issubclass(type(error), BaseExceptionGroup):  # isinstance would ask the error
        return ()
    members: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(error)
    return members


def _related(error: BaseException) -> list[tuple[BaseException, int | None]]:
    """Give the error and what belongs to it, outermost first, each with the number of the one that led to it."""
    found: list[tuple[BaseException, int | None]] = []
    seen: set[int] = set()
    waiting: list[tuple[BaseException, int | None]] = [(error, None)]
    while waiting and len(found) < _MOST_ERRORS:
        one, parent = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found.append((one, parent))
        number, cause = len(found) - 1, _cause(one)
        waiting += [(member, number) for member in reversed(_members(one)[:_MOST_ERRORS])]
        waiting += [] if cause is None else [(cause, number)]
    return found


def _marked(error: BaseException, mark: str, depth: int = 0) -> bool:
    """Tell whether an error bears a mark: itself, what it was raised from, or every member of a group."""
    one: BaseException | None = error
    for _ in range(_MOST_ERRORS):
        if one is None:
            break
        if mark in _attributes(one) or any(mark in vars(kind) for kind in type(one).__mro__):
            return True
        members = _members(one) if depth < _DEEPEST_GROUP else ()
        if members and all(_marked(member, mark, depth + 1) for member in members):
            return True
        one = _slots["__cause__"].__get__(one)
    return False


def mark_expected(error: _E) -> _E:
    """Say that this error, or every error of this class, is no fault to report. Gives it back, for `raise`."""
    if isinstance(error, BaseException):
        _attributes(error)[_EXPECTED] = True
    else:
        setattr(error, _EXPECTED, True)
    return error


def is_expected(error: BaseException) -> bool:
    """Tell whether an error was marked as expected, or was raised `from` one that was.

    What only leads out of the program is expected without a mark: Ctrl-C, an exit, Click's errors for the person.
    """
    return is_control_flow(error) or _marked(error, _EXPECTED)


def first_time(error: BaseException) -> bool:
    """Tell, once, that an error was not reported yet: True for the first layer that asks, False from then on.

    An error raised `from` a reported one, and a group of reported ones, count as reported. An error that came
    up while another was handled is an error of its own.
    """
    mine: list[bool] = []  # setdefault decides between threads
    if _marked(error, _REPORTED) or _attributes(error).setdefault(_REPORTED, mine) is not mine:
        return False
    for one, _ in _related(error):
        _attributes(one).setdefault(_REPORTED, mine)
    return True


def forget(error: BaseException) -> None:
    """Take back what `first_time` noted for this error, which was not reported after all."""
    mine = _attributes(error).get(_REPORTED)
    for one, _ in _related(error):
        if mine is not None and _attributes(one).get(_REPORTED) is mine:
            del _attributes(one)[_REPORTED]


# -- what is told of one --------------------------------------------------------------------------------


class _Teller:
    """Tells one error after the other. Made once for a report."""

    def __init__(self, secrets: Iterable[str], typed: Iterable[str], in_app: Callable[[str], bool] | None) -> None:
        known = secrets if isinstance(secrets, str | bytes) else tuple(secrets)
        person = whereabouts(os.environ)
        self._public, self._private, self._texts = (
            Redactor(known),
            Redactor(known, *person),
            Redactor(known, *person, typed),
        )
        self._frames = Frames(self._public, self._private, in_app)

    def __call__(self, error: BaseException) -> dict[str, object]:
        """Tell one. A class whose name does not look like one is told as the class that it derives from."""
        module = vars(type(error)).get("__module__")
        redacted = self._public if self._frames.is_own(module) else self._private
        names = (name for kind in type(error).__mro__ if (name := error_class(kind)) and redacted(name) == name)
        calls = self._frames.of(_slots["__traceback__"].__get__(error))
        return {
            "type": next(names, "Exception"),
            "value": self._texts(_text(error)),
            "module": plain(module, r"(?!builtins$)[\w.]{1,100}", redacted),
            **({"stacktrace": {"type": "raw", "frames": calls}} if calls else {}),
        }


def _text(error: BaseException) -> str:
    try:
        if issubclass(type(error), BaseExceptionGroup):  # without its "(2 sub-exceptions)"
            return str(vars(BaseExceptionGroup)["message"].__get__(error))
        return str(error)
    except BaseException:  # noqa: BLE001 - see exception_properties
        return ""
