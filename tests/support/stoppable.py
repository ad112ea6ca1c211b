"""A writer that can be made to stand still, so that what it promised before a moment is known exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import start_python

if sys.platform == "win32":
    pytest.skip("no process can be stopped here", allow_module_level=True)

__all__ = ["Writer", "go_on", "stop", "wait_until", "writing"]

# Says each acknowledged uuid on a pipe, unbuffered. Every seventh event is large: diskcache by itself would
# put it into a side file without fsync.
WRITER = """
import os, sys
from pathlib import Path
from spool import Limits, Telemetry
home, durability, url, count = sys.argv[1:5]
telemetry = Telemetry("ktx", "1", "phc_test", url, Path(home), durability=durability, flush="never",
                      limits=Limits(lock_wait_s=0.0))
for number in range(int(count)):
    receipt = telemetry.capture("scan_completed", {"text": "x" * (50_000 if number % 7 == 6 else 100)})
    os.write(1, f"{receipt.uuid} {receipt.state}\\n".encode())
sys.stdin.read()
"""


class Writer:
    """A running writer process, what it promised so far, and the moment at which it stands still."""

    def __init__(self, home: Path, durability: str, url: str = "http://127.0.0.1:9", count: int = 10**6):
        self.process = start_python(WRITER, home, durability, url, count, stdin=subprocess.PIPE)
        assert self.process.stdout is not None
        self._pipe = self.process.stdout.fileno()
        self._said = b""

    def wait_for(self, count: int) -> None:
        """Read until so many events are acknowledged."""
        while self._said.count(b"\n") < count:
            more = os.read(self._pipe, 65536)
            assert more, "the writer ended early"
            self._said += more

    def stop(self) -> None:
        """Let it stand still wherever it is, and read what it said before."""
        stop(self.process)
        os.set_blocking(self._pipe, False)
        while more := _read(self._pipe):
            self._said += more
        os.set_blocking(self._pipe, True)

    def go_on(self) -> None:
        """Let it write again."""
        go_on(self.process)

    @property
    def promised(self) -> dict[str, str]:
        """The state of every uuid that was acknowledged."""
        lines = self._said.decode().splitlines(keepends=True)
        words = [line.split() for line in lines if line.endswith("\n")]
        return dict(words)


def stop(process: subprocess.Popen[str]) -> None:
    """Let a process stand still, wherever it is; when this returns it does."""
    process.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{process.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(") ")[2][0] in "TZ")


def go_on(process: subprocess.Popen[str]) -> None:
    """Let a process that stands still run again."""
    process.send_signal(signal.SIGCONT)


def wait_until(condition: Callable[[], object]) -> None:
    """Return once it holds; fails after 20 s."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 65536)
    except BlockingIOError:
        return b""


@contextmanager
def writing(home: Path, durability: str, **options: Any) -> Iterator[Writer]:
    """Have a writer for a block; it is killed at its end."""
    writer = Writer(home, durability, **options)
    try:
        yield writer
    finally:
        writer.process.kill()
        writer.process.communicate()
