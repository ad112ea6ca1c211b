"""Guarantees 1 and 2, proved at every crash point: one kill at each system call of an operation.

The call at which a process is killed is not carried out; so every state of the files between two calls is
met. After each kill this process, which the kill did not touch, opens the spool and counts every event.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

from spool.beside import aside
from spool.beside.spans import recover_all
from spool.home import Paths
from spool.queue import Queue
from tests.support.look import View, capture, look, put_aside
from tests.support.strace import Nursery, attached, needs_strace

pytestmark = [pytest.mark.root, needs_strace]

# Each call that changes a file, a name or a lock, or says something, and how many of it are passed over:
# SQLite locks its ranges by hundreds of fcntl, which leave nothing behind.
CALLS = {
    "pwrite64": 1,
    "write": 1,
    "writev": 1,
    "fdatasync": 1,
    "fsync": 1,
    "ftruncate": 1,
    "unlink": 1,
    "unlinkat": 1,
    "rmdir": 1,
    "rename": 1,
    "renameat": 1,
    "renameat2": 1,
    "link": 1,
    "linkat": 1,
    "mkdir": 1,
    "mkdirat": 1,
    "flock": 1,
    "openat": 2,
    "fcntl": 17,
}

# Every system call takes some eight minutes of two cores: every third one by default, and all of them where asked for.
THIN = 1 if os.environ.get("KTX_SPOOL_EVERY_POINT") else 3
EVENTS = [str(UUID(int=number)) for number in range(1, 7)]
NEW = [str(UUID(int=99))]
# Not in the catalogue, while the others are the spool's own, which no catalogue judges.
REJECTED = [str(UUID(int=77))]
OWN = "$exception"

OPERATIONS = """
from pathlib import Path
import os, uuid
import spool.consent.first_run, spool.event.build, spool.event.envelope, spool.beside.aside
import spool.ktx_events, spool.capture
from flusher import absorb
from spool import Telemetry
from spool.beside.spans import recover_all
from spool.home.paths import Paths
from spool.queue import Queue

def append(home, durability, before_the_pause, after_it):
    telemetry = Telemetry("ktx", "1", "phc_test", home=home, flush="never", durability=durability)
    for part in (before_the_pause, after_it):
        for wanted in part.split():
            receipt = telemetry.capture("scan_completed", {"text": "x" * 3000}, uuid=wanted)
            say(receipt.state, receipt.uuid)
        if part is before_the_pause:
            yield
    telemetry.close()

def append_anew(home, before_the_pause, after_it):
    steps = append(home, "process", before_the_pause, after_it)
    yield next(steps)
    os.closerange(3, 100)
    next(steps, None)

def settle(home):
    queue = Queue(Paths(Path(home)))
    events = [stored for stored in queue.gather() if "scan_completed" in stored.text]
    yield
    say("settled", queue.settle(events[:3], [(event, "refused") for event in events[3:5]]))
    queue.close()

def absorb_all(home):
    paths = Paths(Path(home))
    queue = Queue(paths)
    yield
    say("absorbed", absorb.absorb(paths, queue, None, "ktx").events)
    queue.close()

def recover(home):
    paths = Paths(Path(home))
    queue = Queue(paths)
    yield
    say("recovered", recover_all(paths, queue))
    queue.close()
