"""A host's test may stop or move the clock: no capture, launch or flush waits by it, and no duration is absurd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from spool.home import Paths
from spool.queue import FileLock
from tests.support.captures import spool_events
from tests.support.local_posthog import LocalPostHog, hang
from tests.support.processes import environment, flush_json, run_python, start_python, status

if sys.platform == "win32":
    pytest.skip("clocks are looked up by a call of POSIX", allow_module_level=True)

# What freezegun and time_machine leave alone, to measure by.
HOST = """
import os, signal, sys, time
from datetime import datetime, timedelta
from freezegun import freeze_time
import time_machine
from spool import Limits, Telemetry

def seconds():
    return time.clock_gettime(time.CLOCK_MONOTONIC)

home, url = sys.argv[1:3]
limits = Limits(lock_wait_s=0.3)
telemetry = Telemetry("ktx", "1", "phc_test", url, home=home, flush=os.environ.get("FLUSH", "never"), limits=limits)
started_s = seconds()
"""
CLOCKS = {
    "freezegun": 'freeze_time("2020-02-02")',
    "freezegun that ticks": 'freeze_time("2020-02-02", tick=True)',
    "time_machine": 'time_machine.travel("1970-01-01 00:00:10", tick=False)',
    "time_machine that ticks": 'time_machine.travel("2120-02-02")',
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_no_capture_waits_by_a_clock_that_is_stopped_or_moved(clock: str, home: Path) -> None:
    """Another process holds the lock: the first capture of a process, the next ones and its end are in time."""
    code = f"""
with {CLOCKS[clock]}:
    print([telemetry.capture("e").state for _ in range(3)])
    telemetry.close()
print(seconds() - started_s < 10)
"""
    with FileLock(Paths(home).queue_lock).held(1.0):
        done = run_python(HOST + code, home, "http://127.0.0.1:9", timeout_s=60)
    assert done.stdout == "['aside', 'aside', 'aside']\nTrue\n", done.stderr
    assert status(home)["pending"] == 4


def test_a_signal_ends_a_process_that_waits_by_a_stopped_clock(home: Path) -> None:
    """SIGTERM comes through when the capture is on disk."""
    code = """
with freeze_time("2020-02-02"):
    print("in", flush=True)
    while True:
        telemetry.capture("e")
"""
    with FileLock(Paths(home).queue_lock).held(1.0), start_python(HOST + code, home, "http://127.0.0.1:9") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
    assert status(home)["pending"] > 1


@pytest.mark.parametrize("clock", CLOCKS)
def test_flush_waits_no_longer_by_a_stopped_clock(clock: str, home: Path, server: LocalPostHog) -> None:
    """The server hangs for longer than anybody waits; the child goes on."""
    server.always(hang(60))
    code = f"""
telemetry.capture("e")
with {CLOCKS[clock]}:
    print(telemetry.flush(timeout_s=1.0), seconds() - started_s < 20)
os._exit(0)
"""
    done = run_python(HOST + code, home, server.url, timeout_s=60)
    assert done.stdout == "False True\n", done.stderr


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_flusher_starts_from_a_process_with_such_a_clock(clock: str, home: Path, server: LocalPostHog) -> None:
    """Once: its start is noted by the same clock as it is asked for."""
    code = f"""
with {CLOCKS[clock]}:
    for _ in range(3):
        telemetry.capture("e")
        telemetry.close()
    print(seconds() - started_s < 20)
"""
    done = run_python(HOST + code, home, server.url, env=environment(FLUSH="auto"), timeout_s=60)
    assert done.stdout == "True\n", done.stderr
    deadline = time.monotonic() + 30
    while len(server.accepted) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len({event["uuid"] for event in server.accepted}) == 4


# -- durations ----------------------------------------------------------------------------------------------


def commands(home: Path) -> list[dict[str, Any]]:
    """Give the `command` events that wait, after the flusher took in those of killed processes."""
    flush_json(home, "run", "--force", "--max-retries", "0")
    listed = flush_json(home, "list")["events"]
    return [event for event in listed if event["event"] == "command"]


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_command_lasts_no_absurd_time_however_its_clock_is_exchanged(clock: str, home: Path) -> None:
    """While it is under way, before it, and after."""
    code = f"""
with telemetry.command(["ktx", "outside"]), {CLOCKS[clock]}:
    telemetry.capture("e")
moved = {CLOCKS[clock]}
with telemetry.command(["ktx", "into"]):
    moved.start()
