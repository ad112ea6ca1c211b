"""Who reads what a command prints may stop reading (`| head -1`): no word of it, and no failure that was none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spool import Telemetry
from tests.support.processes import KEY, environment, run_python

# What each prints is more than nothing; with the exit code that it has otherwise, where that says more than 0.
COMMANDS = {
    "--help": 0,
    "--version": 0,
    "run --help": 0,
    "run --dry-run": 0,
    "run --force --max-retries 0": 75,
    "run --force --max-retries 0 --json": 75,
    "status": 0,
    "status --json": 0,
    "list": 0,
    "list --json": 0,
    "list --dead --json": 0,
    "show {uuid}": 0,
    "retry --json": 0,
    "export -": 0,
    "report --json": 0,
    "doctor": 0,
    "doctor --json": 0,
    "audit": 0,
    "schedule show": 0,
    "schedule show --json": 0,
    "import /dev/null --json": 0,
    "enable": 0,
    "purge --dead --yes": 0,
    "disable": 0,
}
# Each in a child of its own, that has everything loaded.
UNREAD = """
import json, os, sys, tempfile
from flusher.cli import main
answers = []
for words in json.loads(sys.argv[2]):
    with tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            read, write = os.pipe()
            os.close(read)
            os.dup2(write, 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["ktx-flush", "--home", sys.argv[1], *words]
            main()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        err.seek(0)
        answers.append([code, err.read().decode()])
print(json.dumps(answers), file=sys.stderr)
"""
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def test_every_command_ends_quietly_where_nobody_reads(home: Path) -> None:
    """Stdout is a pipe that is closed already; also with much more to say than a pipe holds."""
    if sys.platform == "win32":
        pytest.skip("there is no such pipe here")
    pytest.importorskip("jinja2")
    telemetry = Telemetry("ktx", "1", KEY, "http://127.0.0.1:9", home, flush="never")
    assert telemetry.capture("scan_completed", uuid=UUID)
    for _ in range(200):
        assert telemetry.capture("scan_completed", {"text": "x" * 1_000})
    telemetry.close()
    done = run_python(UNREAD, home, json.dumps([words.format(uuid=UUID).split() for words in COMMANDS]))
    answers = dict(zip(COMMANDS, json.loads(done.stderr.splitlines()[-1]), strict=True))
    refused = "ktx-flush: the host refuses connections; the events are kept\n"
    assert answers == {words: [code, refused if code else ""] for words, code in COMMANDS.items()}


def test_a_person_who_wants_the_first_line_gets_it(home: Path) -> None:
    """As in a shell; the exit code is that of `ktx-flush` itself."""
    telemetry = Telemetry("ktx", "1", KEY, "http://127.0.0.1:9", home, flush="never")
    for _ in range(500):
        assert telemetry.capture("scan_completed", {"text": "x" * 1_000})
    telemetry.close()
    for words, first in (("list", '{"uuid"'), ("status", "home"), ("--help", "")):
        line = f'"{sys.executable}" -m flusher --home "{home}" {words} | head -1; echo "${{PIPESTATUS[0]}}"'
        done = subprocess.run(
            ["bash", "-c", line], env=environment(), capture_output=True, text=True, check=True, timeout=60
        )
        lines = done.stdout.splitlines()
        assert (lines[0].lstrip().startswith(first), lines[-1], done.stderr) == (True, "0", ""), (words, done)
