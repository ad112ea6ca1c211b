"""What one run of the flusher works with, and what it reports."""

from __future__ import annotations

import enum
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flusher.delivery.counts import Tally
from flusher.delivery.gather import BATCH_SIZE
from flusher.observer import Observer
from spool.consent.identity import Identity, consent
from spool.home.paths import Paths
from spool.queue.account import Account

__all__ = ["REJECTED_REASON", "Context", "Options", "Result", "RunReport"]

REJECTED_REASON = "some events were rejected and are kept as dead letters: look in list --dead, then retry them"
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
    """What the operator may set for one run."""

    max_seconds: float | None = None
    max_events: int | None = None
    max_retries: int = 3
    batch_size: int = BATCH_SIZE
    force: bool = False
    host: str | None = None
    key: str | None = None
    dry_run: bool = False


@dataclass(slots=True)
class RunReport:
    """What one run did. `next_attempt` is RFC 3339, or None when nothing keeps the next run from trying."""

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
    next_attempt: str | None = None

    def as_json(self) -> dict[str, object]:
        """Give the report under the contract's names."""
        names = [name for name in self.__slots__ if name != "result"]
        return {**{name: getattr(self, name) for name in names}, "result": self.result.value}


@dataclass(slots=True)
class Context:
    """What a run works with: the spool, the world around it, when to stop, and what it leaves to tell.

    `account` is that at the end of the run. `started_by` is as in `flusher.journal.Entry`.
    """

    app: str
    paths: Paths
    options: Options
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    stop: threading.Event = field(default_factory=threading.Event)
    rng: random.Random = field(default_factory=random.Random)
    clock: Callable[[], float] = time.time
    started: float = field(default_factory=time.monotonic)
    report: RunReport = field(default_factory=RunReport)
    started_by: str = ""
    observer: Observer = field(default_factory=Observer)
    tally: Tally = field(default_factory=Tally)
    account: Account = field(default_factory=Account)

    @property
    def identity(self) -> Identity:
        """Consent as it stands now: asked again before every request."""
        return consent(self.app, self.paths, self.env).identity

    def time_left_s(self) -> float:
        """Seconds until the run must end by itself."""
        if self.options.max_seconds is None:
            return float("inf")
        return self.options.max_seconds - (time.monotonic() - self.started)
