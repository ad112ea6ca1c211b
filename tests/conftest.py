"""What every test gets: a home of its own, an environment that says nothing, a local PostHog."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from spool.home import Paths
from tests.support.inherited import restore_signals
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import SILENT

# Before any test, in each of xdist's workers as well: every program that a test starts inherits it.
restore_signals()


@pytest.fixture(autouse=True)
def silent_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither the machine's own environment nor an earlier test decides a test: CI itself switches telemetry off.

    Nor does a home in which everybody may write, as folders are made under a umask of 0.
    """
    before = os.umask(0o022)
    for name in SILENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    yield
    os.umask(before)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that isn't there yet, as on a fresh machine."""
    return tmp_path / "home"


@pytest.fixture
def paths(home: Path) -> Paths:
    """The files of that home."""
    return Paths(home)


@pytest.fixture
def server() -> Iterator[LocalPostHog]:
    """A PostHog that works, on loopback."""
    with LocalPostHog() as server:
        yield server
