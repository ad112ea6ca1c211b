"""A command of the flusher on a terminal, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import ROOT, environment

__all__ = ["Terminal", "on_a_terminal", "terminal"]


class Terminal:
    """A process on a terminal, and what stood there so far."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.shown = b""
        self._descriptor = descriptor

    def read_until(self, word: bytes) -> bytes:
        """Read on until a word stands there, or the process has ended."""
        while word not in self.shown and (part := self._read()):
            self.shown += part
        return self.shown

    def read_all(self) -> bytes:
        """Read on to the end."""
        while part := self._read():
            self.shown += part
        return self.shown

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, 65536)
        except OSError:  # EIO: nobody holds the other end
            return b""


@contextmanager
def terminal(home: Path, *arguments: str, typed: bytes = b"", width: int = 160) -> Iterator[Terminal]:
    """Start a command of the flusher on a terminal of so many columns; it is killed at the end."""
    if sys.platform == "win32":
        pytest.skip("no pseudo-terminals here")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    os.write(ours, typed)
    command = [sys.executable, "-m", "flusher", "--home", str(home), *arguments]
    env = {name: value for name, value in environment(TERM="xterm").items() if name not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(command, env=env, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            os.close(ours)


def on_a_terminal(home: Path, *arguments: str, typed: bytes = b"", width: int = 160) -> tuple[int, bytes]:
    """Run a command of the flusher on a terminal; gives its exit code and what stood there."""
    with terminal(home, *arguments, typed=typed, width=width) as running:
        shown = running.read_all()
        return running.process.wait(timeout=60), shown
