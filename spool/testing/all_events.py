"""The guard kit's session check: every event of the catalogue was captured by some test.

Each test that uses `captured` reports what was captured in it; under pytest-xdist the workers pass that to their
controller, which judges. All tests that ran count, also those that failed. A run that a person narrowed to some tests
(`-k`, `--lf`, a test's own id) is not judged, and says so; one that was narrowed by a marker or by folders is judged. A
run that ended early (`-x`) has failed already.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["AllEvents", "missing"]

# The spool's own: it comes with the first run of an install, whatever the host does.
_EXEMPT = {"install_first_run"}
_HANDED = "spool_all_events"


def missing(catalogue: Iterable[str], seen: Iterable[str]) -> list[str]:
    """Give the events of a catalogue that were not seen, in its order, without those that the spool itself captures."""
    left_out = {*seen, *_EXEMPT}
    return [name for name in catalogue if name not in left_out]


class AllEvents:
    """The check of one session: a plugin of pytest, in each worker and in the controller."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seen: set[str] = set()
        self._known: dict[str, None] = {}
        self._lines: list[str] = []
        self._bad = False

    def note(self, seen: Iterable[str], known: Iterable[str]) -> None:
        """Take what one test captured, and the events of the catalogues that its hosts have."""
        self._seen.update(seen)
        self._known.update(dict.fromkeys(known))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker of pytest-xdist hands over; one that crashed hands over nothing."""
        self.note(*getattr(node, "workeroutput", {}).get(_HANDED, ((), ())))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge, and let the run fail; a worker leaves that to its controller."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[_HANDED] = (sorted(self._seen), list(self._known))
            return
        whole = not (session.shouldstop or session.shouldfail or self._config.option.collectonly)
        if whole and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            self._judge()
            if self._bad and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _judge(self) -> None:
        try:
            names = self._catalogue()
        except ValueError as error:
            self._lines, self._bad = [str(error)], True
            return
        left = missing(names, self._seen)
        narrowed = _narrowed(self._config)
        if left and narrowed:
            self._lines = [f"not judged, since {narrowed} chose some tests: {len(left)} of {len(names)} are left"]
        elif left:
            self._bad = True
            self._lines = [f"{len(left)} of {len(names)} events of the catalogue were captured by no test:"]
            self._lines += [f"  {name}" for name in left]

    def _catalogue(self) -> list[str]:
        """Give the names that are asked for; ValueError says what to give where that is not known."""
        named = self._config.getoption("--spool-catalogue") or self._config.getini("spool_catalogue")
        if named:
            return list(_load(named))
        if not self._known:
            raise ValueError(
                "which events? No Telemetry with a catalogue was used by a test with `captured`:"
                " give --spool-catalogue MODULE:NAME, or spool_catalogue in the pytest configuration"
            )
        return sorted(self._known)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was found, where there is something to say."""
        if self._lines:
            terminalreporter.section("spool: events that no test captured", red=self._bad, bold=self._bad)
            for line in self._lines:
                terminalreporter.write_line(line)


def _load(named: str) -> tuple[str, ...]:
    module, _, name = named.partition(":")
    try:
        names: tuple[str, ...] = getattr(importlib.import_module(module), name).names()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the catalogue {named!r} can't be had ({error}): give MODULE:NAME of one") from error
    return names


def _narrowed(config: pytest.Config) -> str:
    """Name what narrowed the run to some tests, if a person did that."""
    if config.option.keyword:
        return "-k"
    if getattr(config.option, "lf", False):
        return "--last-failed"
    return "a test's id" if any("::" in str(argument) for argument in config.args) else ""
