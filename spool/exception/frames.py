"""The frames of a traceback as PostHog takes them, without what would tell of the machine or of its user.

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
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType

from spool.exception.redaction import Redactor

__all__ = ["Frames", "plain"]

_OUTER_FRAMES, _INNER_FRAMES = 10, 40
_CONTEXT_LINES = 5
_LINE = 200
_MOST_SOURCE_BYTES = 1_000_000
# Of the 900,000 bytes that an event may have: the frames get this in JSON, and source lines only as long as
# half of it is left.
_ROOM = 400_000
# Empty where Python is frozen into one file.
_STANDARD_LIBRARY = os.path.dirname(getattr(os, "__file__", None) or "").replace("\\", "/")


class Frames:
    """The frames of one report in the making: the rules, the room that is left, the files that were read."""

    def __init__(self, public: Redactor, private: Redactor, in_app: Callable[[str], bool] | None) -> None:
        """Take the rules for code that is the same everywhere, and those for everything else."""
        self._public = public
        self._private = private
        self._in_app = in_app
        self._room = _ROOM
        self._sources: dict[str, list[str]] = {}
        self._lines: dict[str, str] = {}

    def of(self, traceback: TracebackType | None) -> list[dict[str, object]]:
        """Tell the calls, outermost first: of many the outer 10 and the inner 40. The inner ones get room first."""
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
        own = self.is_own(module)
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
            "function": plain(code.co_name, r"<?\w{1,100}>?", redacted) or "<unknown>",
            "module": plain(module, r"[\w.]{1,100}", redacted),
            "lineno": number,
            "pre_context": before,
            "context_line": line,
            "post_context": after,
            "in_app": own if self._in_app is not None else not library,
        }

    def is_own(self, module: object) -> bool:
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


def plain(name: object, shape: str, redacted: Redactor) -> str | None:
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
