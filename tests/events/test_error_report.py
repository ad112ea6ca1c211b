"""An error is reported as PostHog wants it, once, and without what is the person's own."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from spool.exception.report import exception_properties, first_time, is_expected, mark_expected
from tests.support.errors import frames, linked, load_module, raised, report
from tests.support.processes import environment, run_python

# -- as posthog-python builds it --------------------------------------------------------------------------


def fall(depth: int) -> None:
    """Fail at the end of some calls, one of them in the standard library."""
    if depth:
        fall(depth - 1)
    json.loads("{")


def plain() -> None:
    """One error of the standard library."""
    fall(3)


def caused() -> None:
    """An error raised from another."""
    try:
        fall(0)
    except ValueError as error:
        raise RuntimeError("outer") from error


def handling() -> None:
    """An error while another is handled, that one raised from a third."""
    try:
        caused()
    except RuntimeError:
        json.loads(b"\xff")


def hidden() -> None:
    """An error that hides the one it came from."""
    try:
        fall(0)
    except ValueError:
        raise LookupError("hides") from None


def group() -> None:
    """A group in a group, its members with causes of their own."""
    members = [raised(plain), raised(caused)]
    inner = ExceptionGroup("inner", [error for error in members if isinstance(error, Exception)])
    try:
        raise OSError(2, "No such file")
    except OSError as error:
        raise ExceptionGroup("outer", [inner, KeyError("k")]) from error


def circle() -> None:
    """Two errors that are each other's cause."""
    first, second = raised(plain), raised(caused)
    first.__cause__, second.__cause__ = second, first
    raise first


@pytest.mark.parametrize("act", [plain, caused, handling, hidden, group, circle])
def test_a_report_is_what_posthog_python_would_build(act: Callable[[], None]) -> None:
    """Same exceptions in the same order, same parents, same functions, modules, lines and source lines."""
    from posthog.exception_utils import exceptions_from_error_tuple  # noqa: PLC0415 - the SDK, for comparison alone

    error = raised(act)
    theirs = exceptions_from_error_tuple((type(error), error, error.__traceback__))
    mine = report(error)
    assert [entry["type"] for entry in mine] == [entry["type"] for entry in theirs]
    assert [entry["module"] for entry in mine] == [entry["module"] for entry in theirs]
    assert [entry["value"] for entry in mine] == [entry["value"] for entry in theirs]
    for name in ("type", "exception_id", "parent_id", "synthetic"):
        assert [entry["mechanism"].get(name) for entry in mine] == [entry["mechanism"].get(name) for entry in theirs]
    for one, other in zip(mine, theirs, strict=True):
        assert one.get("stacktrace", {}).get("type") == other.get("stacktrace", {}).get("type")
        for name in ("platform", "function", "module", "lineno", "context_line", "pre_context", "post_context"):
            assert _column(one, name) == _column(other, name)


def _column(entry: dict[str, Any], name: str) -> list[str]:
    """Give one field of all frames, blanks aside: redaction makes one of many."""
    return [" ".join(str(frame[name]).split()) for frame in entry.get("stacktrace", {}).get("frames", [])]


def test_handled_is_what_the_host_says() -> None:
    """In each exception of the chain."""
    for handled in (True, False):
        assert {entry["mechanism"]["handled"] for entry in report(raised(caused), handled=handled)} == {handled}


# -- limits -----------------------------------------------------------------------------------------------


def test_of_a_deep_recursion_the_outer_ten_and_the_inner_forty_calls_are_told() -> None:
    """The way in and the place of the fault; the same in the middle over and over is left out."""
    told = frames(raised(lambda: fall(500)))
    assert len(told) == 50
    assert [frame["function"] for frame in told[:4]] == ["raised", "<lambda>", "fall", "fall"]
    assert [frame["function"] for frame in told[-4:]] == ["fall", "loads", "decode", "raw_decode"]


def test_of_a_long_chain_twenty_errors_are_told() -> None:
    """The outermost ones; a group of thousands is cut as well."""
    error: Exception = ValueError("0")
    for number in range(100):
        error = _wrapped(error, number)
    assert len(report(error)) == 20
    assert len(report(ExceptionGroup("many", [ValueError(str(number)) for number in range(5_000)]))) == 20


def _wrapped(cause: Exception, number: int) -> Exception:
    error = ValueError(str(number))
    error.__cause__ = cause
    return error


def test_the_largest_report_fits_into_an_event(tmp_path: Path) -> None:
    """Twenty errors of fifty frames each, in source lines that are long in JSON: the innermost frames come first."""
    line = "    # " + "\U0001f600" * 300
    source = "\n".join(
        ["def go(n):", *[line] * 5, "    if n: go(n - 1)", *[line] * 5, "    raise ValueError('\U0001f600' * 3000)"]
    )
    module = load_module(tmp_path, "wide_source", source)
    errors = [raised(lambda: module.go(60)) for _ in range(20)]
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    entries = report(errors[0], in_app=lambda _: True)
    assert len(entries) == 20
    assert entries[0]["stacktrace"]["frames"][-1]["context_line"] is not None


# -- whatever the error does ------------------------------------------------------------------------------


