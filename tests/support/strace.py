"""strace on one operation of one real process: kill it at a system call, or make the call fail.

Only the operation is traced. A nursery is a Python process that has imported everything; for each order it
forks a child, which prepares, says that it is ready, and waits. Then strace takes hold of the child, and the
child is told to go on: the calls of Python's own start never count.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import pytest

from tests.support.processes import environment

__all__ = ["Child", "Nursery", "attached", "needs_strace"]


def _start(pid: int, injections: Sequence[str], log: Path | str) -> subprocess.Popen[str]:
    # strace tampers only with what it traces, and is told to trace nothing else.
    calls = ",".join(injection.split(":", 1)[0] for injection in injections) or "none"
    options = [option for injection in injections for option in ("-e", f"inject={injection}")]
    return subprocess.Popen(
        ["strace", "-f", "-o", str(log), "-e", f"trace={calls}", *options, "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(LC_ALL="C"),
    )


@contextmanager
def attached(pid: int, *injections: str, log: Path | str = os.devnull) -> Iterator[None]:
    """Trace a process for the block, with injections such as `?unlink:signal=KILL:when=3`.

    The process is held when the block begins, and let go at its end unless it is dead; then the log is
    whole. A name after `?` may be unknown to this machine's kernel.
    """
    with _start(pid, injections, log) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        try:
            if " attached" not in said:
                raise RuntimeError(f"strace did not attach: {said.strip()}")
            yield
        finally:
            tracer.send_signal(signal.SIGTERM)
            tracer.stderr.read()


def _why_not() -> str:
    """Say what keeps strace from attaching here, or nothing."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            with attached(sleeper.pid):
                return ""
        except RuntimeError as error:
            return str(error)
        finally:
            sleeper.kill()


_REASON = _why_not()
needs_strace = pytest.mark.skipif(bool(_REASON), reason=_REASON or "strace works here")

# Reports go out by writev, which nothing else in the child uses: faults in write leave them alone.
_FORKER = """
import os, sys

def say(*words):
    os.writev(1, [" ".join(map(str, words)).encode() + b"\\n"])

def run(name, *arguments):
    steps = globals()[name](*arguments)
    for _pause in steps:
        say("ready", os.getpid())
        os.read(0, 100)
    os._exit(0)

while order := os.read(0, 10_000):
    child = os.fork()
    if child == 0:
        run(*order.decode().split("\\n"))
    say("end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


class Child:
    """One child of the nursery: started by an order, paused wherever its operation yields."""

    def __init__(self, orders: IO[str], answers: IO[str]) -> None:
        self._orders, self._answers = orders, answers
        self.pid = 0
        self.exit_code: int | None = None

    def until_pause(self) -> list[list[str]]:
        """Give the words of each line that the child says up to its next pause or its end."""
        said: list[list[str]] = []
        for line in self._answers:
            words = line.split()
            if words[0] == "ready":
                self.pid = int(words[1])
                return said
            if words[0] == "end":
                self.exit_code = int(words[1])
                return said
            said.append(words)
        raise RuntimeError("the nursery ended")

    def go_on(self) -> list[list[str]]:
        """End the pause; give what the child says up to the next one or its end."""
        self._orders.write("go")
        self._orders.flush()
        return self.until_pause()

    @property
    def killed(self) -> bool:
        """Whether it was killed; any end but that and a good one is a fault of the test."""
        if sys.platform == "win32":
            raise OSError("strace is for Linux")
        assert self.exit_code in (0, -signal.SIGKILL), f"the child ended with {self.exit_code}"
        return self.exit_code != 0


class Nursery:
    """Forks children that run an operation: a generator function in `operations`, yielding where it pauses.

    What children say on stderr goes to `log`.
    """

    def __init__(self, operations: str, log: Path) -> None:
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", operations + _FORKER],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders: IO[str] = self._process.stdin
        self._answers: IO[str] = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the nursery. A child that pauses sees the end of its orders and goes on to its own end."""
        self._orders.close()
        self._process.wait(timeout=60)
        self._answers.close()

    def child(self, operation: str, *arguments: object) -> tuple[Child, list[list[str]]]:
        """Start a child; give it at its first pause, and what it said until then."""
        self._orders.write("\n".join([operation, *map(str, arguments)]))
        self._orders.flush()
        child = Child(self._orders, self._answers)
        return child, child.until_pause()
