"""Between the first signal and the end nothing of ours is seen: no traceback, no word, no other exit code."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from spool.home import Paths
from spool.queue import FileLock
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import flush_json, run_python, start_python

if sys.platform == "win32":
    pytest.skip("signals of POSIX", allow_module_level=True)

HEAD = """
import asyncio, signal, sys, threading, time
# In pieces: of two threads the one that does not run handlers may get the signal.
WAIT = 'print("in", flush=True)\\nfor _ in range(2000): time.sleep(0.01)'
def stop(number, _frame): raise SystemExit(3)
if sys.argv[3] == "without":
    from contextlib import nullcontext
    class Telemetry:
        def capture(self, event): pass
        def command(self, path): return nullcontext()
        def signals(self): return nullcontext()
        def main(self, app): sys.exit(app([]))
    t = Telemetry()
else:
    from spool import Telemetry
    class Telemetry(Telemetry):
        def main(self, app): super().main(app, [])
    t = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
"""
HOSTS = {
    "typer": (
        "import typer\napp = typer.Typer(pretty_exceptions_enable=False)\n@app.command()\n"
        "def work(): exec(WAIT)\nt.main(app)"
    ),
    "click": "import click\n@click.command()\ndef work(): exec(WAIT)\nt.main(work)",
    "signals": "with t.signals(), t.command(['ktx', 'work']): exec(WAIT)",
    "command alone": "with t.command(['ktx', 'work']): exec(WAIT)",
    "captures alone": "t.capture('x'); exec(WAIT)",
    "asyncio": (
        "async def work():\n    with t.command(['ktx', 'work']): print('in', flush=True); await asyncio.sleep(20)\n"
        "with t.signals(): asyncio.run(work())"
    ),
    "own handlers": (
        "for number in (2, 15, 1): signal.signal(number, stop)\n"
        "with t.signals(), t.command(['ktx', 'work']): exec(WAIT)"
    ),
    "a second thread": (
        "threading.Thread(target=time.sleep, args=(20,), daemon=True).start()\n"
        "with t.signals(), t.command(['ktx', 'work']): exec(WAIT)"
    ),
}
PAIRS = [
    ("SIGINT", "SIGINT"),
    ("SIGINT", "SIGTERM"),
    ("SIGTERM", "SIGINT"),
    ("SIGTERM", "SIGTERM"),
    ("SIGHUP", "SIGINT"),
]


class Ended(NamedTuple):
    """How a host ended: its exit code, and what it said on stderr."""

    code: int
    err: str


@pytest.fixture(autouse=True)
def known_install(home: Path) -> None:
    """The notice of the first run is said."""
    run_python(HEAD + "t.capture('first')", home, "http://127.0.0.1:9", "with")


def start(host: str, home: Path, url: str, world: str = "with") -> subprocess.Popen[str]:
    """Start a host; it is in the middle of its work when this returns."""
    process = start_python(HEAD + host, home, url, world)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n", process.communicate()[1]
    return process


def end_all(processes: list[subprocess.Popen[str]], pairs: list[tuple[str, str]], delay_s: float) -> list[Ended]:
    """Send each its two signals, the second ones after a while; give how they ended."""
    time.sleep(0.05)  # the last one is at work as well
    for process, (first, _second) in zip(processes, pairs, strict=True):
        process.send_signal(getattr(signal, first))
    time.sleep(delay_s)
    for process, (_first, second) in zip(processes, pairs, strict=True):
        if second:
            process.send_signal(getattr(signal, second))
    said = []
    for process in processes:
        with process:
            said.append(process.communicate(timeout=15)[1])
    return [Ended(process.returncode, err) for process, err in zip(processes, said, strict=True)]


def without(host: str, signals: list[str]) -> dict[str, Ended]:
    """Give how a host ends without us, by one signal each."""
    processes = [start(host, Path(), "", "without") for _ in signals]
    return dict(zip(signals, end_all(processes, [(name, "") for name in signals], 0), strict=True))


def told(server: LocalPostHog) -> list[str]:
    """Give the outcome of each command that arrived."""
    return [event["properties"]["outcome"] for event in server.accepted if event["event"] == "command"]


@pytest.mark.parametrize("name", HOSTS)
def test_a_second_signal_changes_neither_the_end_nor_what_is_seen_of_it(
    name: str, home: Path, server: LocalPostHog
) -> None:
    """The queue is held, so that the end takes a while and the second signal comes in the middle of it."""
    native = without(HOSTS[name], ["SIGINT", "SIGTERM", "SIGHUP"])
    for delay_s in (0.03, 0.15):
        processes = [start(HOSTS[name], home, server.url) for _ in PAIRS]
        with FileLock(Paths(home).queue_lock).held(5.0):
            ended = end_all(processes, PAIRS, delay_s)
        assert dict(zip(PAIRS, ended, strict=True)) == {pair: native[pair[0]] for pair in PAIRS}, delay_s
    assert flush_json(home)["remaining"] == 0
    assert told(server) == ([] if name == "captures alone" else ["aborted"] * 2 * len(PAIRS))


TIDIES = """
try:
    with t.signals(), t.command(['ktx', 'work']): exec(WAIT)
