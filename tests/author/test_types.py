"""The types are a promise: calls as hosts write them pass the checkers, wrong ones don't. mypy reads them in CI."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

CALLS = "tests/typing/api.py"


@pytest.mark.skipif(shutil.which("pyright") is None, reason="no pyright on this machine's path")
def test_pyright_accepts_the_public_calls() -> None:
    """As an editor would show them; mypy, strictly, reads this file with all others in `scripts/test`."""
    command = ["pyright", "--pythonpath", sys.executable, CALLS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


WRONG = {
    "a version that is a number": ('Telemetry("ktx", 1)', "arg-type"),
    "an unknown durability": ('Telemetry("ktx", "1", durability="forever")', "arg-type"),
    "an unknown option": ('Telemetry("ktx", "1", colour="red")', "call-arg"),
    "an event that is a number": ('Telemetry("ktx", "1").capture(12)', "arg-type"),
    "a limit that is a text": ('Limits(max_events="many")', "arg-type"),
}


def test_wrong_calls_are_found_before_they_run(tmp_path: Path) -> None:
    """One line each, all of them in one run of mypy, and every line is found."""
    lines = ["from spool import Limits, Telemetry", *(line for line, _code in WRONG.values())]
    (tmp_path / "host.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(tmp_path / "host.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    found = [line.rsplit("[", 1)[-1].rstrip("]") for line in done.stdout.splitlines() if ": error: " in line]
    assert found == [code for _line, code in WRONG.values()], done.stdout
