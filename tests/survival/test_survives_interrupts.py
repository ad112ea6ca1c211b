"""Guarantee 1: what a true receipt was given for survives kill -9 of any process."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.local_posthog import LocalPostHog, accept_then_hang
from tests.support.processes import (
    acknowledged,
    environment,
    flush_json,
    run_python,
    start_python,
    start_writer,
    status,
)

if sys.platform == "win32":
    pytest.skip("processes are killed and stopped here by POSIX signals", allow_module_level=True)

KILLS = 60


def test_a_writer_killed_at_random_moments_loses_nothing_acknowledged(home: Path, server: LocalPostHog) -> None:
    """Sixty writers are killed while they capture; every acknowledged event arrives, exactly once."""
    rng = random.Random(20261123)
    promised: list[str] = []
    for number in range(KILLS):
        with start_writer(home, server.url, name=str(number)) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.03))
            writer.kill()
            promised += acknowledged(first + writer.stdout.read())
            assert writer.wait() == -signal.SIGKILL
    report = flush_json(home)
    assert report["exit_code"] == 0
    arrived = Counter(event["uuid"] for event in server.accepted)
    assert len(promised) > KILLS
    assert [uuid for uuid in promised if uuid not in arrived] == []
    assert max(arrived.values()) == 1
    account = status(home)["accounting"]
    assert account["delivered"] == len(arrived)
    assert account["pending"] == account["lost"] == 0


def test_numbers_have_no_gap_after_kills(home: Path, server: LocalPostHog) -> None:
    """A gap in spool_sequence on the server proves a loss: kills alone leave none."""
    for number in range(5):
        with start_writer(home, server.url, name=str(number)) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.02)
            writer.kill()
            writer.stdout.read()
    flush_json(home)
    numbers = sorted(event["properties"]["spool_sequence"] for event in server.events())
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_flusher_killed_between_answer_and_settling_sends_the_same_event_again(
    home: Path, server: LocalPostHog
) -> None:
    """The server stored the batch, the flusher dies before it knows: both copies are equal."""
    run_python(WRITE_TEN, home, server.url)
    server.misbehave(accept_then_hang(30))
    with start_python("from flusher.cli import main; main()", "--home", home, "run", env=environment()) as flusher:
        _wait_until(lambda: len(server.accepted) > 0)
        flusher.kill()
        flusher.communicate()
    assert status(home)["pending"] == 11
    report = flush_json(home)
    assert (report["exit_code"], report["delivered"]) == (0, 11)
    copies: dict[str, list[tuple[str, str]]] = {}
    for event in server.accepted:
        copies.setdefault(event["uuid"], []).append((event["timestamp"], event["event"]))
    assert [len(pair) for pair in copies.values()] == [2] * 11
    assert all(first == second for first, second in copies.values())
    assert len(server.events()) == 11


def test_a_flusher_killed_at_random_moments_loses_nothing(home: Path, server: LocalPostHog) -> None:
    """Kill it twenty times while it drains: in the end everything arrived, with one uuid and timestamp."""
    written = run_python(WRITE_MANY, home, server.url, 4000)
    promised = acknowledged(written.stdout)
    rng = random.Random(7)
    for _ in range(20):
        with start_python(
            "from flusher.cli import main; main()",
            "--home",
            home,
            "run",
            "--batch-size",
            "50",
            env=environment(),
        ) as flusher:
            time.sleep(0.25 + rng.uniform(0.0, 0.3))
            flusher.kill()
            flusher.communicate()
    report = flush_json(home)
    assert (report["exit_code"], report["remaining"]) == (0, 0)
    stamps: dict[str, set[str]] = {}
    for event in server.accepted:
        stamps.setdefault(event["uuid"], set()).add(event["timestamp"])
    assert [uuid for uuid in promised if uuid not in stamps] == []
    assert {len(stamp) for stamp in stamps.values()} == {1}
    assert status(home)["accounting"]["delivered"] == len(server.events()) == 4001


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_an_event_survives_whatever_ends_the_process_right_after_its_receipt(
    end: str, home: Path, server: LocalPostHog
) -> None:
    """No exit handler is needed for a promise to hold."""
    done = run_python(
        "import os, sys\nfrom spool import Telemetry\n"
        "t = Telemetry('ktx', '1', 'phc_test', sys.argv[2], sys.argv[1], flush='never')\n"
        f"os.write(1, t.capture('last_words').uuid.encode() + b' x\\n'); {end}",
        home,
        server.url,
    )
    (promised,) = acknowledged(done.stdout)
    flush_json(home)
    assert promised in {event["uuid"] for event in server.events()}


def test_sixteen_writers_at_once_miss_nothing(home: Path, server: LocalPostHog) -> None:
    """Sixteen processes write 100 events each; all arrive, the numbers have no gap and no double."""
    writers = [start_writer(home, server.url, 100, str(number)) for number in range(16)]
    outputs = [writer.communicate(timeout=120) for writer in writers]
    assert [err for _out, err in outputs if "notice" in err or "lost" in err] == []
    promised = [uuid for out, _err in outputs for uuid in acknowledged(out)]
    assert len(set(promised)) == 1600
    flush_json(home)
    events = server.events()
    assert set(promised) <= {event["uuid"] for event in events}
    assert sorted(event["properties"]["spool_sequence"] for event in events) == list(range(1, len(events) + 1))


WRITE_TEN = """
import sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
for number in range(10):
    assert telemetry.capture("scan_completed", {"number": number})
"""

WRITE_MANY = """
import sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
for number in range(int(sys.argv[3])):
    print(telemetry.capture("scan_completed", {"number": number}).uuid)
"""


def _wait_until(condition: object, timeout_s: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_stopped_flusher_process_is_no_obstacle_after_its_death(home: Path, server: LocalPostHog) -> None:
    """At most one flusher delivers; a killed one blocks nobody."""
    run_python(WRITE_TEN, home, server.url)
    server.misbehave(accept_then_hang(30))
    with start_python("from flusher.cli import main; main()", "--home", home, "run", env=environment()) as first:
        _wait_until(lambda: len(server.accepted) > 0)
        second = flush_json(home)
        assert (second["exit_code"], second["result"], second["requests"]) == (
            0,
            "another flusher is at work",
            0,
        )
        first.send_signal(signal.SIGSTOP)
        assert flush_json(home)["result"] == "another flusher is at work"
        first.kill()
        first.communicate()
    assert flush_json(home)["delivered"] == 11


def test_a_signal_ends_a_run_cleanly_although_the_server_hangs(home: Path, server: LocalPostHog) -> None:
    """SIGTERM while the server says nothing: it leaves with an exit code of the contract, all kept."""
    run_python(WRITE_TEN, home, server.url)
    server.misbehave(accept_then_hang(30))
    with start_python(
        "from flusher.cli import main; main()", "--home", home, "run", "--json", env=environment()
    ) as flusher:
        _wait_until(lambda: len(server.accepted) > 0)
        flusher.send_signal(signal.SIGTERM)
        try:
            out, err = flusher.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            flusher.kill()
            raise
    assert (flusher.returncode, err) == (0, "")
    assert '"told to stop"' in out
    assert status(home)["pending"] == 11
