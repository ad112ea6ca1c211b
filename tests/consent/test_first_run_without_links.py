"""Where link(2) is refused (exFAT, much of FUSE, Android) the first run is counted once as well, whoever is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flusher.context import Context, Options
from flusher.report.status import collect
from flusher.run import run
from spool import Telemetry
from spool.consent import FileState, read_stored
from spool.home import Paths
from spool.queue import FileLock
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, environment, flush_json
from tests.support.strace import Nursery, attached, needs_strace

pytestmark = [pytest.mark.root, needs_strace]

FIRST = """
import sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
receipt = telemetry.capture("scan_completed")
print(receipt.state, telemetry.identity.install_id)
"""
# The child of the nursery has loaded everything; its first capture is the first run of its home.
OPERATION = """
import spool.capture, spool.consent.first_run, spool.queue, spool.queue.recovery
from spool import Telemetry

def first(home):
    telemetry = Telemetry("ktx", "1", "phc_test", home=home, flush="never")
    yield
    say(telemetry.capture("scan_completed").state)
"""
NO_LINKS = ("link:error={}", "linkat:error={}")
STEPS = ("mkdir", "rename", "link", "flock", "fsync", "write", "unlink", "fcntl")


@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EACCES"])
def test_first_runs_at_once_give_one_id_and_one_event(error: str, home: Path, server: LocalPostHog) -> None:
    """Twelve processes: all capture under the same id, and one of them has the notice and the event."""
    calls = "link,linkat"
    wrapper = ["strace", "-f", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"]
    runs = [
        subprocess.Popen(
            [*wrapper, sys.executable, "-c", FIRST, home, server.url],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(12)
    ]  # fmt: skip
    outputs = [run.communicate(timeout=120) for run in runs]
    said = [out.split() for out, _err in outputs]
    assert {words[0] for words in said} <= {"queued", "aside"}
    assert {words[1] for words in said} == {read_stored(home / "telemetry.json").install_id}
    assert sum("anonymous usage data" in err for _out, err in outputs) == 1
    flush_json(home)
    events = [event["event"] for event in server.accepted]
    assert (events.count("install_first_run"), events.count("scan_completed")) == (1, 12)
    assert len({event["distinct_id"] for event in server.accepted}) == 1
    assert sorted(path.name for path in home.iterdir()) == ["spool", "telemetry.json"]


def test_a_first_run_that_is_killed_at_any_step_is_counted_once(tmp_path: Path, server: LocalPostHog) -> None:
    """At each call of each kind: `telemetry.json` is whole or absent, and the next run goes on from there."""
    kills = 0
    with Nursery(OPERATION, tmp_path / "nursery.log") as nursery:
        for call in STEPS:
            for number in range(1, 9):
                home = tmp_path / f"{call}-{number}"
                child, _ = nursery.child("first", home)
                injections = [one.format("EPERM") for one in NO_LINKS if not one.startswith(f"{call}:")]
                with attached(child.pid, *injections, f"?{call}:signal=KILL:when={number}"):
                    child.go_on()
                if not child.killed:
                    break
                kills += 1
                _counted_once(home, server)
    assert kills >= 20


def _counted_once(home: Path, server: LocalPostHog) -> None:
    server.clear()
    assert read_stored(home / "telemetry.json").file in (FileState.ABSENT, FileState.ENABLED)
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("scan_completed")
    telemetry.close()
    options = Options(host=server.url, key=KEY, force=True)
    assert run(Context(app="ktx", paths=Paths(home), options=options, env={})).remaining == 0
    assert collect("ktx", Paths(home), {}).account.balanced
    events = [event["event"] for event in server.accepted]
    assert events.count("install_first_run") == 1, events
    assert {event["distinct_id"] for event in server.accepted} == {read_stored(home / "telemetry.json").install_id}


def test_while_the_queue_is_held_nobody_waits_longer_than_for_an_append(home: Path, server: LocalPostHog) -> None:
    """The first run is put off; the next one is it. Nothing half done stays."""
    calls = "link,linkat"
    wrapper = ["strace", "-f", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={calls}:error=EPERM"]
    command = [*wrapper, sys.executable, "-c", FIRST, str(home), server.url]
    with FileLock(Paths(home).queue_lock).held(1.0):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == "disabled None\n"
    assert [path.name for path in home.iterdir()] == ["spool"]
    assert list(Paths(home).aside.iterdir()) == []
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("queued ")
    assert json.loads((home / "telemetry.json").read_text())["enabled"] is True
