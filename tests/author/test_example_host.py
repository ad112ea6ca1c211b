"""The example host as it is used: its MCP server by the SDK's client, its daemon, its chokepoint; however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flusher.context import Result
from flusher.report.status import collect
from spool.home import Paths

# The SDK is needed by the example alone: without it, the rest of the suite still runs.
pytest.importorskip("mcp", reason="the official MCP SDK is not installed")
from mcp import ClientSession, Implementation, MCPError, StdioServerParameters, stdio_client

from tests.support.local_posthog import LocalPostHog
from tests.support.processes import ROOT, environment, flush_json

# The example is no package: its modules are found as `python scripts/ktx` finds them.
sys.path.insert(0, str(ROOT / "scripts" / "ktx"))
from sample_shop import make_shop

if sys.platform == "win32":
    pytest.skip("processes are killed and stopped here by POSIX signals", allow_module_level=True)

KTX = [sys.executable, str(ROOT / "scripts" / "ktx")]
WAIT_S = 30.0  # generous: what is waited for takes well under a second

# What stands between the client and the server, because the client tells neither: it keeps the server's pid, all
# that it wrote to stdout, and how it ended.
BETWEEN = """
import os, subprocess, sys
record, *command = sys.argv[1:]
with subprocess.Popen(command, stdout=subprocess.PIPE) as server, open(record + ".out", "wb") as copy:
    open(record + ".pid", "w").write(str(server.pid))
    while data := server.stdout.read1():
        copy.write(data)
        os.write(1, data)
open(record + ".code", "w").write(str(server.returncode))
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A database with six tables."""
    path = tmp_path / "shop.db"
    make_shop(path)
    return path


@pytest.fixture
def env(home: Path, server: LocalPostHog) -> dict[str, str]:
    """What the host is started with."""
    return environment(KTX_HOME=str(home), KTX_TELEMETRY_ENDPOINT=server.url)


def arrived(server: LocalPostHog, env: dict[str, str], killed: int = 0) -> dict[str, list[Any]]:
    """Flush, and give the properties of what arrived, by event: everything, and each event once."""
    home = Path(env["KTX_HOME"])
    report: dict[str, Any] = {"result": Result.BUSY.value}
    while report["result"] == Result.BUSY.value:  # the host started a flusher itself, and that one is at work
        report = flush_json(home, "run", "--force", env=env)
    assert (report["exit_code"], report["remaining"]) == (0, 0), report
    account = collect("ktx", Paths(home), {}).account
    assert account.captured == account.delivered == len(server.events()) == len(server.accepted), report
    found: dict[str, list[Any]] = {}
    for event in server.events():
        found.setdefault(event["event"], []).append(event["properties"])
    assert sum("spool_recovered" in event for event in found["command"]) == killed
    assert len(found.pop("install_first_run")) == 1
    return found


def fields(events: list[Any], *names: str) -> list[tuple[Any, ...]]:
    """Give these properties of each event, in order of arrival."""
    return [tuple(event.get(name) for name in names) for event in events]


# MCP


async def drive(shop: Path, record: Path, env: dict[str, str], end: int | None) -> None:
    """Make five calls that finish; then kill the server in the middle of a sixth, or take leave."""
    command = StdioServerParameters(
        command=sys.executable, args=["-c", BETWEEN, str(record), *KTX, "mcp", "stdio"], env=env
    )
    client = Implementation(name="test-client", version="9.8.7")
    with record.with_suffix(".err").open("w") as errlog:
        async with stdio_client(command, errlog) as streams, ClientSession(*streams, client_info=client) as session:
            await session.initialize()
            assert [tool.name for tool in (await session.list_tools()).tools] == ["scan", "wait"]
            counts = await session.call_tool("scan", {"path": str(shop)})
            assert counts.structured_content is not None
            assert counts.structured_content["tableCount"] == 6
            bad = [
                await session.call_tool("scan", {"path": str(record.with_suffix(".pid"))}),
                await session.call_tool("wait", {"seconds": -1}),
                await session.call_tool("/home/ada-lovelace/secret", {}),
            ]
            assert all(result.is_error for result in bad)
            assert not (await session.call_tool("wait", {"seconds": 0})).is_error
            if end is not None:
                await kill_in_a_call(session, int(record.with_suffix(".pid").read_text()), end)


async def kill_in_a_call(session: ClientSession, pid: int, end: int) -> None:
    """Call, and kill when the server says that it is at work; the client gets no answer but an error."""
    begun = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        assert (progress, total, message) == (0, 60, None)
        begun.set()

    call = asyncio.create_task(session.call_tool("wait", {"seconds": 60}, progress_callback=on_progress))
    await asyncio.wait_for(begun.wait(), WAIT_S)
    os.kill(pid, end)
    with pytest.raises(MCPError):
        await asyncio.wait_for(call, WAIT_S)


@pytest.mark.parametrize("end", [None, signal.SIGTERM, signal.SIGKILL])
def test_an_mcp_server_tells_each_finished_request_and_one_command(
    end: signal.Signals | None, shop: Path, server: LocalPostHog, env: dict[str, str]
) -> None:
    """Left in peace, by SIGTERM and by kill -9 in the middle of a call; stdout carried the protocol alone."""
    record = shop.with_name("record")
    asyncio.run(drive(shop, record, env, end))
    assert int(record.with_suffix(".code").read_text()) == (0 if end is None else -end)

    lines = record.with_suffix(".out").read_bytes().splitlines(keepends=True)
    assert len(lines) == 7 + (end is not None)  # the answers, and the progress of the call that was cut off
    for line in lines:
        assert line.endswith(b"\n")
        assert json.loads(line)["jsonrpc"] == "2.0"

    found = arrived(server, env, killed=int(end == signal.SIGKILL))
    assert fields(found["mcp_request_completed"], "toolName", "outcome", "errorClass") == [
        ("scan", "ok", None),
        ("scan", "error", "NotADatabaseError"),
        ("wait", "error", "ValidationError"),
        ("unknown", "error", "ToolError"),
        ("wait", "ok", None),
    ]
    for event in found["mcp_request_completed"]:
        assert (event["mcpClientName"], event["mcpClientVersion"]) == ("test-client", "9.8.7")
        assert (event["sampleRate"], event["durationMs"] >= 0) == (1, True)
    recovered = "killed" if end == signal.SIGKILL else None
    assert fields(found["command"], "commandPath", "outcome", "spool_recovered") == [
        (["ktx", "mcp", "stdio"], "ok" if end is None else "aborted", recovered)
    ]
    assert set(found) == {"mcp_request_completed", "command"}
    assert "ada-lovelace" not in json.dumps(server.accepted)


# The daemon


@pytest.fixture
def listen() -> Iterator[Path]:
    """A place for a socket: its path must be short, which that of a test's folder isn't everywhere."""
    with tempfile.TemporaryDirectory(prefix="ktx", dir="/tmp") as folder:
        yield Path(folder) / "daemon.sock"


def ask(listen: Path, request: str) -> str:
    """Send one line to the daemon, and give its answer: empty if it had none."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT_S)
        client.connect(str(listen))
        client.sendall(f"{request}\n".encode())
        with client.makefile() as answer:
            return answer.read()


