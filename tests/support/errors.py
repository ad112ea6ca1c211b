"""Errors to report, and their reports, checked for what holds for every one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from spool.exception.report import exception_properties

FRAME = {
    "platform", "filename", "abs_path", "function", "module", "lineno", "pre_context", "context_line", "post_context",
    "in_app",
}  # fmt: skip


def ours(module: str) -> bool:
    """Take the tests for the host's own code."""
    return module.startswith(("tests.", "test_"))


def raised(act: Callable[[], object]) -> BaseException:
    """Give the error that something raises, with its traceback."""
    try:
        act()
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("nothing was raised")


def report(error: BaseException, **options: Any) -> list[dict[str, Any]]:
    """Give the exceptions of a report, after checking what holds for each one of them."""
    properties = exception_properties(error, **{"handled": True, "in_app": ours, **options})
    assert json.loads(json.dumps(properties)) == properties
    assert len(json.dumps(properties)) < 900_000
    assert set(properties) == {"$exception_list", "$exception_level"}
    assert properties["$exception_level"] == "error"
    entries: Any = properties["$exception_list"]
    for number, entry in enumerate(entries):
        assert set(entry) - {"stacktrace"} == {"type", "value", "module", "mechanism"}
        assert entry["mechanism"]["exception_id"] == number
        assert entry["mechanism"]["type"] == ("chained" if number else "generic")
        assert ("parent_id" in entry["mechanism"]) == bool(number)
        assert entry["mechanism"]["synthetic"] is False
        for frame in entry.get("stacktrace", {"frames": []})["frames"]:
            assert set(frame) == FRAME
            assert frame["filename"] == frame["abs_path"]
            lines = [*frame["pre_context"], frame["context_line"] or "", *frame["post_context"]]
            assert len(lines) <= 11
            assert all(len(line) <= 200 for line in lines)
    return list(entries)


def frames(error: BaseException, **options: Any) -> list[dict[str, Any]]:
    """Give the frames of the outermost exception of a report."""
    return list(report(error, **options)[0]["stacktrace"]["frames"])


def load_module(folder: Path, name: str, source: str) -> ModuleType:
    """Load a module of this name and source from a folder."""
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    module = ModuleType(name)
    exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 - a module of our own
    return module


def linked(error: BaseException, name: str, value: BaseException) -> BaseException:
    """Give an error `__cause__` or `__context__`."""
    setattr(error, name, value)
    return error
