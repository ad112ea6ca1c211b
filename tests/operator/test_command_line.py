"""Bad input gets one clear line on stderr, an exit code of the contract, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flusher.cli import with_default_command
from spool import Telemetry
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, environment, flush, flush_json, start_python, status

# Arguments, and a word that the line must hold.
WRONG = {
    "unknown option": (["run", "--bogus"], "--bogus"),
    "unknown command": (["bogus"], "bogus"),
    "batch of none": (["run", "--batch-size", "0"], "batch-size"),
    "negative seconds": (["run", "--max-seconds", "-1"], "max-seconds"),
    "no number": (["run", "--max-events", "many"], "max-events"),
    "negative retries": (["run", "--max-retries", "-2"], "max-retries"),
    "app that is a path": (["--app", "../x", "status"], "app"),
    "host without scheme": (["run", "--host", "ph.example.com"], "https://ph.example.com"),
    "host not encrypted": (["run", "--host", "http://ph.example.com"], "not encrypted"),
    "host with credentials": (["run", "--host", "https://u:p@ph.example.com"], "address only"),
    "host with a bad port": (["run", "--host", "https://ph.example.com:x"], "no address"),
    "personal key": (["run", "--key", "phx_123"], "personal"),
    "key with a space": (["run", "--key", "phc 1"], "space"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_get_one_line_and_exit_code_2(wrong: str, home: Path, server: LocalPostHog) -> None:
    """No traceback, no request, the spool as it was."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("a")
    telemetry.close()
    arguments, word = WRONG[wrong]
    done = flush(home, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ktx-flush: ")
    assert word in done.stderr
    assert done.stdout == ""
    assert server.requests == []
    assert status(home)["pending"] == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 5}', "\0\xff"])
def test_a_broken_destination_file_is_named(content: str, home: Path, server: LocalPostHog) -> None:
    """Exit 2 with the file's name and what to do; the events are kept, and options still work."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("a")
    telemetry.close()
    (home / "spool" / "destination.json").write_text(content)
    done = flush(home, "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "destination.json" in done.stderr
    assert flush_json(home, "run", "--host", server.url, "--key", KEY)["delivered"] == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"next_attempt": "soon"}', '{"failures": "x"}', "\0"])
def test_a_broken_state_file_is_mended(content: str, home: Path, server: LocalPostHog) -> None:
    """flush.json that doesn't read keeps nobody from trying."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("a")
    telemetry.close()
    (home / "spool" / "flush.json").write_text(content)
    assert flush_json(home)["delivered"] == 2
    assert status(home)["last_result"] == "delivered"


@pytest.mark.parametrize("wrong", [name for name, (arguments, _) in WRONG.items() if arguments[0] == "run"])
def test_wrong_arguments_are_told_where_nothing_waits(wrong: str, home: Path) -> None:
    """A cron job with a mistake in it says so on its first night, and makes nothing in the home."""
    arguments, word = WRONG[wrong]
    done = flush(home, *arguments)
    assert (done.returncode, word in done.stderr, done.stderr.count("\n")) == (2, True, 1)
    assert not home.exists()


def test_on_a_machine_without_a_spool_there_is_nothing_to_do(home: Path) -> None:
    """A cron job on a fresh machine: exit 0, no file created."""
    report = flush_json(home)
    assert (report["exit_code"], report["result"], report["remaining"]) == (0, "nothing to do", 0)
    assert status(home)["accounting"]["captured"] == 0
    assert not home.exists()


def test_quiet_says_nothing(home: Path, server: LocalPostHog) -> None:
    """--quiet: no word on stdout or stderr when all went well."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("a")
    telemetry.close()
    done = flush(home, "run", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_run_is_the_default_command() -> None:
    """`ktx-flush` with or without options delivers; a named command is left alone."""
    assert with_default_command([]) == ["run"]
    assert with_default_command(["--json"]) == ["run", "--json"]
    assert with_default_command(["--app", "x", "--force"]) == ["--app", "x", "run", "--force"]
    assert with_default_command(["--home=h"]) == ["--home=h", "run"]
    assert with_default_command(["--home", "h", "status"]) == ["--home", "h", "status"]
    assert with_default_command(["--help"]) == ["--help"]


@pytest.mark.parametrize("arguments", [("--home", ""), ("--home=",), ("--home", "  ")])
def test_an_empty_home_is_a_mistake_and_not_the_working_folder(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A variable that a script forgot to set: exit code 2, one line, and nothing is made where the script runs."""
    done = subprocess.run(
        [sys.executable, "-m", "flusher", *arguments, "status"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--home" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["user"]


def catches_sigterm(pid: int) -> bool:
    """Tell from the kernel's own words whether a process has a handler for it; fails when it is gone."""
    caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_a_scheduled_run_waits_a_random_part_of_its_spread(home: Path) -> None:
    """Cron starts a fleet in the same second of a minute; a signal ends the wait, and no number below 0 is one."""
    assert flush(home, "run", "--spread", "-1").returncode == 2
    with start_python("from flusher.cli import main; main()", "--home", home, "run", "--spread", "3000") as waiting:
        while not catches_sigterm(waiting.pid):
            time.sleep(0.05)
        assert waiting.poll() is None
        waiting.terminate()
        assert waiting.wait(timeout=10) == 0
