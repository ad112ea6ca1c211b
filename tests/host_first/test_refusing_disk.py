"""A disk that refuses: the host never notices, no receipt lies, and afterwards everything adds up.

Errors are injected into the calls that write, sync and cut files while a real process captures.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

from spool.home import Paths
from tests.support.local_posthog import LocalPostHog
from tests.support.look import View, capture, look
from tests.support.processes import environment, flush_json, status
from tests.support.strace import Nursery, attached, needs_strace

pytestmark = [pytest.mark.root, needs_strace]

BEFORE, DURING, AFTER, NEW = ([str(UUID(int=start + number)) for number in range(2)] for start in (10, 20, 30, 40))

OPERATIONS = """
import uuid
import spool.consent.first_run, spool.event.build, spool.event.envelope, spool.beside.aside
import spool.capture
from spool import Telemetry

def capture(home, durability, *parts):
    telemetry = Telemetry("ktx", "1", "phc_test", home=home, flush="never", durability=durability)
    for part in parts:
        for wanted in part.split():
            receipt = telemetry.capture("scan_completed", {"text": "x" * 3000}, uuid=wanted)
            say(receipt.state, wanted, receipt.reason or "")
        if part is parts[-1]:
            telemetry.close()
        yield
"""

HOST = """
import sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
for number in range(3):
    receipt = telemetry.capture("scan_completed", {"number": number})
    print(receipt.state, receipt.uuid, receipt.reason)
"""


class Scene(NamedTuple):
    """Where the fault strikes: what was captured before, how thin the sample is and how large at least.

    `beside` is a second fault that sends everything aside.
    """

    home_holds: list[str]
    process_holds: list[str]
    thin: int
    least: int
    beside: str = ""


SCENES = {
    "the first append of all": Scene([], [], 7, 15),
    "an append by a new process": Scene(BEFORE, [], 5, 10),
    "an append by a process that has the queue open": Scene([], BEFORE, 3, 10),
    "an append that goes aside": Scene(BEFORE, [], 2, 5, "flock:error=ENOSYS"),
}
# Which calls fail, alone or together, and how many of them lie between two trials of one way.
CALLS = {
    "pwrite64": 12,
    "write": 1,
    "fdatasync": 2,
    "fsync": 1,
    "ftruncate": 2,
    "pwrite64,write": 12,
    "fdatasync,fsync": 2,
}


class Way(NamedTuple):
    """How the disk refuses: a fault is one refusal, or lasts while the host captures, or beyond its end."""

    durability: str
    error: str
    lasts: str


WAYS = [
    Way(durability, error, lasts)
    for durability in ("process", "power")
    for error in ("ENOSPC", "EIO")
    for lasts in ("beyond the end", "for a while", "once")
]

Receipts = list[tuple[str, str, str]]


class Outcome(NamedTuple):
    """What hosts were told, as (state, uuid, reason), before and under the fault and after; how it ended."""

    told: Receipts
    well_again: Receipts
    exit_code: int | None
    struck: bool


class Bench:
    """A home prepared once, copied for each trial, and the nursery that makes its hosts."""

    def __init__(self, nursery: Nursery, folder: Path, scene: Scene) -> None:
        self._nursery, self._scene = nursery, scene
        self._start, self.home, self._log = folder / "start", folder / "home", folder / "strace.log"
        if scene.home_holds:
            assert capture(self._start, *scene.home_holds)

    def refuse(self, way: Way, calls: str, when: str) -> Outcome:
        """Let a new host capture in a new copy of the home while the disk refuses."""
        shutil.rmtree(self.home, ignore_errors=True)
        if self._start.exists():
            shutil.copytree(self._start, self.home)
        parts = [" ".join(uuids) for uuids in (self._scene.process_holds, DURING, AFTER)]
        child, said = self._nursery.child("capture", self.home, way.durability, *parts)
        injections = [f"{calls}:error={way.error}:when={when}", self._scene.beside]
        with attached(child.pid, *filter(None, injections), log=self._log):
            said += child.go_on()
            if way.lasts == "beyond the end":
                said += child.go_on()
                child.go_on()
        held: Receipts = [("queued", uuid, "") for uuid in self._scene.home_holds]
        well_again = []
        if child.exit_code is None:
            well_again = child.go_on()
            child.go_on()
        struck = re.search(rf"\b({calls.replace(',', '|')})\(.*\(INJECTED\)", self._log.read_text())
        return Outcome(held + receipts(said), receipts(well_again), child.exit_code, struck is not None)


def receipts(said: list[list[str]]) -> Receipts:
    """Read what a host said."""
    return [(words[0], words[1], " ".join(words[2:])) for words in said]


def lies(outcome: Outcome, view: View, *, unsure: bool = False) -> Iterator[str]:
    """Name what was promised and did not come true.

    Where the disk can't say whether it wrote, the queue may hold what the host then put aside or gave up:
    a second copy of the same event, which the server takes for the first.
    """
    if outcome.exit_code != 0:
        yield f"the host ended with {outcome.exit_code}"
    for state, uuid, reason in outcome.told + outcome.well_again:
        least = 1 if state in ("queued", "aside") else 0
        most = least + 1 if unsure and state != "queued" else least
        if not least <= view.pending.count(uuid) <= most:
            yield f"a receipt {state} ({reason}), and {view.pending.count(uuid)} copies"
        if state != "queued" and not reason:
            yield f"a receipt {state} without a reason"
        if state == "disabled" and reason != "home not usable":
            yield f"telemetry is off by {reason}"
    if len(view.moments) != len({uuid for uuid, _moment in view.moments}):
        yield f"two copies that differ: {view}"
    if any(state != "queued" for state, _uuid, _reason in outcome.well_again):
        yield f"the disk is well again, and captures answer {outcome.well_again}"


def miscounts(outcome: Outcome, view: View, *, unsure: bool = False) -> Iterator[str]:
    """Name what does not add up."""
    if not view.account.balanced:
        yield f"the account does not add up: {view}"
    if view.account.captured != len(view.numbers) + view.account.lost:
        yield f"captured is more or less than what is there: {view}"
    told = outcome.told + outcome.well_again
    lost = sum(state == "lost" for state, _uuid, _reason in told)
    # The event of the first run is captured too, and has no receipt; a home that can't be used has none.
    untold = 0 if all(state == "disabled" for state, _uuid, _reason in told) else 1
    first_runs = len(view.numbers) - len(view.pending)
    surplus = first_runs + view.account.lost - lost - untold
    if surplus < 0 or (surplus and not unsure):
        yield f"{lost} lost receipts, and {view.account.losses}, {first_runs} first runs"


def damage(home: Path, view: View) -> Iterator[str]:
    """Name what a new process has to suffer from what happened."""
    if list(Paths(home).quarantine.glob("*")):
        yield "a healthy queue was taken for a damaged one"
    if list(Paths(home).aside.glob(".*")):
        yield "half an event was left behind"
    if not capture(home, *NEW) or look(home).pending != view.pending + NEW:
        yield "a new process can't capture"


def trials(bench: Bench, durability: str, thin: int) -> Iterator[tuple[str, bool, Outcome]]:
    """Refuse each call in turn, in each way, until the host gets through without meeting the fault.

    The ways begin at different calls, so that together they miss few of them.
    """
    ends: dict[str, int] = {}
    for index, way in enumerate(WAYS):
        for calls, stride in CALLS.items() if way.durability == durability else ():
            step = stride * thin
            for number in itertools.count(1 + index * step // len(WAYS), step):
                if number >= ends.get(calls, number + 1):
                    break
                outcome = bench.refuse(way, calls, f"{number}" if way.lasts == "once" else f"{number}+")
                if not outcome.struck:
                    ends[calls] = number
                    break
                # After a sync that failed nobody knows what is on the disk.
                yield f"{way} {calls} {number}", durability == "power" and "sync" in calls, outcome


CASES = [(name, durability) for name in SCENES for durability in ("process", "power")]


@pytest.mark.parametrize(("name", "durability"), CASES)
def test_a_disk_that_refuses_harms_no_host_and_makes_no_receipt_a_lie(
    name: str, durability: str, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Each call in turn answers ENOSPC or EIO: once, for a while, for the rest of the host's life."""
    scene = SCENES[name]
    refusals, problems = 0, []
    with Nursery(OPERATIONS, tmp_path / "stderr") as nursery:
        bench = Bench(nursery, tmp_path, scene)
        for trial, unsure, outcome in trials(bench, durability, scene.thin):
            refusals += 1
            view = look(bench.home, absorbing=True)
            unsure_here = unsure and not scene.beside
            problems += [
                f"{trial}: {problem}"
                for found in (
                    lies(outcome, view, unsure=unsure_here),
                    miscounts(outcome, view, unsure=unsure_here),
                    damage(bench.home, view),
                )
                for problem in found
            ]
    record_testsuite_property(f"refusals in {name}, {durability}", refusals)
    assert problems == []
    assert refusals >= scene.least


