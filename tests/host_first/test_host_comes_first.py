"""Guarantee 5: a capture costs no network, no wait beyond lock_wait_s, no delivery code, no stdout."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from spool import Limits, Telemetry
from spool.home import Paths
from spool.queue import FileLock
from tests.support.processes import environment, run_python, status

DELIVERY = {"posthog", "requests", "urllib3", "typer", "rich", "click", "flusher"}


def test_a_host_never_loads_the_delivery_side(home: Path) -> None:
    """Import, capture and close: the list of modules of a real process holds nothing that delivers."""
    code = (
        "import sys\nfrom spool import Telemetry\n"
        "t = Telemetry('ktx', '1', 'phc_x', home=sys.argv[1], flush='never')\n"
        "assert t.capture('a'); t.close()\nprint(*sys.modules)"
    )
    loaded = {name.split(".")[0] for name in run_python(code, home).stdout.split()}
    assert {"diskcache", "filelock", "sqlite3"} <= loaded
    assert loaded & DELIVERY == set()


def test_importing_spool_loads_neither_the_queue_nor_the_lock() -> None:
    """What a command that captures nothing pays is the import of spool alone."""
    done = run_python("import sys\nimport spool\nprint(*sys.modules)")
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "spool" in loaded
    assert loaded & (DELIVERY | {"diskcache", "filelock", "sqlite3", "uuid"}) == set()


def test_a_held_lock_delays_a_capture_no_longer_than_lock_wait_s(home: Path) -> None:
    """Another process sits on queue.lock: the event goes aside in time, with a true receipt."""
    paths = Paths(home)
    telemetry = Telemetry("ktx", "1", "phc_x", home=home, flush="never", limits=Limits(lock_wait_s=0.1))
    assert telemetry.capture("first")
    lock = FileLock(paths.queue_lock)
    with lock.held(1.0):
        started = time.monotonic()
        receipt = telemetry.capture("second")
        waited_s = time.monotonic() - started
    assert (receipt.state, bool(receipt)) == ("aside", True)
    assert 0.1 <= waited_s < 2.0
    telemetry.close()
    assert status(home)["aside"] == 2


STOPPED_CLOCK = """
import sys, time
from spool import Limits, Telemetry
telemetry = Telemetry("ktx", "1", "phc_x", home=sys.argv[1], flush="never", limits=Limits(lock_wait_s=0.1))
time.monotonic = lambda: 5.0  # as freezegun does in the tests of a host
print(telemetry.capture("while another holds the lock").state)
"""


def test_a_clock_that_stands_still_makes_no_capture_wait_for_ever(home: Path) -> None:
    """A deadline on such a clock never comes: the number of tries is a bound of its own."""
    with FileLock(Paths(home).queue_lock).held(1.0):
        done = run_python(STOPPED_CLOCK, home, timeout_s=20)
    assert (done.returncode, done.stdout) == (0, "aside\n"), done.stderr


def test_the_lock_and_a_busy_database_are_waited_for_together(home: Path) -> None:
    """Half of the time goes for queue.lock, then somebody without it sits on SQLite's own: one patience for both."""
    paths = Paths(home)
    telemetry = Telemetry("ktx", "1", "phc_x", home=home, flush="never", limits=Limits(lock_wait_s=2.0))
    assert telemetry.capture("first")
    lock, busy = FileLock(paths.queue_lock), sqlite3.connect(paths.database, isolation_level=None)
    busy.execute("BEGIN IMMEDIATE")
    lock.acquire(1.0)
    release = threading.Timer(1.5, lock.release)
    release.start()
    started = time.monotonic()
    receipt = telemetry.capture("second")
    waited_s = time.monotonic() - started
    release.join()
    busy.close()
    assert receipt.state == "aside"
    assert 2.0 <= waited_s < 3.0  # each for itself, it would be 3.5
    assert telemetry.capture("third").state == "queued"
    telemetry.close()


def test_stdout_is_never_touched(home: Path) -> None:
    """It may be a protocol channel: first run, notice, debug line and lost event write nothing to it."""
    code = (
        "import sys\nfrom spool import Telemetry\n"
        "t = Telemetry('ktx', '1', 'phc_x', home=sys.argv[1], flush='never')\n"
        "t.capture('a'); t.capture(''); t.capture('b', {'x': object()})\n"
    )
    done = run_python(code, home)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("\n") == 1
    debug = run_python(code, home, env=environment(KTX_TELEMETRY_DEBUG="1"))
    assert debug.stdout == ""
    assert debug.stderr.startswith("[telemetry] {")