moved.stop()
with telemetry.command(["ktx", "within"]), {CLOCKS[clock]}:
    pass
moved = {CLOCKS[clock]}
moved.start()
with telemetry.command(["ktx", "out of"]):
    moved.stop()
telemetry.close()
"""
    assert run_python(HOST + code, home, "http://127.0.0.1:9").returncode == 0
    found = commands(home)
    assert len(found) == 4
    assert all(0 <= event["properties"]["durationMs"] < 60_000 for event in found)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_killed_command_lasts_no_absurd_time_when_its_clock_jumped(clock: str, order: str, home: Path) -> None:
    """The jump comes before its beginning or after it; the last it is known to have lived is an event of it."""
    steps = [f"moved = {CLOCKS[clock]}; moved.start()", 'telemetry.command(["ktx", "work"]).__enter__()']
    code = "\n".join(steps if order == "before" else steps[::-1])
    code += '\ntelemetry.capture("e")\ntime.sleep(0.2)\ntelemetry.capture("e")\nos.kill(os.getpid(), signal.SIGKILL)'
    began = time.time()
    assert run_python(HOST + code, home, "http://127.0.0.1:9").returncode == -signal.SIGKILL
    (event,) = commands(home)
    assert event["properties"]["spool_recovered"] == "killed"
    assert 0 <= event["properties"]["durationMs"] < 60_000
    if order == "before" and "freezegun" in clock:
        assert event["timestamp"].startswith("2020-02-02T00:0")
    elif order == "after":
        assert event["timestamp"][:4] == time.strftime("%Y", time.gmtime(began))


def test_a_killed_command_lasted_until_its_last_event(home: Path) -> None:
    """Where the clock is sound."""
    code = """
telemetry.command(["ktx", "work"]).__enter__()
time.sleep(0.5)
telemetry.capture("e")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_python(HOST + code, home, "http://127.0.0.1:9").returncode == -signal.SIGKILL
    (event,) = commands(home)
    assert 500 <= event["properties"]["durationMs"] < 30_000


STAMPS = ["0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z", "1970-01-01T00:00:00.000000Z"]
NO_STAMPS = ["9999-12-31T23:59:59.999999-12:00", "0001-01-01T00:00:00.000000+14:00", "2026-11-30T12:00:00"]


@pytest.mark.parametrize("touched", [0.0, 4e9])
def test_dead_commands_of_any_time_are_taken_in(touched: float, home: Path) -> None:
    """The first and the last day that there is; a time beyond the calendar, or of no zone, is a damaged file."""
    spool_events(home, "http://127.0.0.1:9", 1)
    spans = Paths(home).spans
    spans.mkdir(mode=0o700)
    for number, stamp in enumerate(STAMPS + NO_STAMPS):
        uuid = str(UUID(int=number))
        message = {"uuid": uuid, "event": "command", "distinct_id": "d", "timestamp": stamp, "properties": {"a": 1}}
        path = spans / f"{uuid}.json"
        path.write_text(json.dumps(message))
        path.chmod(0o600)
        os.utime(path, (touched, touched))
    report = flush_json(home, "run", "--max-retries", "0")
    assert (report["exit_code"], report["recovered_spans"]) == (75, len(STAMPS))
    found = {event["timestamp"]: event["properties"]["durationMs"] for event in commands(home)}
    assert found == dict.fromkeys(STAMPS, 0.0)
    assert status(home)["losses"] == {"damaged": len(NO_STAMPS)}


def test_events_of_any_time_are_shown_and_sent(home: Path, server: LocalPostHog, tmp_path: Path) -> None:
    """By list, report and a run, which writes its line into the log: the first and the last day that there is."""
    code = """
from datetime import UTC, timezone
for moment in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)):
    print(telemetry.capture("e", timestamp=moment).state)
print(telemetry.capture("e", timestamp=datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))).state)
telemetry.close()
"""
    assert run_python(HOST + code, home, server.url).stdout.split() == ["queued"] * 3 + ["lost"]
    for command in (("list",), ("status",), ("report", "--output", str(tmp_path / "page.html"))):
        done = subprocess.run(
            [sys.executable, "-m", "flusher", "--home", home, *command],
            env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert flush_json(home)["delivered"] >= 4
    (line,) = Paths(home).flush_log.read_text().splitlines()
    assert json.loads(line)["longest_delay_s"] >= 0