@pytest.mark.parametrize("refusals", [1, 2, 3, 1000])
def test_a_disk_that_cannot_be_read_for_a_moment_is_not_taken_for_damage(refusals: int, tmp_path: Path) -> None:
    """EIO at each read of an append, so many in a row: the backlog stays where it is, whole."""
    problems = []
    with Nursery(OPERATIONS, tmp_path / "stderr") as nursery:
        bench = Bench(nursery, tmp_path, SCENES["an append by a new process"])
        for number in itertools.count(1):
            when = f"{number}..{number + refusals - 1}"
            outcome = bench.refuse(Way("process", "EIO", "for a while"), "pread64", when)
            view = look(bench.home, absorbing=True)
            for found in (lies(outcome, view), miscounts(outcome, view), damage(bench.home, view)):
                problems += [f"read {when}: {problem}" for problem in found]
            if not outcome.struck:
                break
    assert problems == []
    assert number > 5


def test_a_file_system_without_locks_delays_events_and_makes_no_lock_of_another_kind(
    home: Path, server: LocalPostHog
) -> None:
    """No flock works, all the host's life: every event goes aside, and the flusher delivers it."""
    host = ["strace", "-f", "-o", os.devnull, "-e", "trace=flock", "-e", "inject=flock:error=ENOSYS"]
    done = subprocess.run(
        [*host, sys.executable, "-c", HOST, str(home), server.url],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [words[0] for words in told] == ["aside"] * 3
    assert all("no file locks here" in words[2] for words in told)
    names = {path.name for path in Paths(home).spool.iterdir()}
    assert names == {"aside", "destination.json", "emitted.json", "queue.lock"}
    assert Paths(home).queue_lock.stat().st_size == 0
    report = flush_json(home)
    assert (report["exit_code"], report["absorbed"], report["delivered"]) == (0, 4, 4)
    assert {words[1] for words in told} < {event["uuid"] for event in server.events()}
    assert status(home)["accounting"]["lost"] == 0