def ask_until_answered(listen: Path, request: str) -> str:
    """Send one line as soon as somebody listens; fail if that takes too long."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            return ask(listen, request)
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < until
            time.sleep(0.01)


def start_daemon(listen: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    """Start the daemon; it answers when this returns."""
    command = [*KTX, "daemon", "--socket", str(listen)]
    daemon = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ask_until_answered(listen, "")
    return daemon


# How it is ended: the exit code, the reason of daemon_stopped, the command's outcome, error class and recovery.
DAEMON_ENDS: dict[str | int, tuple[int, list[tuple[str]], tuple[str, str | None, str | None]]] = {
    "stop": (0, [("request",)], ("ok", None, None)),
    "crash": (1, [("crash",)], ("error", "RuntimeError", None)),
    signal.SIGTERM: (-signal.SIGTERM, [("signal",)], ("aborted", None, None)),
    signal.SIGINT: (130, [("signal",)], ("aborted", None, None)),
    signal.SIGKILL: (-signal.SIGKILL, [], ("aborted", None, "killed")),
}


@pytest.mark.parametrize("end", DAEMON_ENDS, ids=str)
def test_a_daemon_tells_that_it_began_and_why_it_ended(
    end: str | int, shop: Path, listen: Path, server: LocalPostHog, env: dict[str, str]
) -> None:
    """One daemon_started, one daemon_stopped unless it was killed -9, one command; it ends as it would without us."""
    code, reasons, command = DAEMON_ENDS[end]
    with start_daemon(listen, env) as daemon:
        assert json.loads(ask(listen, f"scan {shop}"))["tableCount"] == 6
        assert "no such file" in json.loads(ask(listen, "scan /nowhere"))["error"]
        if isinstance(end, str):
            assert ask(listen, end) == ('{"stopping": true}\n' if end == "stop" else "")
        else:
            os.kill(daemon.pid, end)
        out, err = daemon.communicate(timeout=WAIT_S)
    assert (daemon.returncode, out) == (code, ""), err
    assert listen.exists() == (end == signal.SIGKILL)
    found = arrived(server, env, killed=int(end == signal.SIGKILL))
    (started,) = found.pop("daemon_started")
    assert started["startupDurationMs"] >= 0
    assert (started["daemonVersion"], started["pythonVersion"].split(".")[0]) == ("0.12.0", "3")
    stopped = found.pop("daemon_stopped", [])
    assert fields(stopped, "reason") == reasons
    assert all(event["uptimeMs"] >= 0 for event in stopped)
    assert fields(found.pop("command"), "outcome", "errorClass", "spool_recovered") == [command]
    assert found == {}


def test_a_second_daemon_is_refused_and_a_killed_ones_socket_taken_over(
    listen: Path, server: LocalPostHog, env: dict[str, str]
) -> None:
    """One that can't listen never started: it tells a command that failed, and nothing of a daemon."""
    with start_daemon(listen, env) as killed:
        second = subprocess.run(
            [*KTX, "daemon", "--socket", listen], env=env, capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert (second.returncode, second.stdout) == (1, "")
        assert "listens there already" in second.stderr
        killed.kill()
        killed.communicate(timeout=WAIT_S)
    third = subprocess.Popen([*KTX, "daemon", "--socket", listen], env=env, stderr=subprocess.DEVNULL)
    assert "stopping" in ask_until_answered(listen, "stop")
    assert third.wait(WAIT_S) == 0
    found = arrived(server, env, killed=1)
    assert fields(found["daemon_stopped"], "reason") == [("request",)]
    assert (len(found["daemon_started"]), len(found["command"])) == (2, 3)


# The chokepoint

# What is ingested: the exit code, and the outcome and error class of ingest_completed and scan_completed.
INGESTS: dict[str, tuple[int, list[tuple[Any, ...]], list[tuple[Any, ...]]]] = {
    "shop.db": (0, [("ok", None, 6)], [("ok", None, 6)]),
    "text.db": (2, [("error", "NotADatabaseError", 0)], [("error", "NotADatabaseError", 0)]),
    "missing.db": (2, [("error", "FileNotFoundError", 0)], []),
}


@pytest.mark.parametrize("name", INGESTS)
def test_every_ingest_is_told_once_at_the_chokepoint(
    name: str, shop: Path, server: LocalPostHog, env: dict[str, str]
) -> None:
    """On success, on failure, and when the preflight refuses: then no scan began, and none is told."""
    code, ingests, scans = INGESTS[name]
    (shop.parent / "text.db").write_text("no database, but long enough to be looked at\n" * 100)
    done = subprocess.run(
        [*KTX, "ingest", shop.parent / name], env=env, capture_output=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == code, done.stderr
    found = arrived(server, env)
    assert fields(found.pop("ingest_completed"), "outcome", "errorClass", "tableCount") == ingests
    assert fields(found.pop("scan_completed", []), "outcome", "errorClass", "tableCount") == scans
    assert fields(found.pop("command"), "commandPath", "outcome") == [(["ktx", "ingest"], "error" if code else "ok")]
    assert found == {}


def test_an_interrupted_ingest_is_an_aborted_command_and_nothing_else(
    shop: Path, server: LocalPostHog, env: dict[str, str]
) -> None:
    """Ctrl-C in the middle of a scan: exit code 130, no ingest_completed and no scan_completed."""
    command = [*KTX, "ingest", str(shop), "--slow", "30"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ingest:
        assert ingest.stderr is not None
        while not ingest.stderr.readline().startswith("scanned"):
            assert ingest.poll() is None
        ingest.send_signal(signal.SIGINT)
        out, err = ingest.communicate(timeout=WAIT_S)
    assert (ingest.returncode, out) == (130, ""), err
    found = arrived(server, env)
    assert fields(found.pop("command"), "commandPath", "outcome", "flagsPresent") == [
        (["ktx", "ingest"], "aborted", {"slow": True})
    ]
    assert found == {}