class Hostile(Exception):  # noqa: N818 - the name is the test
    """Fails, or lies, wherever it is asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __str__(self) -> str:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # may be no text, on purpose

    def __getattribute__(self, name: str) -> Any:
        if name != "answer" and not name.startswith("__str"):
            raise ValueError(name)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: object) -> None:
        if name != "answer":
            raise ValueError(name)
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]  # on purpose


@pytest.mark.parametrize(
    "answer", [5, None, KeyError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError(), b"x"]
)
def test_an_error_that_can_not_be_read_is_reported_all_the_same(answer: object) -> None:
    """Its class and its frames are told, its text is empty; it can be marked like any other."""

    def act() -> None:
        raise Hostile(answer)

    error = raised(act)
    entry = report(error)[0]
    assert (entry["type"], entry["value"]) == ("Hostile", "")
    assert entry["stacktrace"]["frames"][-1]["function"] == "act"
    assert not is_expected(error)
    assert first_time(error)
    assert not first_time(error)
    assert is_expected(mark_expected(error))


def test_bad_arguments_still_give_a_report() -> None:
    """Secrets that can't be read: nothing of the error is shown. An in_app that fails: not the host's code."""
    properties = exception_properties(ValueError("hunter2"), handled=False, secrets=5)  # type: ignore[arg-type]  # on purpose
    assert "hunter2" not in json.dumps(properties)
    assert "$exception_list" in exception_properties(None, handled=True)  # type: ignore[arg-type]  # on purpose
    told = frames(raised(plain), in_app=lambda module: bool(1 / 0) or bool(module))
    assert not any(frame["in_app"] for frame in told)


def test_a_class_made_at_run_time_carries_no_data() -> None:
    """It is told as what it derives from; a module's name that is none is left out."""
    made = type("no such user alice@example.com", (KeyError,), {"__module__": "a b"})
    entry = report(made("x"))[0]
    assert (entry["type"], entry["module"]) == ("KeyError", None)
    assert "stacktrace" not in entry


# -- once, and not at all ---------------------------------------------------------------------------------


def test_one_error_is_reported_once_however_many_layers_see_it() -> None:
    """Raised again, wrapped, in a group of its like, copied, sent by a worker process."""
    error = raised(lambda: int("x"))
    assert first_time(error)
    assert not first_time(error)
    wrapper = linked(RuntimeError("outer"), "__cause__", error)
    assert not first_time(wrapper)
    assert not first_time(linked(RuntimeError("outermost"), "__cause__", wrapper))
    assert not first_time(copy.copy(error))
    assert not first_time(pickle.loads(pickle.dumps(error)))  # noqa: S301 - our own
    assert not first_time(BaseExceptionGroup("all known", [error, BaseExceptionGroup("inner", [wrapper])]))
    assert first_time(BaseExceptionGroup("one is new", [error, ValueError("new")]))


def test_what_was_told_as_part_of_another_is_not_told_again() -> None:
    """The cause, the context and the members of an error that was reported."""
    cause, context, member = ValueError(), TypeError(), KeyError()
    outer = linked(linked(ExceptionGroup("g", [member]), "__cause__", cause), "__context__", context)
    assert first_time(outer)
    assert not first_time(cause)
    assert not first_time(member)
    assert first_time(context), "hidden by the cause, so it was not told"


def test_an_error_while_another_is_handled_is_an_error_of_its_own() -> None:
    """The first was reported; the second, in the host's own handling of it, is news."""
    known, news = ValueError(), raised(handling)
    news.__context__ = known
    assert first_time(known)
    assert first_time(news)


def test_an_expected_error_is_no_fault() -> None:
    """The error itself, one raised from it, a group of such; every error of a marked class."""
    error = ValueError("a typo of the user")
    assert mark_expected(error) is error
    assert is_expected(error)
    assert is_expected(linked(RuntimeError(), "__cause__", error))
    assert not is_expected(linked(RuntimeError(), "__context__", error))
    assert is_expected(ExceptionGroup("g", [error, error]))
    assert not is_expected(ExceptionGroup("g", [error, KeyError()]))
    assert not is_expected(ValueError("a typo of the user"))

    @mark_expected
    class UserError(Exception):
        pass

    class WrongFileError(UserError):
        pass

    assert is_expected(WrongFileError())
    assert is_expected(ExceptionGroup("g", [UserError(), WrongFileError()]))


@pytest.mark.parametrize("mark", [first_time, is_expected])
def test_circles_of_errors_end(mark: Callable[[BaseException], bool]) -> None:
    """Whoever asks gets an answer, also for an error that is its own cause."""
    error = raised(circle)
    mark(error)
    error.__cause__ = error
    mark(error)
    assert len(report(error)) <= 2


def test_a_report_loads_nothing_of_the_delivery_side() -> None:
    """Nor what is slow to load: the traceback module, the inspection of sources."""
    code = """
import sys, spool
before = set(sys.modules)
from spool.exception.report import exception_properties
print(*set(sys.modules) - before)
try: int("x")
except ValueError as error: exception_properties(error, handled=True)
print(*set(sys.modules) - before)
"""
    imported, used = run_python(code, env=environment()).stdout.splitlines()
    assert not [name for name in imported.split() if not name.startswith(("spool", "binascii"))]
    assert not [name for name in used.split() if not name.startswith(("spool", "binascii", "json", "_json"))]
