"""The calls of this package in a traceback that a person sees: there are none without it, so they are taken out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType

__all__ = ["hide_own_calls"]

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
# A chain of errors may be a ring.
_MOST_ERRORS = 20


def hide_own_calls(error: BaseException | None) -> None:
    """Take this package's calls out of an error's traceback, and of those that it came from."""
    waiting, seen = [error], 0
    while waiting and seen < _MOST_ERRORS:
        one = waiting.pop()
        if one is not None:
            seen += 1
            one.__traceback__ = _without_own(one.__traceback__)
            waiting += [one.__cause__, one.__context__]


def _without_own(calls: TracebackType | None) -> TracebackType | None:
    kept: TracebackType | None = None
    for call in reversed(list(_each(calls))):
        if not call.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            call.tb_next, kept = kept, call
    return kept


def _each(calls: TracebackType | None) -> Iterator[TracebackType]:
    while calls is not None:
        yield calls
        calls = calls.tb_next