"""


Said = list[list[str]]
Check = Callable[[Path, Said], Iterator[str]]


def harm(view: View, home: Path) -> Iterator[str]:
    """Name what no kill may ever do."""
    events = view.pending + view.dead
    if not view.account.balanced:
        yield f"the account does not add up: {view}"
    if len(events) != len(set(events)):
        yield f"an event is there twice: {view}"
    if list(Paths(home).quarantine.glob("*/cache.db")):
        yield "a healthy queue was taken for a damaged one"


def after_append(state: str, held: int) -> Check:
    """Give the check of an append that answers with `state`, in a home that held so many events before.

    All acknowledged events are there, once, in their order; of the others at most the one under way. Then
    appending goes on without a gap, also where a capture is the first to meet what the kill left.
    """

    def check(home: Path, said: Said) -> Iterator[str]:
        home.mkdir(exist_ok=True)
        twin = shutil.copytree(home, home.with_name(f"{home.name}-twin"))
        promised = held + len(said)
        if any(words[0] != state for words in said):
            yield f"acknowledged otherwise than {state}: {said}"
        view = look(home, absorbing=True)
        yield from harm(view, home)
        if view.pending not in (EVENTS[:promised], EVENTS[: promised + 1]) or view.account.lost:
            yield f"acknowledged {promised} of {EVENTS}, and there is {view}"
        if not capture(twin, *NEW):
            yield "the next capture is refused"
        later = look(twin, absorbing=True)
        yield from harm(later, twin)
        if sorted(later.pending) != sorted(view.pending + NEW):
            yield f"the next capture made {later} of {view}"
        if later.numbers != list(range(1, len(view.pending) + 3)):
            yield f"one first run, and numbers without a gap: {later}"
        shutil.rmtree(twin)

    return check


def after_settle(home: Path, said: Said) -> Iterator[str]:
    """Settled whole or not at all, and whole once `settle` has returned. Settling again changes no more."""
    view = look(home)
    yield from harm(view, home)
    settled = (EVENTS[5:], EVENTS[3:5], 3)
    state = (view.pending, view.dead, view.account.delivered)
    if state != settled and (said or state != (EVENTS, [], 0)):
        yield f"after the kill: {view}"
    queue = Queue(Paths(home))
    waiting = {json.loads(stored.text)["uuid"]: stored for stored in queue.gather()}
    delivered, rejected = ([uuid for uuid in part if uuid in waiting] for part in (EVENTS[:3], EVENTS[3:5]))
    queue.settle([waiting[uuid] for uuid in delivered], [(waiting[uuid], "refused") for uuid in rejected])
    queue.close()
    view = look(home)
    yield from harm(view, home)
    if (view.pending, view.dead, view.account.delivered) != settled:
        yield f"after settling again: {view}"
    if not capture(home, *NEW) or look(home).pending != EVENTS[5:] + NEW:
        yield "the next capture is not there"


def after_absorb(home: Path, said: Said) -> Iterator[str]:
    """Absorbed whole or not at all; absorbing again makes no second copy and forgets none.

    Before that one more event goes aside: what was absorbed stays known beside it.
    """
    view = look(home)
    yield from harm(view, home)
    whole = (view.pending, view.dead) == (EVENTS, REJECTED)
    if not whole and (said or (view.pending, view.dead) != (EVENTS[:3], [])):
        yield f"after the kill: {view}"
    put_aside(home, NEW[0], OWN)
    view = look(home, absorbing=True)
    yield from harm(view, home)
    if (view.pending, view.dead) != (EVENTS + NEW, REJECTED) or aside.files(Paths(home)):
        yield f"after absorbing again: {view}, {aside.files(Paths(home))}"
    if view.account.losses != {"invalid": 1, "disk_full": 2}:
        yield f"the broken file and the note of two losses are counted as {view.account.losses}"
    if not list(Paths(home).quarantine.glob("*.json")):
        yield "the broken file is gone"


def after_recover(home: Path, said: Said) -> Iterator[str]:
    """The dead commands are in the queue all together or not at all; once more, and each is there once."""
    view = look(home)
    yield from harm(view, home)
    whole = view.pending == EVENTS[:4]
    if not whole and (said or view.pending != EVENTS[:1]):
        yield f"after the kill: {view}"
    paths = Paths(home)
    queue = Queue(paths, wait_s=5)
    recover_all(paths, queue)
    queue.close()
    view = look(home)
    yield from harm(view, home)
    if view.pending != EVENTS[:4] or view.account.losses != {"damaged": 1} or list(paths.spans.iterdir()):
        yield f"after recovering again: {view}, {list(paths.spans.iterdir())}"
    if len(list(paths.quarantine.glob("*.json"))) != 1:
        yield "the broken file is gone"


class Operation(NamedTuple):
    """What is killed: the order to the nursery, the home it starts with, the check, and how many points."""

    order: tuple[str, ...]
    prepare: Callable[[Path], object]
    check: Check
    least: int
    fault: str = ""


def hold(count: int) -> Callable[[Path], object]:
    """Prepare a home that holds the first events."""
    return lambda home: capture(home, *EVENTS[:count])


def hold_beside(home: Path) -> None:
    """Prepare a home: three events in the queue; beside it three more, one too many, a note, and what is no event."""
    capture(home, *EVENTS[:3])
    left = json.loads(Paths(home).destination.read_text())
    Paths(home).destination.write_text(json.dumps({**left, "catalogue": "ktx"}))
    put_aside(home, REJECTED[0])
    for uuid in EVENTS[3:]:
        put_aside(home, uuid, OWN)
    (Paths(home).aside / "0-broken.json").write_text("{")
    (Paths(home).aside / "0-0.disk_full.2.lost").touch()


def hold_commands(home: Path) -> None:
    """Prepare a home: an event in the queue; beside it three dead commands, and a file that holds none."""
    capture(home, *EVENTS[:1])
    paths = Paths(home)
    paths.spans.mkdir(mode=0o700)
    for uuid in EVENTS[1:4]:
        stamp = "2026-11-23T12:00:00+00:00"
        event = {"uuid": uuid, "event": "command", "distinct_id": "d", "timestamp": stamp, "properties": {}}
        paths.span(uuid).write_text(json.dumps(event))
    paths.span("0-broken").write_text("{")


OPERATIONS_KILLED = {
    "the first append of all": Operation(
        ("append", "process", "", " ".join(EVENTS)), lambda _home: None, after_append("queued", 0), 200
    ),
    "an append by a new process": Operation(
        ("append", "process", "", " ".join(EVENTS[3:])), hold(3), after_append("queued", 3), 70
    ),
    "an append by a process that has the queue open": Operation(
        ("append", "power", " ".join(EVENTS[:3]), " ".join(EVENTS[3:])),
        lambda _home: None,
        after_append("queued", 0),
        20,
    ),
    "an append that goes aside": Operation(
        ("append", "power", "", " ".join(EVENTS[3:])),
        hold(3),
        after_append("aside", 3),
        10,
        "flock:error=ENOSYS",
    ),
    "an append after the host has closed all descriptors": Operation(
        ("append_anew", " ".join(EVENTS[:3]), " ".join(EVENTS[3:])), lambda _home: None, after_append("queued", 0), 50
    ),
    "settle": Operation(("settle",), hold(6), after_settle, 20),
    "absorb": Operation(("absorb_all",), hold_beside, after_absorb, 50),
    "recover": Operation(("recover",), hold_commands, after_recover, 50),
}


@pytest.mark.parametrize("name", OPERATIONS_KILLED)
def test_a_kill_at_any_system_call_breaks_nothing(
    name: str, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Killed at its first, second, ... call of each kind, until it gets through: every event is counted."""
    operation = OPERATIONS_KILLED[name]
    start = tmp_path / "start"
    operation.prepare(start)
    points, problems = 0, []
    with Nursery(OPERATIONS, tmp_path / "stderr") as nursery:
        for call, stride in CALLS.items():
            if operation.fault.startswith(call):
                continue
            for number in itertools.count(1, stride * THIN):
                home = tmp_path / f"{call}-{number}"
                if start.exists():
                    shutil.copytree(start, home)
                child, said = nursery.child(operation.order[0], home, *operation.order[1:])
                injections = [f"?{call}:signal=KILL:when={number}", operation.fault]
                with attached(child.pid, *filter(None, injections)):
                    said += child.go_on()
                problems += [f"{call} {number}: {problem}" for problem in operation.check(home, said)]
                shutil.rmtree(home)
                if not child.killed:
                    break
                points += 1
    record_testsuite_property(f"crash points of {name}", points)
    assert problems == []
    assert points >= operation.least // (THIN + 1)