def test_a_host_whose_home_can_not_be_written_goes_on(tmp_path: Path) -> None:
    """A file where the home should be: telemetry is off, quietly, and every call returns."""
    blocked = tmp_path / "home"
    blocked.write_text("in the way")
    telemetry = Telemetry("ktx", "1", "phc_x", home=blocked, flush="never")
    receipt = telemetry.capture("a")
    assert (receipt.state, bool(receipt), receipt.reason) == ("disabled", False, "home not usable")
    telemetry.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_everything_is_private_under_any_umask(umask: int, home: Path) -> None:
    """Folders 0700, files 0600, while open and after: nobody else on the machine reads events."""
    code = (
        "import os, sys\nfrom spool import Telemetry\nos.umask(int(sys.argv[2]))\n"
        "t = Telemetry('ktx', '1', 'phc_x', home=sys.argv[1], flush='never')\n"
        "for n in range(300): t.capture('a', {'n': n})\n"
        "os._exit(0)"
    )
    assert run_python(code, home, umask).returncode == 0
    found = {path.relative_to(home): stat.S_IMODE(path.lstat().st_mode) for path in home.rglob("*")}
    assert Path("spool/queue/cache.db-wal") in found
    modes = {0o700 if (home / path).is_dir() else 0o600 for path in found}
    assert modes == {0o700, 0o600}
    assert {path: mode for path, mode in found.items() if mode not in (0o700, 0o600)} == {}
    assert all(mode == (0o700 if (home / path).is_dir() else 0o600) for path, mode in found.items())


def test_a_mistake_is_lost_and_counted_in_production_and_raises_in_strict_mode(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event name, no JSON, an event over the limit: said in the receipt, counted by cause."""
    limits = Limits(max_event_bytes=2_000)
    telemetry = Telemetry("ktx", "1", "phc_x", home=home, flush="never", limits=limits)
    receipts = [
        telemetry.capture(""),
        telemetry.capture("a", {"x": object()}),
        telemetry.capture("a", uuid="no uuid"),
        telemetry.capture("a", distinct_id="x" * 201),
        telemetry.capture("a", {"x": "y" * 2_000}),
    ]
    assert {receipt.state for receipt in receipts} == {"lost"}
    assert all(receipt.reason for receipt in receipts)
    monkeypatch.setenv("KTX_TELEMETRY_STRICT", "1")
    with pytest.raises(ValueError, match="no JSON"):
        telemetry.capture("a", {"x": object()})
    telemetry.close()
    assert status(home)["losses"] == {"invalid": 4, "too_large": 1}


def test_a_text_of_the_hosts_own_kind_is_an_events_name(home: Path) -> None:
    """Also one without a hash: the event is on disk, and no loss is told."""

    class Name(str):
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]  # that is what the test needs

        def __eq__(self, other: object) -> bool:
            return str(self).lower() == str(other).lower()

    telemetry = Telemetry("ktx", "1", "phc_x", home=home, flush="never")
    assert telemetry.capture(Name("scan_completed")).state == "queued"
    telemetry.close()
    found = status(home)
    assert (found["accounting"]["lost"], found["last_losses"]) == (0, [])


@pytest.mark.parametrize(
    "limits",
    [{"lock_wait_s": -1}, {"lock_wait_s": float("nan")}, {"max_bytes": 0}, {"max_events": True}, {"max_events": 2.5}],
    ids=["a wait below zero", "a wait of nothing", "no byte", "a flag", "half an event"],
)
def test_limits_that_no_queue_can_keep_are_refused_however_they_are_made(limits: dict[str, Any]) -> None:
    """Half an event would stop every append once the queue is full; a limit that is replaced is checked as well."""
    for make in (Limits, Limits()._replace):
        with pytest.raises(ValueError, match=next(iter(limits))):
            make(**limits)


def test_a_personal_key_is_refused() -> None:
    """A phx_ key could do more than capture: it must not stand in a shipped program."""
    with pytest.raises(ValueError, match="phx_"):
        Telemetry("ktx", "1", "phx_secret")
