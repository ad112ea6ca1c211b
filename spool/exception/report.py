"""PostHog's `$exception` from a Python exception, with the standard library alone.

What is sent of an error: the classes, the redacted text, the frames of its traceback. Never local variables, notes
or arguments. Source of the format: PostHog's error tracking, posthog-python 7.91.

Code is told apart by its file:

- library: below a `site-packages` or `dist-packages` folder, or the standard library;
- the host's own: where `in_app` says so of the frame's module name;
- anything else may be the user's.

A file is named by its path within its library or package, never by where it lies; a lone script is `<script>`,
code without a file `<string>`. Names of functions and modules are told. Source lines are told of `.py` files of a
library or of the host alone: they are the same on every machine. So the person's name is looked for in the rest
only; a host may well be called like the account that it runs under.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

from spool.exception.outcome import is_control_flow
from spool.exception.redaction import Redactor, error_class, whereabouts

__all__ = ["exception_properties", "first_time", "forget", "is_expected", "mark_expected"]

# A person reads them; and 20 texts take at most 240,000 of an event's 900,000 bytes.
_MOST_ERRORS = 20
# Groups within groups whose members are asked for their marks.
_DEEPEST_GROUP = 3
_OUTER_FRAMES, _INNER_FRAMES = 10, 40
_CONTEXT_LINES = 5
_LINE = 200
_MOST_SOURCE_BYTES = 1_000_000
# Of the 900,000 bytes that an event may have: the frames get this in JSON, and source lines only as long as
# half of it is left.
_ROOM = 400_000
# Empty where Python is frozen into one file.
_STANDARD_LIBRARY = os.path.dirname(getattr(os, "__file__", None) or "").replace("\\", "/")

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
        describe = _Describer(secrets, typed, in_app)
        for number, (one, parent) in enumerate(_related(error)):
            entries.append({**describe(one), "mechanism": _mechanism(number, parent, handled=handled)})
    except Exception:  # noqa: BLE001 - the host comes first; an error that can't be described still counts
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
    if not issubclass(type(error), BaseExceptionGroup):  # isinstance would run code of the error's class
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


# -- one error, described --------------------------------------------------------------------------------


class _Describer:
    """Describes one error after the other: holds the rules, the room that is left and the files that were read.

    Made once for a report.
    """

    def __init__(self, secrets: Iterable[str], typed: Iterable[str], in_app: Callable[[str], bool] | None) -> None:
        known = secrets if isinstance(secrets, str | bytes) else tuple(secrets)
        person = whereabouts(os.environ)
        # For code that is the same everywhere, for everything else, and for the errors' own words.
        self._public, self._private, self._texts = (
            Redactor(known, of_code=True),
            Redactor(known, *person),
            Redactor(known, *person, typed),
        )
        self._in_app = in_app
        self._room = _ROOM
        self._sources: dict[str, list[str]] = {}
        self._lines: dict[str, str] = {}

    def __call__(self, error: BaseException) -> dict[str, object]:
        """Describe one. A class whose name does not look like one is reported as the class that it derives from."""
        module = vars(type(error)).get("__module__")
        redacted = self._public if self._is_own(module) else self._private
        names = (name for kind in type(error).__mro__ if (name := error_class(kind)) and redacted(name) == name)
        frames = self._frames(_slots["__traceback__"].__get__(error))
        return {
            "type": next(names, "Exception"),
            "value": self._texts(_text(error)),
            "module": _plain(module, r"(?!builtins$)[\w.]{1,100}", redacted),
            **({"stacktrace": {"type": "raw", "frames": frames}} if frames else {}),
        }

    def _frames(self, traceback: TracebackType | None) -> list[dict[str, object]]:
        """Describe the calls, outermost first: of many the outer 10 and the inner 40. The inner ones get room first."""
        from json import dumps  # noqa: PLC0415 - an event is built of this next, which needs it too

        calls = _calls(traceback)
        kept = [*islice(calls, _OUTER_FRAMES), *deque(calls, _INNER_FRAMES)]
        frames: list[dict[str, object]] = []
        for call in reversed(kept):
            if self._room <= 0:
                break
            frames.append(self._frame(call))
            self._room -= len(dumps(frames[-1]))
        return frames[::-1]

    def _frame(self, call: TracebackType) -> dict[str, object]:
        code, names = call.tb_frame.f_code, call.tb_frame.f_globals
        module = dict.get(names, "__name__")
        own = self._is_own(module)
        file = _file(code.co_filename, dict.get(names, "__file__"))
        name, library = _place(file.replace("\\", "/"), str(module))
        redacted = self._public if own or library else self._private
        shown = (own or library) and name.endswith(".py") and os.path.isabs(file)
        number = call.tb_lineno or code.co_firstlineno  # None where the code has no line table
        before, line, after = self._context(file, number) if shown else ([], None, [])
        place = redacted(name, _LINE)
        return {
            "platform": "python",
            "filename": place,
            "abs_path": place,
            "function": _plain(code.co_name, r"<?\w{1,100}>?", redacted) or "<unknown>",
            "module": _plain(module, r"[\w.]{1,100}", redacted),
            "lineno": number,
            "pre_context": before,
            "context_line": line,
            "post_context": after,
            "in_app": own if self._in_app is not None else not library,
        }

    def _is_own(self, module: object) -> bool:
        """Tell whether a module is the host's own, by what the host says."""
        try:
            return self._in_app is not None and isinstance(module, str) and bool(self._in_app(module))
        except Exception:  # noqa: BLE001 - the host's function: one that fails says no
            return False

    def _context(self, path: str, number: int) -> tuple[list[str], str | None, list[str]]:
        if self._room < _ROOM // 2:
            return [], None, []
        if path not in self._sources:
            self._sources[path] = _read(path)
        lines, at = self._sources[path], number - 1
        if not 0 <= at < len(lines):  # the file is gone or has changed
            return [], None, []
        around = [self._line(line) for line in lines[max(0, at - _CONTEXT_LINES) : at + 1 + _CONTEXT_LINES]]
        here = min(at, _CONTEXT_LINES)
        return around[:here], around[here], around[here + 1 :]

    def _line(self, line: str) -> str:
        if line not in self._lines:
            indent = line[: len(line) - len(line.lstrip(" \t"))][: _LINE // 2]
            self._lines[line] = indent + self._public(line, _LINE - len(indent))
        return self._lines[line]


def _text(error: BaseException) -> str:
    try:
        if issubclass(type(error), BaseExceptionGroup):  # without its "(2 sub-exceptions)"
            return str(vars(BaseExceptionGroup)["message"].__get__(error))
        return str(error)
    except BaseException:  # noqa: BLE001 - see exception_properties
        return ""


def _plain(name: object, shape: str, redacted: Redactor) -> str | None:
    """Give a name of the code if it looks like one and holds nothing that is redacted."""
    return name if isinstance(name, str) and re.fullmatch(shape, name) and redacted(name) == name else None


def _calls(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _file(path: str, module_file: object) -> str:
    """Give where code lies; compiled extensions know their sources by a path of the machine that built them."""
    return path if os.path.isabs(path) or path[:1] == "<" or not isinstance(module_file, str) else module_file


def _place(path: str, module: str) -> tuple[str, bool]:
    """Give a file's name as it may be told, and whether it belongs to a library."""
    for folder in ("/site-packages/", "/dist-packages/"):
        if folder in path:
            return path.rpartition(folder)[2], True
    if _STANDARD_LIBRARY and path.startswith(_STANDARD_LIBRARY + "/"):
        return path.removeprefix(_STANDARD_LIBRARY + "/"), True
    if path.startswith("<"):
        frozen = re.fullmatch(r"<frozen [\w.]{1,80}>", path) is not None
        return (path if frozen else "<string>"), frozen
    inside = module.replace(".", "/")
    for name in (f"{inside}.py", f"{inside}/__init__.py"):
        if path.endswith("/" + name):
            return name, False
    return "<script>", False


def _read(path: str) -> list[str]:
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _MOST_SOURCE_BYTES:
            return []
        with open(path, "rb") as file:
            return file.read(_MOST_SOURCE_BYTES).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        return []
