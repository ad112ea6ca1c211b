"""The guard kit: what the code under test spooled, and nothing of it outside the test's own home."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from spool import Telemetry
from spool.errors import InvalidEventError
from spool.ktx_events import CATALOGUE
from spool.settings import TESTING
from spool.testing.captured import Captured
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import ROOT, run_python

# As hosts have them: made when a module is imported, long before any fixture.
ELSEWHERE = Path("/nowhere/that/anybody/could/write")
HOSTS = {
    "ktx": Telemetry("ktx", "1", catalogue=CATALOGUE),
    "any other": Telemetry("my-cli_2", "1", catalogue=CATALOGUE),
    "with a home of its own": Telemetry("ktx", "1", home=ELSEWHERE, catalogue=CATALOGUE),
}
KTX = HOSTS["ktx"]
SCAN: dict[str, Any] = {
    "driver": "sqlite",
    "tableCount": 1,
    "columnCount": 2,
    "inferredFkCount": 0,
    "declaredFkCount": 0,
    "durationMs": 1.5,
    "outcome": "ok",
}
CHILD = """
import os, signal
from spool import Telemetry
t = Telemetry("never-heard-of", "1", "phc_test", home="/nowhere/that/anybody/could/write")
"""


def child(code: str, **more: str) -> str:
    """Run a host in a process that inherits the test's environment; give what it says on both streams."""
    done = run_python(CHILD + code, env={**os.environ, "PYTHONPATH": str(ROOT), **more})
    return done.stdout + done.stderr


# -- where it is spooled --------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("host", HOSTS)
def test_a_telemetry_of_a_module_has_a_new_home_in_each_test(host: str, turn: int, captured: Captured) -> None:
    """Whatever its app and its home: nothing is there before, one event after it, in order and with its fields."""
    assert captured == []
    HOSTS[host].capture("scan_completed", {**SCAN, "tableCount": turn})
    event = captured.one("scan_completed", tableCount=turn)
    assert set(event) == {"uuid", "event", "distinct_id", "timestamp", "properties"}
    assert (len(captured), captured[0], captured[-1:]) == (1, event, [event])
    assert not ELSEWHERE.exists()


def test_a_host_in_a_child_process_spools_into_the_same_home(captured: Captured) -> None:
    """Of an app that nobody named, with a home of its own; a command that was killed is told as well."""
    assert child("assert t.capture('a')") == ""
    child("with t.command(['x', 'y']): os.kill(os.getpid(), signal.SIGKILL)")
    assert captured.names() == ["a", "command"]
    captured.one("command", outcome="aborted", spool_recovered="killed")
    assert not ELSEWHERE.exists()


def test_what_went_aside_is_captured_too(captured: Captured) -> None:
    """The queue's lock can't be had: the event is on disk, and so it is listed."""
    assert KTX.capture("scan_completed", SCAN)
    holder = "from spool.queue import FileLock; from pathlib import Path; import sys\n"
    holder += f"lock = FileLock(Path({str(captured.home / 'spool' / 'queue.lock')!r})); lock.acquire(5)\n"
    assert child(holder + "print(t.capture('beside').state)") == "aside\n"
    assert captured.names() == ["scan_completed", "beside"]


