"""Whatever changes the queue's files does so under `queue.lock`: seen from outside, system call by system call."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment
from tests.support.strace import needs_strace

CHANGES = "pwrite64,ftruncate,unlink,unlinkat,rename,renameat,renameat2"
HOST = """
import os, sys, threading
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
with telemetry.command(["ktx", "work"]):
    for number in range(5):
        assert telemetry.capture("scan_completed", {"number": number}).state == "queued"
    thread = threading.Thread(target=lambda: telemetry.capture("from a thread"))
    thread.start()
    thread.join()
    if not os.fork():
        telemetry.capture("from a fork")
        telemetry.close()
        os._exit(0)
    os.wait()
    telemetry.capture("after the fork")
"""


class Change(NamedTuple):
    """One system call on the queue's files, and whether the process held the lock."""

    call: str
    locked: bool


def changes(log: Path) -> Iterator[Change]:
    """Read the calls of one thread of a process, as strace wrote them."""
    locked = False
    for line in log.read_text().splitlines():
        if line.startswith("flock(") and "/queue.lock>" in line:
            locked = "LOCK_UN" not in line if line.endswith("= 0") else locked
        elif re.match(r"\w+\(.*/spool/queue(?:\.new|\.wiped-\w+)?[/>\"]", line) and not line.startswith("flock("):
            yield Change(line, locked)


def traced(folder: Path, *command: str) -> list[Change]:
    """Run a process under strace; give its changes of the queue's files."""
    folder.mkdir()
    strace = ["strace", "-ff", "-y", "-s", "200", "-o", str(folder / "log"), "-e", f"trace=flock,{CHANGES}"]
    done = subprocess.run(
        [*strace, sys.executable, *command], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return [change for log in sorted(folder.iterdir()) for change in changes(log)]


@needs_strace
def test_every_change_of_the_queues_files_is_made_under_its_lock(
    home: Path, tmp_path: Path, server: LocalPostHog
) -> None:
    """A first run, captures, a thread, a fork, a second host, a flusher, an opt-out: making to wiping."""
    ktx_flush = ("-m", "flusher", "--home", str(home))
    steps = {
        "first": traced(tmp_path / "first", "-c", HOST, str(home), server.url),
        "second": traced(tmp_path / "second", "-c", HOST, str(home), server.url),
        "run": traced(tmp_path / "run", *ktx_flush, "run"),
        "disable": traced(tmp_path / "disable", *ktx_flush, "disable"),
    }
    assert [change.call for made in steps.values() for change in made if not change.locked] == []
    least = {"first": 100, "second": 50, "run": 20, "disable": 10}
    assert {step: len(made) for step, made in steps.items() if len(made) < least[step]} == {}
    assert len(server.events()) >= 18
    assert os.listdir(home / "spool" / "queue") == ["cache.db"]
