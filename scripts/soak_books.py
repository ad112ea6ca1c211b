"""The books of a soak: what was promised, what arrived, and whether the spool's own account agrees."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spool.home import Paths
from spool.queue import Queue
from tests.support import local_posthog as posthog
from tests.support.processes import flush_json

__all__ = ["MISCHIEF", "Books", "Server"]

# Causes under which an event that had entered the queue may leave it uncalled for.
DROPS = {"over_count", "over_bytes", "expired", "dead_overflow", "damaged", "invalid"}
# No writer lives longer.
FAULT_MEMORY_S = 120.0
# What the server answers when it is not well.
MISCHIEF = (
    posthog.status(500),
    posthog.status(503, headers={"Retry-After": "1"}),
    posthog.status(429),
    posthog.html(),
    posthog.redirect("http://127.0.0.1:9/"),
    posthog.reset(),
    posthog.half(),
    posthog.hang(2.0),
    posthog.slow(1.0),
    posthog.accept_then_reset(),
    posthog.accept_then_reset(),
    posthog.accept_then_hang(1.5),
)


@dataclass
class Books:
    """What was promised, what arrived, and what was wrong. A uuid is kept as 16 bytes."""

    states: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    promised: set[bytes] = field(default_factory=set)
    arrived: dict[bytes, int] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)
    longest: dict[str, float] = field(default_factory=dict)
    faults: list[tuple[float, float, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def capture(self, line: str, *, first: bool, timed: bool) -> None:
        """Enter what a writer said of one capture."""
        state, name, seconds, over = line.split()
        self.states[state] += 1
        if state in ("queued", "aside"):
            self.promised.add(key(name))
        if timed:
            end, took = float(over), float(seconds)
            faults = [name for since, until, name in self.faults if since < end and end - took < until]
            for fault in ["the first of a process"] if first else (faults or ["no fault"]):
                self.longest[fault] = max(took, self.longest.get(fault, 0.0))

    def arrive(self, event: dict[str, Any]) -> None:
        """Enter a copy that the server stored."""
        number, moment = event["properties"]["spool_sequence"], event["timestamp"]
        with self.lock:
            self.done["copies"] += 1
            self.numbers.add(number)
            copy = hash((number, moment))  # a number takes less memory
            if self.arrived.setdefault(key(event["uuid"]), copy) != copy:
                self.wrong.append(f"{event['uuid']} arrived with two numbers or timestamps")

    def forget_faults(self, now: float) -> None:
        """Drop faults that no writer of today has seen."""
        self.faults = [fault for fault in self.faults if now - fault[1] < FAULT_MEMORY_S]

    def close(self, home: Path) -> None:
        """Compare what was promised with what the server got and the spool says, and print it."""
        queue = Queue(Paths(home), wait_s=5.0)
        dead = {key(json.loads(letter.text)["uuid"]): letter.number for letter in queue.dead()}
        queue.close()
        report = flush_json(home, "status")
        account, losses = report["accounting"], report["losses"]
        drops = sum(count for cause, count in losses.items() if cause in DROPS)
        missing = self.promised - self.arrived.keys() - dead.keys()
        numbers = self.numbers | set(dead.values())
        gaps = max(numbers, default=0) - len(numbers)
        print("captures:", _counts(self.states))
        print("done:", _counts(self.done))
        print("longest capture:", ", ".join(f"{name} {took:.3f} s" for name, took in sorted(self.longest.items())))
        print(f"account: {account}, lost by {losses}")
        print(
            f"promised {len(self.promised)}: delivered {len(self.promised & self.arrived.keys())},"
            f" dead letters {len(self.promised & dead.keys())}, missing {len(missing)};"
            f" events on the server {len(self.arrived)}, gaps in their numbers {gaps},"
            f" counted as lost after they had entered the queue {drops}"
        )
        others = account["delivered"] + account["pending"] + account["dead"] + account["lost"]
        self._check(len(missing) <= drops, f"{len(missing)} promised events are nowhere, {drops} are counted as lost")
        # An event may be dropped, or rejected on its second way, although its first copy had arrived.
        unacknowledged = len(self.arrived.keys() - dead.keys()) - account["delivered"]
        self._check(
            gaps + unacknowledged == drops,
            f"{gaps} numbers never arrived and {unacknowledged} arrived unacknowledged, {drops} are counted as lost",
        )
        self._check(len(self.numbers) == len(self.arrived), "two events have one number")
        self._check(account["captured"] == others, "the account does not add up")
        self._check(account["lost"] == sum(losses.values()), "the losses do not add up")
        self._check("expired" not in losses, f"{losses.get('expired')} events expired by a clock that jumped")
        self._check(account["pending"] == 0 and report["aside"] == 0, "something is still pending")
        self._check(unacknowledged >= 0, "more is counted as delivered than arrived")
        self._check(account["dead"] == len(dead), "the dead letters are miscounted")
        self._check(report["problem"] is None, str(report["problem"]))
        reasons = [path.read_text() for path in Paths(home).quarantine.glob("*.reason")]
        self._check(not reasons, f"something was taken for damaged: {reasons}")

    def _check(self, fine: bool, what: str) -> None:  # noqa: FBT001 - an assertion
        if not fine:
            self.wrong.append(what)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


def key(name: str) -> bytes:
    """Pack a uuid."""
    return bytes.fromhex(name.replace("-", ""))


@dataclass(eq=False)
class Server(posthog.LocalPostHog):
    """A PostHog that enters what it stores into the books and forgets the bodies."""

    books: Books = field(default_factory=Books)

    def serve(self, request: posthog.Request) -> posthog.Answer:
        """Reject what is marked; else do as ever."""
        if any(name.startswith("dead") for name in request.uuids):
            return posthog.status(400, "event rejected")
        answer = super().serve(request)
        if answer.code == 200:  # noqa: PLR2004 - HTTP OK
            for event in request.content["batch"]:
                self.books.arrive(event)
        self.clear()
        return answer

    def record(self, request: posthog.Request, code: int) -> None:  # noqa: ARG002 - its name and signature
        """Count only."""
        self.books.done["requests"] += 1
