"""What the documents show works: every block of code runs as a file, every command by a shell, line by line."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flusher.report.status import collect
from spool import Telemetry
from spool.home import Paths
from spool.queue import Queue
from spool.queue.account import Account
from tests.support.crontabs import NEEDS_CRON, Crontabs
from tests.support.documents import DOCUMENTS, Block, blocks
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, ROOT, environment, flush_json

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
WAIT_S = 30.0  # generous: what is waited for takes about a second

# Commands that no test can run, and why.
NOT_RUN = {
    "scripts/demo": "it plays for half a minute, in an environment that it installs; its exit code is its verdict",
    "scripts/test": "it is what runs this",
    "WORKERS=2 scripts/test": "it is what runs this",
    "bash -c 'source scripts/environment": "it installs; scripts/test begins with it",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine on which somebody tries a document: a home, the document's files, the programs that it names."""

    folder: Path
    env: dict[str, str]
    server: LocalPostHog

    @property
    def home(self) -> Path:
        """Where `mycli` has its spool."""
        return self.folder.parent / "user" / ".mycli"

    def run(self, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a program in the folder to its end."""
        given = {"cwd": self.folder, "env": self.env, "stdin": subprocess.DEVNULL, **options}
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, **given)  # type: ignore[call-overload,no-any-return]  # options by name

    def delivered(self, home: Path) -> Counter[str]:
        """Deliver what waits, beside the flusher that a host may have started; give the events by name."""
        until = time.monotonic() + WAIT_S
        account = Account()
        while not 0 < account.captured == account.delivered and time.monotonic() < until:
            flush_json(home, "run", "--force", env=self.env)
            account = collect("ktx", Paths(home), self.env).account
        assert account.captured == account.delivered, account
        return Counter(event["event"] for event in self.server.events())


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path, server: LocalPostHog) -> Machine:
    """A machine with the files of one document; the key is the environment's, and so is PostHog."""
    folder, programs = tmp_path / "work", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (folder / "ktx-spool").symlink_to(ROOT)
    for block in blocks(request.param.document):
        if block.name and "/" not in block.name:
            (folder / block.name).write_text(block.text)
    for name, text in {
        "ktx-flush": f'exec {sys.executable} -m flusher "$@"',
        "python": f'exec {sys.executable} "$@"',
        "browser": "exit 0",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    env = environment(
        PATH=f"{programs}:{os.environ['PATH']}", HOME=str(tmp_path / "user"), BROWSER=f"{programs / 'browser'} %s"
    )
    for prefix in ("MYCLI", "KTX"):
        env |= {f"{prefix}_TELEMETRY_ENDPOINT": server.url, f"{prefix}_TELEMETRY_KEY": KEY}
    return Machine(folder, env, server)


# -- Python -------------------------------------------------------------------------------------------------


def as_program(*arguments: str) -> Callable[[Machine, str], None]:
    """Run a file by the interpreter, to a good end."""

    def run(machine: Machine, name: str) -> None:
        done = machine.run(sys.executable, name, *arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr

    return run


def as_daemon(machine: Machine, name: str) -> None:
    """Start it, wait until it is ready, and end it as a system does."""
    with subprocess.Popen(
        [sys.executable, name], cwd=machine.folder, env=machine.env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def as_mcp_server(machine: Machine, name: str) -> None:
    """Call its tool by the SDK's client, then close its stdin."""
    pytest.importorskip("mcp", reason="the official MCP SDK is not installed")
    from mcp import ClientSession, StdioServerParameters, stdio_client  # noqa: PLC0415 - see above

    async def talk() -> None:
        command = StdioServerParameters(command=sys.executable, args=[name], env=machine.env, cwd=machine.folder)
        async with stdio_client(command) as streams, ClientSession(*streams) as session:
            await session.initialize()
            result = await session.call_tool("count", {"text": "three little words"})
            assert "3" in str(result.content)

    asyncio.run(talk())


# Of each file: how it is run, and what PostHog gets of it, beside the first run of the install.
HOSTS: dict[str, tuple[Callable[[Machine, str], None], list[str]]] = {
    "mycli.py": (as_program("--pages", "3"), ["report_rendered", "command"]),
    "click_host.py": (as_program("sync", "--dry-run"), ["command"]),
    "argparse_host.py": (as_program("sync", "--json"), ["sync_completed", "command"]),
    "daemon_host.py": (as_daemon, ["daemon_started", "daemon_stopped", "command"]),
    "mcp_host.py": (as_mcp_server, ["mcp_request_completed", "command"]),
    "container_host.py": (as_program(), ["command", "$exception"]),
    "typed_host.py": (as_program(), ["report_written"]),
    "migrated.py": (as_program(), ["signed_up", "$set", "$groupidentify", "$create_alias", "$exception", "command"]),
    "wrapped.py": (as_program(), ["scan_completed", "command"]),
}
# Run by a command of the same document.
BY_COMMAND = {"test_typed_host.py", "host.mjs"}


# A file with a folder is for the project: tests/project/test_contributing.py puts it into a copy.
PROGRAMS = [
    pytest.param(block, block, id=block.id)
    for block in BLOCKS
    if block.language == "python" and block.name not in BY_COMMAND and "/" not in block.name
]


@pytest.mark.parametrize(("machine", "block"), PROGRAMS, indirect=["machine"])
def test_a_program_of_a_document_runs_and_its_events_arrive(machine: Machine, block: Block) -> None:
    """As a file, by the interpreter; what it captures is delivered, each once, and the account adds up."""
    run, events = HOSTS[block.name]
    run(machine, block.name)
    app = ".ktx" if block.name == "wrapped.py" else ".mycli"
    assert machine.delivered(machine.home.parent / app) == Counter(["install_first_run", *events])
    assert machine.server.duplicates() == []


# -- commands -----------------------------------------------------------------------------------------------


@pytest.fixture
def spool(machine: Machine) -> None:
    """A spool of mycli: one event waits, one is dead."""
    telemetry = Telemetry("mycli", "1", KEY, machine.server.url, machine.home, flush="never")
    assert telemetry.capture("scan", uuid=UUID)
    assert telemetry.capture("scan")
    telemetry.close()
    queue = Queue(Paths(machine.home), wait_s=5)
    first, second = list(queue.gather())[:2]
    assert UUID in first.text
    assert queue.settle([], [(second, "rejected with 400: bad")]) == 1
    queue.close()


def cases_of_commands() -> list[object]:
    """Give the shell blocks; one with a schedule needs a crontab that it can have."""
    cases: list[object] = []
    for block in BLOCKS:
        if block.language == "sh" and not any(line.startswith(tuple(NOT_RUN)) for line in block.lines):
            marks = [NEEDS_CRON] if " schedule " in block.text else []
            if "node " in block.text:
                marks.append(pytest.mark.skipif(shutil.which("node") is None, reason="no Node on this machine"))
            cases.append(pytest.param(block, block, id=block.id, marks=marks))
    return cases


@pytest.mark.parametrize(("machine", "block"), cases_of_commands(), indirect=["machine"])
@pytest.mark.usefixtures("spool")
def test_a_command_of_a_document_does_what_it_shows(machine: Machine, block: Block, tmp_path: Path) -> None:
    """Line by line: exit 0, and no traceback. A schedule goes into a crontab that only the test sees."""
    crontabs = Crontabs(tmp_path / "crontabs") if " schedule " in block.text else None
    for line in block.lines:
        assert not line.endswith("\\"), f"{line}: a command is one line"
        words = ("bash", "-o", "pipefail", "-c", line)
        done = machine.run(*words) if crontabs is None else crontabs.run(*words, env=machine.env)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (line, done.stdout, done.stderr)
        if "--json" in line and line.startswith("ktx-flush"):
            assert isinstance(json.loads(done.stdout), dict)


def test_what_is_not_run_is_named_with_its_reason() -> None:
    """A block is Python, commands, a picture, or a file that a command of the same document runs."""
    for block in BLOCKS:
        if block.language == "sh":
            assert len({line.startswith(tuple(NOT_RUN)) for line in block.lines}) == 1, f"{block.id}: all or none"
        elif block.language == "python":
            assert block.name in HOSTS or block.name in BY_COMMAND or "/" in block.name, block.id
        else:
            assert block.language == "text" or block.name in BY_COMMAND or "/" in block.name, block.id
    for name in BY_COMMAND:
        (document,) = {block.document for block in BLOCKS if block.name == name}
        assert any(name in line for block in blocks(document) if block.language == "sh" for line in block.lines)
    assert set(HOSTS) <= {block.name for block in BLOCKS}
