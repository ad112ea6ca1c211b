"""The example host's own tests of its events, with the guard kit: `pytest --spool-require-all-events scripts/ktx`.

A host writes them so: run a branch in this process, and say which events it tells, exactly. Take one emit out, and
a test fails.
"""

import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from ktx_app import main
from sample_shop import make_shop

from spool.testing import Captured

if sys.platform == "win32":
    pytest.skip("the daemon listens on a Unix socket", allow_module_level=True)

WAIT_S = 20.0  # generous: the daemon listens at once

Ktx = Callable[..., object]


@pytest.fixture(autouse=True)
def _guarded(captured: Captured) -> None:
    """Every test has a home of its own, also one that asks for nothing."""


@pytest.fixture
def ktx(monkeypatch: pytest.MonkeyPatch) -> Ktx:
    """Run a command line as the process entry does, and give its exit code."""

    def run(*arguments: object) -> object:
        monkeypatch.setattr(sys, "argv", ["ktx", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    return run


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A database with six tables."""
    make_shop(tmp_path / "shop.db")
    return tmp_path / "shop.db"


@pytest.fixture
def listen() -> Iterator[Path]:
    """A place for a socket: its path must be short."""
    with tempfile.TemporaryDirectory(prefix="ktx") as folder:
        yield Path(folder) / "daemon.sock"


def ask(listen: Path, request: str) -> None:
    """Send one line to the daemon as soon as it listens, from another thread."""

    def send() -> None:
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(str(listen))
                except (FileNotFoundError, ConnectionRefusedError):
                    time.sleep(0.01)
                    continue
                client.sendall(f"{request}\n".encode())
                client.recv(1)
                return

    Thread(target=send, daemon=True).start()


# -- ingest ---------------------------------------------------------------------------------------------------


def test_a_good_ingest_tells_the_scan_the_ingest_and_the_command(captured: Captured, ktx: Ktx, shop: Path) -> None:
    """Each once, with what was found."""
    assert ktx("ingest", shop, "--json") == 0
    assert captured.names() == ["scan_completed", "ingest_completed", "command"]
    captured.one("scan_completed", outcome="ok", tableCount=6, declaredFkCount=3, inferredFkCount=3)
    captured.one("ingest_completed", outcome="ok", tableCount=6, rowsBucket="<100k")
    captured.one("command", outcome="ok", commandPath=["ktx", "ingest"], flagsPresent={"json": True})


def test_a_file_that_is_no_database_fails_all_three(captured: Captured, ktx: Ktx, tmp_path: Path) -> None:
    """The preflight lets it through, so a scan began and is told."""
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at\n" * 100)
    assert ktx("ingest", tmp_path / "text.db") == 2
    captured.one("scan_completed", outcome="error", errorClass="NotADatabaseError")
    captured.one("ingest_completed", outcome="error", errorClass="NotADatabaseError")
    assert len(captured) == 3
    captured.one("command", outcome="error")


def test_a_missing_file_tells_of_no_scan(captured: Captured, ktx: Ktx, tmp_path: Path) -> None:
    """The preflight refuses it, and that is told at the chokepoint; its path is in no event."""
    assert ktx("ingest", tmp_path / "missing.db") == 2
    assert "missing.db" not in str(list(captured))
    captured.one("ingest_completed", outcome="error", errorClass="FileNotFoundError")
    captured.none("scan_completed")
    captured.one("command", outcome="error")


def test_one_who_said_no_is_told_nothing_of(captured: Captured, ktx: Ktx, shop: Path) -> None:
    """The ingest works as ever."""
    with captured.opted_out():
        assert ktx("ingest", shop) == 0
    captured.none()


def test_status_is_a_command_and_nothing_else(captured: Captured, ktx: Ktx) -> None:
    """It looks, and does nothing that would be told."""
    assert ktx("status") == 0
    assert captured.names() == ["command"]


# -- the daemon ----------------------------------------------------------------------------------------------


def test_a_daemon_that_is_told_to_stop_tells_begin_and_end(captured: Captured, ktx: Ktx, listen: Path) -> None:
    """One event each, and its command."""
    ask(listen, "stop")
    assert ktx("daemon", "--socket", listen) == 0
    captured.one("daemon_started", daemonVersion="0.12.0")
    captured.one("daemon_stopped", reason="request")
    assert captured.names() == ["daemon_started", "daemon_stopped", "command"]


def test_a_daemon_that_crashes_tells_that_too(captured: Captured, ktx: Ktx, listen: Path) -> None:
    """The exception goes on to whoever started it."""
    ask(listen, "crash")
    with pytest.raises(RuntimeError, match="asked to crash"):
        ktx("daemon", "--socket", listen)
    captured.one("daemon_stopped", reason="crash")
    captured.one("command", outcome="error", errorClass="RuntimeError")
