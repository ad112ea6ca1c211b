"""Every command can be learned from its help: the examples run, and a real shell completes the words."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from flusher.cli import app
from flusher.events import waiting
from spool import Telemetry
from spool.home import Paths
from spool.queue import Queue
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, environment, run_python

# Changes the machine's own tables: tests/starting/test_schedule*.py run it against tables of their own.
ELSEWHERE = ("schedule",)
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Walk the tree; gives each command's words and its help."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), str(command.help)


COMMANDS = {" ".join(words): text for words, text in commands(typer.main.get_command(app))}


def examples(text: str) -> list[str]:
    """Give the lines of a help's examples."""
    block = text.partition("Examples:")[2].partition("\n\n")[0]
    return [line.strip() for line in re.split(r"\n|\s{2,}", block) if line.strip()]


EXAMPLES = [line for name, text in COMMANDS.items() if name.split()[0] not in ELSEWHERE for line in examples(text)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples_of_itself(command: str) -> None:
    """At least one, and each is a line that names the command."""
    lines = examples(COMMANDS[command])
    assert lines
    for line in lines:
        words = line.partition("|")[0].split()
        assert words[0] == "ktx-flush"
        assert command == "run" or all(word in words for word in command.split())


def test_the_help_on_a_page_has_an_example_to_a_line() -> None:
    """As it is printed, not as it is written."""
    command = [sys.executable, "-m", "flusher", "run", "--help"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    printed = [line.strip() for line in done.stdout.splitlines()]
    start = printed.index("Examples:") + 1
    assert printed[start : start + 3] == examples(COMMANDS["run"])


# All helps in one process.
HELPS = """
import contextlib, io, json, sys
from flusher.cli import main
helps = {}
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    sys.argv = ["ktx-flush", *words.split(), "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(out):
        main()
    helps[words] = out.getvalue()
print(json.dumps(helps))
"""


@pytest.mark.parametrize("columns", [30, 60, 63, 64, 80])
def test_a_narrow_terminal_has_the_whole_help(columns: int) -> None:
    """No option, command or description is cut, and an example stays on its line."""
    names = ["", "schedule", *COMMANDS]
    helps = json.loads(run_python(HELPS, json.dumps(names), env=environment(COLUMNS=str(columns))).stdout)
    for words, text in helps.items():
        assert not re.search(r"…|[a-z,]\.\.\.( |$)", text.replace("uuids...", "")), text
        for line in examples(COMMANDS.get(words, "")):
            assert line in text or columns == 30
    options = set(re.findall(r"--[a-z][a-z-]+", helps[""]))
    assert options >= {"--app", "--home", "--version", "--install-completion", "--show-completion", "--help"}
    assert "--max-seconds" in helps["run"]
    for name in COMMANDS:
        assert name.split()[0] in helps[""]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A machine with ktx-flush on its path, a gateway to reach by ssh, and a browser."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ktx-flush").write_text(f'#!/bin/sh\nexec {sys.executable} -m flusher "$@"\n')
    (programs / "ssh").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (programs / "browser").write_text("#!/bin/sh\nexit 0\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    path, browser = f"{programs}:{os.environ['PATH']}", f"{programs / 'browser'} %s"
    return environment(PATH=path, HOME=str(tmp_path / "user"), BROWSER=browser)


@pytest.fixture
def spools(tmp_path: Path, server: LocalPostHog) -> None:
    """Spools of two programs, one with an event that waits and one that is dead; a file of events to import."""
    for name in (".ktx", ".mycli"):
        telemetry = Telemetry("ktx", "1", KEY, server.url, tmp_path / "user" / name, flush="never")
        assert telemetry.capture("scan", uuid=UUID)
        assert telemetry.capture("scan")
        telemetry.close()
    paths = Paths(tmp_path / "user" / ".ktx")
    queue = Queue(paths, wait_s=5)
    (tmp_path / "events.ndjson").write_text("".join(letter.text + "\n" for letter in waiting(paths, queue)))
    first = next(queue.gather())
    assert first.text.startswith(f'{{"uuid":"{UUID}"')
    assert queue.settle([], [(first, "rejected with 400: bad")]) == 1
    queue.close()


@pytest.mark.parametrize("line", EXAMPLES)
@pytest.mark.usefixtures("spools")
def test_an_example_does_what_it_shows(line: str, env: dict[str, str], tmp_path: Path) -> None:
    """By a shell, in a folder of its own: exit 0 and no complaint; purge asks, so it is answered by --yes."""
    if line == "ktx-flush export events.ndjson":
        (tmp_path / "events.ndjson").unlink()
    asks = line.startswith("ktx-flush purge") and "--yes" not in line
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{line}{' --yes' if asks else ''}"],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


BASH = """
eval "$(_KTX_FLUSH_COMPLETE=source_bash ktx-flush)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
$(complete -p ktx-flush | sed 's/.*-F \\([^ ]*\\).*/\\1/') ktx-flush
printf '%s\\n' "${COMPREPLY[@]}"
"""


COMPLETIONS = {
    "st": ["status"],
    "re": ["report", "retry"],
    "run --max-": ["--max-events", "--max-retries", "--max-seconds"],
    "--app mycli li": ["list"],
    "list --d": ["--dead"],
    "zz": [""],
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
@pytest.mark.parametrize("words", COMPLETIONS)
def test_bash_completes_commands_and_options(words: str, env: dict[str, str]) -> None:
    """A real bash, with the script that the program itself prints."""
    command = ["bash", "-c", BASH, "bash", "ktx-flush", *words.split()]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split("\n")[:-1]) == COMPLETIONS[words]
    assert done.stderr == ""
