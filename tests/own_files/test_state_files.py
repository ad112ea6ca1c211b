"""State files are read by one function: whatever stands in their place, hosts and flushers go on, and it is mended."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("no pipes with names here", allow_module_level=True)

from flusher.delivery import state
from flusher.delivery.backoff import is_due as may_try
from spool import Telemetry
from spool.consent import decide_for_all
from spool.home import Paths, read_state
from spool.launch.destination import host_catalogue, host_limits
from spool.launch.start import is_due
from spool.settings import Limits
from tests.support.local_posthog import LocalPostHog
from tests.support.odd_entries import CONTENTS, ENTRIES, put
from tests.support.processes import KEY, flush, flush_json, run_python, status

HOST = """
import sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], home=sys.argv[1], flush=sys.argv[3])
print(telemetry.capture("captured").state)
"""
# These hold an object, with odd values or odd owners.
OBJECTS = {"large numbers", "infinite", "other types", "properties a list", "a foreign file"}


def test_a_sound_state_file_is_given_as_it_is(tmp_path: Path) -> None:
    """Counts of 19 digits, moments, texts, and what stands in them."""
    fields = {"a": 10**18, "b": -1.5, "c": "ä", "d": [1, {"e": None}], "f": True}
    (tmp_path / "x").write_text(json.dumps(fields))
    assert read_state(tmp_path / "x") == fields


@pytest.mark.parametrize("kind", [*ENTRIES, *CONTENTS])
def test_any_other_is_unknown_or_can_be_reckoned_with(kind: str, tmp_path: Path) -> None:
    """Never waited for, and never raised; a number is no other than a float can hold, or infinite."""
    if kind == "a device" and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    path = tmp_path / "home" / "x"
    put(kind, path)
    found = read_state(path)
    assert (found is None) == (kind not in OBJECTS and (kind != "a shut file" or os.geteuid() != 0))
    for value in (found or {}).values():
        if isinstance(value, int | float):
            assert not math.isnan(float(value) + 1.0)


@pytest.mark.parametrize("kind", [kind for kind in (*ENTRIES, *CONTENTS) if kind != "a device"])
def test_who_reads_a_state_file_takes_nothing_odd_for_granted(kind: str, paths: Paths) -> None:
    """An attempt may be made, limits are the defaults, and the catalogue is not known."""
    put(kind, paths.flush_state)
    put(kind, paths.destination)
    assert is_due(paths, time.time(), 300.0)
    assert may_try(state.load(paths).waiting, time.time())
    assert host_limits(paths) == Limits()
    assert host_catalogue(paths) is None


@pytest.mark.parametrize("wait_s", [3e9, 1e15, 10**400])
def test_no_stored_wait_is_longer_than_any_that_is_decided(wait_s: float, paths: Paths) -> None:
    """A day and some: a file that says more was not written by a flusher, or by one with another clock."""
    paths.spool.mkdir(parents=True)
    fields = {"next_attempt": time.time() + 2e9, "delay_s": wait_s, "failures": 3}
    paths.flush_state.write_text(json.dumps(fields))
    assert is_due(paths, time.time(), 300.0)
    assert may_try(state.load(paths).waiting, time.time())


@pytest.mark.parametrize("place", ["launched", "flush.json", "flush.lock", "destination.json"])
@pytest.mark.parametrize("kind", ["a folder", "a pipe"])
def test_a_host_starts_its_flusher_all_the_same(kind: str, place: str, home: Path, server: LocalPostHog) -> None:
    """The first event is taken, the end of the process doesn't hang, and everything is delivered."""
    put(kind, home / "spool" / place)
    (home / "spool").chmod(0o700)
    done = run_python(HOST, home, server.url, "auto")
    assert (done.returncode, done.stdout) == (0, "queued\n"), done.stderr
    deadline = time.monotonic() + 30
    while len(server.accepted) < 2:
        assert time.monotonic() < deadline, f"{len(server.accepted)} events arrived"
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["a full folder", "a pipe", "a link to nothing", "3 MB"])
def test_an_opt_out_is_carried_out_whatever_tells_that_it_was(kind: str, home: Path) -> None:
    """Once: what comes after it in the file's place says so to the next run."""
    assert run_python(HOST, home, "http://127.0.0.1:9", "never").stdout == "queued\n"
    paths = Paths(home)
    put(kind, paths.wiped)
    decide_for_all(paths, enabled=False)
    for _ in range(2):
        assert flush_json(home)["result"] == "telemetry off"
        assert (status(home)["pending"], set(status(home)["losses"])) == (0, {"opted_out"})
        assert paths.wiped.is_file()


def test_an_opt_out_is_carried_out_whatever_stands_in_the_place_of_the_lock(home: Path) -> None:
    """No flusher makes way while telemetry is off."""
    assert run_python(HOST, home, "http://127.0.0.1:9", "never").stdout == "queued\n"
    put("a full folder", home / "spool" / "queue.lock")
    assert flush(home, "disable").returncode == 0
    assert (status(home)["pending"], set(status(home)["losses"])) == (0, {"opted_out"})


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "half", "a large number", "other types"])
def test_a_destination_that_does_not_read_is_told_until_a_host_writes_it_anew(
    kind: str, home: Path, server: LocalPostHog
) -> None:
    """Exit 2 and one line: the events are kept, and go out after the next start of the host."""
    assert run_python(HOST, home, server.url, "never").stdout == "queued\n"
    put(kind, home / "spool" / "destination.json")
    for _ in range(2):
        done = flush(home, "run", "--quiet")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert kind == "other types" or "destination.json doesn't read" in done.stderr
    assert run_python(HOST, home, server.url, "never").stdout == "queued\n"
    assert flush_json(home)["exit_code"] == 0
    assert len(server.accepted) == 3


def test_a_report_takes_the_place_of_what_stands_there(home: Path, server: LocalPostHog) -> None:
    """A folder of somebody's: it is kept, with its reason."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home=home, flush="never")
    assert telemetry.capture("captured")
    telemetry.close()
    put("a full folder", home / "spool" / "report.html")
    assert flush(home, "report").returncode == 0
    assert (home / "spool" / "report.html").is_file()
    kept = [path.suffix for path in (home / "spool" / "quarantine").iterdir()]
    assert sorted(kept) == [".html", ".reason"]
