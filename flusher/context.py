"""What one run of the flusher works with, who observes it, and what it reports."""

from __future__ import annotations

import enum
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flusher.counts import DeliveryCounts
from flusher.delivery.expiry import uptime
from spool.consent import Identity, consent
from spool.home import Paths, Quarantine, Signature
from spool.launch.destination import host_limits
from spool.queue import BY_FLUSHER, UNASKED, FileLock, Queue
from spool.queue.account import Account
from spool.settings import Durability

__all__ = [
    "BATCH_SIZE",
    "NO_HOME",
    "REJECTED_REASON",
    "TIMEOUT_S",
    "WAIT_S",
    "Context",
    "Observer",
    "Options",
    "Result",
    "RunReport",
    "no_flusher",
    "open_queue",
]

# Events in one request.
BATCH_SIZE = 500
# A request may be sent for so long, and its answer may take as long again: the server may wait 20 s for Kafka.
TIMEOUT_S = 30.0
REJECTED_REASON = "some events were rejected and are kept as dead letters: look in list --dead, then retry them"
# The flusher and its commands may wait longer for the queue than a host does.
WAIT_S = 5.0
# Stands for the home where none can be named (no HOME, and an account that nobody knows): it can never be made, so that
# every command finds what a host finds, a home that is not usable.
NO_HOME = Path(os.devnull, "home")
_EXIT_CODES = {"FAILED": 1, "NO_KEY": 2, "MISCONFIGURED": 2, "REJECTED": 3, "UNREACHABLE": 75, "REFUSED": 75}


class Result(enum.Enum):
    """How a run ended."""

    DELIVERED = "delivered"
    NOTHING = "nothing to do"
    BUSY = "another flusher is at work"
    BACKING_OFF = "backing off"
    OFF = "telemetry off"
    TOLD_TO_STOP = "told to stop"
    NO_KEY = "no project key"
    REJECTED = "some events were rejected"
    MISCONFIGURED = "not configured"
    FAILED = "failed"
    UNREACHABLE = "destination not reached"
    REFUSED = "destination refused"

    @property
    def exit_code(self) -> int:
        """The exit code of the contract."""
        return _EXIT_CODES.get(self.name, 0)


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator may set for one run; the command line leaves `timeout_s`, that of one request, as it is."""

    max_seconds: float | None = None
    max_events: int | None = None
    max_retries: int = 3
    batch_size: int = BATCH_SIZE
    force: bool = False
    host: str | None = None
    key: str | None = None
    dry_run: bool = False
    wait_s: float = 0.0
    timeout_s: float = TIMEOUT_S


@dataclass(slots=True)
class RunReport:
    """What one run did. `next_attempt` is RFC 3339, or None when nothing keeps the next run from trying.

    `set_aside` says what was in the way and went to quarantine, and what could not be moved there.
    """

    delivered: int = 0
    rejected: int = 0
    remaining: int = 0
    recovered_spans: int = 0
    absorbed: int = 0
    expired: int = 0
    requests: int = 0
    seconds: float = 0.0
    result: Result = Result.NOTHING
    reason: str = ""
    set_aside: str = ""
    next_attempt: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the report under the contract's names."""
        names = [name for name in self.__slots__ if name != "result"]
        return {**{name: getattr(self, name) for name in names}, "result": self.result.value}


class Observer:
    """Told of the progress of a run; this one ignores it. No method may raise, or take long."""

    def begins(self, waiting: int) -> None:
        """A drain of so many events begins."""

    def settled(self, events: int) -> None:
        """So many events left the queue: delivered, or rejected."""

    def waits(self, seconds: float, reason: str) -> None:
        """The destination failed, and is asked again in so many seconds."""

    def ends(self) -> None:
        """The drain is over, whatever ended it."""


@dataclass(slots=True)
class Context:
    """What a run works with: the spool, environment, clock, random numbers, when to stop; and what it found out.

    `account` is the one at the end of the run, `quarantine` tells what was set aside in it. `started_by` is as in
    `flusher.journal.LoggedRun`.
    """

    app: str
    paths: Paths
    options: Options
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    stop: threading.Event = field(default_factory=threading.Event)
    rng: random.Random = field(default_factory=random.Random)
    clock: Callable[[], float] = time.time
    uptime: Callable[[], tuple[str, float]] = uptime
    started: float = field(default_factory=time.monotonic)
    report: RunReport = field(default_factory=RunReport)
    started_by: str = ""
    observer: Observer = field(default_factory=Observer)
    counts: DeliveryCounts = field(default_factory=DeliveryCounts)
    account: Account = field(default_factory=Account)
    quarantine: Quarantine = field(init=False)

    def __post_init__(self) -> None:
        self.quarantine = Quarantine(self.paths)

    @property
    def identity(self) -> Identity:
        """Consent as it stands now: asked again before every request."""
        return consent(self.app, self.paths, self.env).identity

    def time_left_s(self) -> float:
        """Seconds until the run must end by itself."""
        if self.options.max_seconds is None:
            return float("inf")
        return self.options.max_seconds - (time.monotonic() - self.started)


def open_queue(
    paths: Paths,
    durability: Durability = "process",
    reserve: Path | None = None,
    clock: Callable[[], float] = time.time,
    consent: Signature | None = UNASKED,
) -> Queue:
    """Give the queue for the flusher and its commands, which drop no event over a limit of count or bytes.

    Only a capture enforces the limits of count and bytes; only here a damaged queue is mended however large it is. Who
    adds events names the `consent`, as for the class.
    """
    limits = host_limits(paths)._replace(max_events=2**53, max_bytes=2**53)
    return Queue(
        paths, limits, durability, wait_s=WAIT_S, reserve=reserve, clock=clock, consent=consent, effort=BY_FLUSHER
    )


@contextmanager
def no_flusher(paths: Paths, wait_s: float) -> Iterator[None]:
    """Keep every flusher out for a block. LockBusyError where one is still at work after `wait_s`."""
    with FileLock(paths.flush_lock).held(wait_s):
        yield
