"""The guard kit's session check: a suite that captures too little fails and says what; others pay nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from spool.testing.all_events import missing
from tests.support.processes import environment, run_python

REQUIRE = "--spool-require-all-events"
TITLE = "spool: events that no test captured"
HOST = """
from spool import Telemetry
from spool.catalogue import Catalogue, Event

class ReportWritten(Event): pass
class ReportRead(Event): pass
class Third(Event): pass

BOTH = Catalogue(ReportWritten, ReportRead)
ALL = Catalogue(ReportWritten, ReportRead, Third)
telemetry = Telemetry("mycli", "1", catalogue=BOTH)
"""
TESTS = """
import subprocess, sys
import pytest
from host import telemetry

def test_write(captured):
    telemetry.capture("report_written")
    captured.one("report_written")

def test_read(captured):
    telemetry.capture("report_read")
    captured.one("report_read")

@pytest.mark.wrong
def test_wrong(captured):
    captured.one("report_read")

@pytest.mark.child
def test_child(captured):
    code = "from host import telemetry; telemetry.capture('report_written')"
    subprocess.run([sys.executable, "-c", code], check=True)
    captured.one("report_written")
"""
PLUGINS = ["-p", "no:anyio", "-p", "no:hypothesispytest", "-p", "no:cacheprovider", "--assert=plain"]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A host with a catalogue of two events, and its tests."""
    (tmp_path / "host.py").write_text(HOST)
    (tmp_path / "test_host.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  child\n  wrong\n")
    return tmp_path


def run(suite: Path, *options: str) -> tuple[int, str]:
    """Run it as a process; give the exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, "-q", *options],
        cwd=suite, env=environment(PYTHONPATH=f"{suite}:{environment()['PYTHONPATH']}"),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "INTERNALERROR" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


# What is run, how it ends, and what it says.
RUNS: dict[str, tuple[list[str], int, str]] = {
    "everything was captured": (["-m", "not wrong"], 0, ""),
    "by two workers": (["-m", "not wrong", "-n2"], 0, ""),
    "not so": (["-m", "child"], 1, "1 of 2 events of the catalogue were captured by no test:\n  report_read\n"),
    "not so, by two workers": (["-m", "child", "-n2"], 1, "1 of 2 events of the catalogue were captured by no test:"),
    "a larger catalogue": (["-m", "not wrong", "--spool-catalogue=host:ALL"], 1, "1 of 3 events .*\n  third\n"),
    "a larger one in the settings": (["-m", "not wrong", "-o", "spool_catalogue=host:ALL"], 1, "\n  third\n"),
    "no such catalogue": (["-m", "child", "--spool-catalogue=host:NO"], 1, "'host:NO' can't be had .* give MODULE"),
    "a person looks at one": (["-k", "read"], 0, "not judged, since -k chose some tests: 1 of 2 are left"),
    "by its id": (["test_host.py::test_read"], 0, "not judged, since a test's id chose some tests"),
    "a failed test captures as well": (["-p", "spool.testing"], 1, ""),
    "it ended early": (["-x", "-m", "wrong or child"], 1, ""),
    "a list of tests is no run": (["--collect-only"], 0, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", RUNS)
def test_the_session_check_says_which_events_no_test_captured(case: str, suite: Path) -> None:
    """And the run fails by it; a test that fails fails it in any case."""
    options, expected, words = RUNS[case]
    code, said = run(suite, REQUIRE, *options)
    assert code == expected, said
    assert (TITLE in said) == bool(words), said
    assert re.search(words, said), said


def test_without_the_option_nothing_is_judged(suite: Path) -> None:
    """One event is missing, and no word is said."""
    code, said = run(suite, "-m", "child")
    assert (code, TITLE in said) == (0, False), said


def test_where_no_catalogue_is_known_it_asks_for_one(suite: Path) -> None:
    """A suite that runs its host as processes only, or a host without a catalogue."""
    (suite / "test_host.py").write_text("def test_nothing(captured):\n    captured.none()\n")
    code, said = run(suite, REQUIRE)
    assert code == 1
    assert "which events? No Telemetry with a catalogue" in said
    assert "give --spool-catalogue MODULE:NAME" in said


def test_missing_is_what_the_catalogue_has_and_nobody_saw() -> None:
    """In the catalogue's order; the spool's own first event is no host's to test, a command is."""
    assert missing(["c", "install_first_run", "command", "b"], ["b"]) == ["c", "command"]
    assert missing(["a"], ["a", "other"]) == []


LIGHT = """
import os, sys, time
import pytest
before, environment = set(sys.modules), dict(os.environ)
started = time.process_time()
import spool.testing
took_ms = (time.process_time() - started) * 1000
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
assert not loaded & {"diskcache", "filelock", "sqlite3", "msgspec", "typer", "posthog", "requests", "flusher"}, loaded
assert "spool.queue" not in sys.modules and "spool.testing.all_events" not in sys.modules
assert dict(os.environ) == environment
print(f"importing the plugin: {took_ms:.1f} ms")
"""


def test_a_suite_that_does_not_use_the_kit_pays_next_to_nothing(suite: Path) -> None:
    """Neither queue, lock nor catalogue is loaded by the plugin; nothing is set, written or said."""
    done = run_python(LIGHT)
    assert (done.returncode, done.stderr) == (0, "")
    print(done.stdout.strip())  # noqa: T201 - the number is for whoever runs the test with -s
    (suite / "test_host.py").write_text(
        "import os, sys\n"
        "def test_other():\n"
        "    assert 'spool.testing' in sys.modules and 'spool.queue' not in sys.modules\n"
        "    assert not [name for name in os.environ if name.startswith(('KTX', 'MYCLI'))]\n"
    )
    code, said = run(suite)
    assert (code, "1 passed" in said, "spool" in said) == (0, True, False), said
