"""What `status` shows: the facts, read once, as JSON or for a person."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from flusher.context import NO_HOME, open_queue
from flusher.delivery import expiry, state
from flusher.delivery.backoff import is_due
from flusher.report.launch import launch_problem
from flusher.schedule.method import Plan
from flusher.schedule.planner import look
from flusher.text import error_words, moment
from spool.beside import aside, loss_reasons
from spool.beside.loss_reasons import LossReason
from spool.consent import HomeState, Identity, consent, home_state, read_stored
from spool.errors import ConfigurationError, SpoolError
from spool.home import Paths, listed
from spool.launch.destination import resolve
from spool.queue import REFUSED
from spool.queue.account import Account

__all__ = ["Status", "collect"]


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that an operator asks first. `problem` is one line about what could not be read.

    Then what the account would tell is not known, and None. `shut` tells a home that this user may not look into: no
    fault, since telemetry is off there.
    """

    home: Path
    identity: Identity
    account: Account
    aside: int
    open_spans: int
    bytes: int
    oldest_age_s: float | None
    flush: state.FlushState
    destination: dict[str, str | None]
    problem: str | None
    shut: bool = False
    schedule: Plan = field(default_factory=Plan)
    last_losses: list[LossReason] = field(default_factory=list)
    launch_problem: str | None = None

    @property
    def next_attempt(self) -> float | None:
        """When the next attempt may be made; None also where the clock was set back since, so that it may be now."""
        waiting, now = self.flush.waiting, time.time()
        return None if waiting is None or (waiting.until > now and is_due(waiting, now)) else waiting.until

    def as_json(self) -> dict[str, object]:
        """Give the status under the contract's names."""
        return {
            "telemetry": {"enabled": self.identity.enabled, "decided_by": self.identity.decided_by},
            "install_id": self.identity.install_id,
            "pending": None if self.problem else self.account.pending,
            "dead": None if self.problem else self.account.dead,
            "aside": None if self.shut else self.aside,
            "open_spans": self.open_spans,
            "bytes": self.bytes,
            "oldest_age_s": self.oldest_age_s,
            "last_attempt": moment(self.flush.last_attempt),
            "last_success": moment(self.flush.last_success),
            "last_result": self.flush.last_result or None,
            "reason": self.flush.reason or None,
            "failures": self.flush.failures,
            "next_attempt": moment(self.next_attempt),
            "accounting": None if self.problem else self.account.as_json(),
            "losses": None if self.problem else self.account.losses,
            "last_losses": [reason._asdict() for reason in self.last_losses],
            "destination": self.destination,
            "launch_problem": self.launch_problem,
            "schedule": self.schedule.as_json(),
            "problem": self.problem,
        }


def collect(app: str, paths: Paths, env: Mapping[str, str]) -> Status:
    """Read the state of a spool. Creates nothing; what can't be read is said in `problem`.

    Events in aside files were captured and wait: they count in both numbers of the account.
    """
    problem = _why_shut(paths.home)
    shut = problem is not None
    account, beside = Account(), 0
    with closing(open_queue(paths)) as queue:
        try:
            if not shut:
                beside = len(aside.files(paths))
                account = queue.account()
                known = queue.absorbed_names() if account.captured else set()
                beside = sum(not {path.name, REFUSED + path.name} & known for path in aside.files(paths))
        except (SpoolError, OSError) as error:
            problem = error_words(error)
    oldest, now = account.oldest_at, time.time()
    first = expiry.earliest(read_stored(paths.identity).created_at, now)
    return Status(
        home=paths.home,
        identity=consent(app, paths, env).identity,
        account=account.with_aside(beside),
        aside=beside,
        open_spans=_count(paths.spans),
        bytes=_bytes(paths.spool),
        oldest_age_s=None if oldest is None else round(expiry.age_s(oldest, first, now), 3),
        flush=state.load(paths),
        destination=_destination(app, paths, env),
        problem=problem,
        shut=shut,
        schedule=look(app, paths),
        last_losses=loss_reasons.read(paths),
        launch_problem=launch_problem(paths, now),
    )


def _why_shut(home: Path) -> str | None:
    """Say why a home can't be looked into, and what to do; None where it can be."""
    if home == NO_HOME:
        return "no home can be named here: set HOME, or give --home a folder"
    match home_state(home):
        case HomeState.UNUSABLE:
            return f"{home} can't be looked into: make it a folder that you may enter, or give --home another one"
        case HomeState.FOREIGN:
            return f"{home} belongs to another user: run this as its owner"
    return None


def _destination(app: str, paths: Paths, env: Mapping[str, str]) -> dict[str, str | None]:
    try:
        destination = resolve(app, paths, env)
    except ConfigurationError as error:
        return {"host": None, "project_key": None, "problem": str(error)}
    return {"host": destination.host, "project_key": destination.project_key}


def _count(folder: Path) -> int:
    return sum(name[0] != "." for name in listed(folder))


def _bytes(folder: os.PathLike[str]) -> int:
    total = 0
    for parent, _folders, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone since it was listed, for the spool is in use; or in a folder that is shut
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
