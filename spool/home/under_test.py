"""The home that a test with the guard kit has for every app.

Child processes learn of it by the environment. The test's own process remembers it too, since a test may clear
`os.environ`: without a home of the test's, an event would go to the real one of the person who runs the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from spool.settings import TESTING

__all__ = ["home_under_test", "is_for_tests", "under_test"]


class _Process:
    """What the guard kit has set in this process."""

    home: ClassVar[str | None] = None
    # All that it ever set here: a thread that outlives its test may still use one.
    homes: ClassVar[set[str]] = set()


@contextmanager
def under_test(home: str) -> Iterator[None]:
    """Let every app of this process have this home for the block. Blocks may nest: the innermost holds."""
    before = _Process.home
    _Process.homes.add(home)
    _Process.home = home
    try:
        yield
    finally:
        _Process.home = before


def home_under_test(env: Mapping[str, str]) -> str | None:
    """Give the home of the test that runs now, or None outside of a test with the guard kit."""
    return _Process.home or env.get(TESTING) or None


def is_for_tests(home: str, env: Mapping[str, str]) -> bool:
    """Tell whether no flusher may be started for a home: a test with the guard kit runs, or the home was a test's."""
    return home_under_test(env) is not None or home in _Process.homes