finally: time.sleep(20)
"""


def test_a_signal_that_was_put_off_reaches_a_host_that_goes_on(home: Path, server: LocalPostHog) -> None:
    """It tidies up for long; a second Ctrl-C in the middle of our work ends that, as does SIGTERM."""
    pairs = [("SIGINT", "SIGINT"), ("SIGINT", "SIGTERM"), ("SIGINT", "SIGHUP")]
    processes = [start(TIDIES, home, server.url) for _ in pairs]
    with FileLock(Paths(home).queue_lock).held(5.0):
        ended = end_all(processes, pairs, 0.1)
    assert [code for code, _err in ended] == [-2, -15, -1]
    assert "time.sleep(20)" not in ended[1].err
    assert [err for _code, err in ended if "/spool/" in err] == []
    assert flush_json(home)["remaining"] == 0
    assert told(server) == ["aborted"] * 3


RAISES = """
def stop(number, _frame): raise LookupError(number)
signal.signal(signal.SIGTERM, stop)
with t.signals(), t.command(['ktx', 'work']): exec(WAIT)
"""


def test_what_a_handler_of_the_host_raises_is_shown_without_us(home: Path, server: LocalPostHog) -> None:
    """Its traceback is the host's own, and the command is aborted."""
    ended = end_all([start(RAISES, home, server.url)], [("SIGTERM", "")], 0)
    assert ended == [without(RAISES, ["SIGTERM"])["SIGTERM"]]
    flush_json(home)
    assert told(server) == ["aborted"]


@pytest.mark.parametrize("name", ["typer", "signals", "captures alone", "own handlers"])
def test_at_any_moment_after_the_first_nothing_of_ours_is_seen(name: str, home: Path, server: LocalPostHog) -> None:
    """A sample of the first 60 ms, in which Python itself may die of the second one, or of both at once."""
    rng = random.Random(20261130)
    native = without(HOSTS[name], ["SIGINT"])["SIGINT"]
    runs = 0
    for second in ("SIGINT", "SIGTERM"):
        for _ in range(2):
            processes = [start(HOSTS[name], home, server.url) for _ in range(4)]
            pairs = [("SIGINT", second)] * len(processes)
            for code, err in end_all(processes, pairs, rng.uniform(0, 0.06)):
                assert code in (native.code, -2, -getattr(signal, second)), err
                assert [word for word in ("/spool/", "atexit", "filelock", "diskcache") if word in err] == []
            runs += len(processes)
    assert flush_json(home)["remaining"] == 0
    assert told(server) == ([] if name == "captures alone" else ["aborted"] * runs)