def test_the_environment_of_whoever_runs_the_tests_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """CI, a personal opt-out and a personal home: as if they were not set; afterwards they are again."""
    own = {
        "CI": "1",
        "DO_NOT_TRACK": "1",
        "KTX_TELEMETRY_DISABLED": "1",
        "KTX_TELEMETRY_DEBUG": "1",
        "KTX_HOME": str(tmp_path / "mine"),
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    captured = request.getfixturevalue("captured")
    assert KTX.capture("scan_completed", SCAN)
    assert os.environ["KTX_HOME"] == str(captured.home)
    captured.one("scan_completed")
    assert captured[0]["properties"]["isCi"] is False
    assert list(tmp_path.iterdir()) == [tmp_path / "user"]
    monkeypatch.undo()
    assert os.environ[TESTING] == str(captured.home)  # what the test does with its own patches is no matter


def test_the_install_has_had_its_first_run(captured: Captured, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither notice nor `install_first_run`: those are the spool's own, and no host's to test."""
    assert KTX.capture("scan_completed", SCAN)
    assert captured.names() == ["scan_completed"]
    assert captured[0]["distinct_id"] == KTX.identity.install_id
    assert capsys.readouterr() == ("", "")


def test_no_flusher_is_started(captured: Captured, server: LocalPostHog) -> None:
    """Not at the first event, not at the end, not when the host asks to wait for one, not by a child."""
    telemetry = Telemetry("ktx", "1", "phc_test", server.url, flush="auto", catalogue=CATALOGUE)
    assert telemetry.capture("scan_completed", SCAN)
    assert telemetry.flush(timeout_s=10) is False
    telemetry.close()
    child(f"Telemetry('ktx', '1', 'phc_test', {server.url!r}, flush='auto').capture('a')")
    assert captured.names() == ["scan_completed", "a"]
    assert not (captured.home / "spool" / "launched").exists()
    assert server.requests == []


@pytest.mark.parametrize("turn", [1, 2])
def test_a_command_that_a_test_left_open_is_over_in_the_next(turn: int, captured: Captured) -> None:
    """The second turn would else be told that a command is under way already."""
    KTX.command(["ktx", "ingest"]).__enter__()
    assert KTX.span is not None
    captured.none("command")
    del turn


# -- mistakes -------------------------------------------------------------------------------------------------


def test_a_programming_mistake_raises(captured: Captured) -> None:
    """In this process and in a child: unknown event, missing field, no JSON."""
    with pytest.raises(InvalidEventError, match="did you mean scan_completed"):
        KTX.capture("scan_complete", SCAN)
    with pytest.raises(InvalidEventError, match=r"scan_completed.outcome: missing"):
        KTX.capture("scan_completed", {name: SCAN[name] for name in SCAN if name != "outcome"})
    assert "InvalidEventError: a: its properties are no JSON" in child("t.capture('a', {'b': object()})")
    captured.none()


def test_outside_of_a_test_with_the_kit_nothing_is_different(home: Path) -> None:
    """A mistake is a receipt again, and the home is the host's."""
    assert TESTING not in os.environ
    telemetry = Telemetry("ktx", "1", home=home, catalogue=CATALOGUE, flush="never")
    assert telemetry.capture("scan_complete").state == "lost"
    telemetry.close()
    assert home.exists()


# -- what it says ---------------------------------------------------------------------------------------------


def says(message: str) -> str:
    """Give a pattern for a message that must be exactly this."""
    return f"^{re.escape(message)}$"


def test_one_means_exactly_one_and_says_what_there_is(captured: Captured) -> None:
    """None and two are refused; what every event has is left out of the story."""
    HOSTS["any other"].capture("connection_added", {"driver": "sqlite", "isDemoConnection": True})
    for outcome in ("ok", "ok", "error"):
        KTX.capture("scan_completed", {**SCAN, "outcome": outcome})
    assert captured.one("scan_completed", outcome="error")["properties"]["outcome"] == "error"
    assert len(captured.all("scan_completed", outcome="ok")) == 2
    story = "; captured:\n  connection_added  driver='sqlite' isDemoConnection=True" + "".join(
        "\n  scan_completed  driver='sqlite' tableCount=1 columnCount=2 inferredFkCount=0 declaredFkCount=0"
        f" durationMs=1.5 outcome='{outcome}'"
        for outcome in ("ok", "ok", "error")
    )
    with pytest.raises(AssertionError, match=says(f"expected exactly one scan_completed, found 3{story}")):
        captured.one("scan_completed")
    wanted = "expected exactly one scan_completed with outcome='ok', found 2"
    with pytest.raises(AssertionError, match=says(wanted + story)):
        captured.one("scan_completed", outcome="ok")
    with pytest.raises(AssertionError, match="expected exactly one scan_completed with nonsense=1, found 0"):
        captured.one("scan_completed", nonsense=1)
    with pytest.raises(AssertionError, match=says(f"expected no event, found 4{story}")):
        captured.none()
    with pytest.raises(AssertionError, match="expected no scan_completed with outcome='error', found 1"):
        captured.none("scan_completed", outcome="error")
    captured.none("daemon_started")
    assert repr(captured) == f"<captured: connection_added, {', '.join(['scan_completed'] * 3)}>"


def test_where_nothing_was_captured_it_says_what_may_be_the_cause(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that the test itself, or somebody's app, has set."""
    with pytest.raises(AssertionError, match=r"found 0; captured:\n  nothing\n  no spool was opened in the test's"):
        captured.one("command")
    monkeypatch.setenv("NEVER_HEARD_OF_TELEMETRY_DISABLED", "1")
    assert child("t.capture('a')") == ""
    with pytest.raises(AssertionError, match="NEVER_HEARD_OF_TELEMETRY_DISABLED is set in the environment"):
        captured.one("command")


def test_a_name_that_no_event_has_is_refused() -> None:
    """`none` of it would hold for ever; without a catalogue any name may be meant."""
    known = Captured(ELSEWHERE, CATALOGUE.names)
    for check in (known.one, known.none, known.all):
        with pytest.raises(ValueError, match="scan_complete: no event of the catalogue; did you mean scan_completed"):
            check("scan_complete")
    known.none("$exception")
    Captured(ELSEWHERE).none("scan_complete")


def test_nothing_is_captured_of_one_who_said_no(captured: Captured) -> None:
    """For the block alone, in this process and in a child; what was there before is still there."""
    KTX.capture("scan_completed", SCAN)
    with captured.opted_out():
        assert KTX.capture("scan_completed", SCAN).state == "disabled"
        assert child("print(t.capture('a').reason)") == "DO_NOT_TRACK\n"
    assert captured.names() == ["scan_completed"]
    assert KTX.capture("scan_completed", SCAN)
    assert len(captured) == 2
