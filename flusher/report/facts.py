"""What the report tells: what waits, what was sent, what was lost, the last runs. Read once; pure from then on."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from flusher import journal
from flusher.counts import DELAYS
from flusher.events import StoredEvent, dead, waiting
from flusher.report.status import Status, collect
from flusher.text import printable
from spool.home import Paths
from spool.queue import Queue

__all__ = ["Facts", "by_time", "gather_facts"]

# A person reads some of them; a browser opens some megabytes without a thought.
_MOST_PAYLOADS = 200
_MOST_BYTES = 4 * 1024 * 1024
# Up to two days by the hour, else by the day; what is older than that stands in one column.
_MOST_HOURS = 48
_MOST_DAYS = 60
_HOUR_S, _DAY_S = 3600, 86_400


@dataclass(frozen=True, slots=True)
class Payload:
    """One event: `text` is exactly what would be sent, but for white space."""

    when: str
    name: str
    uuid: str
    where: str
    reason: str
    text: str


@dataclass(slots=True)
class EventGroup:
    """Events of one kind: counts of all, the payloads of the first of them."""

    total: int = 0
    by_event: Counter[str] = field(default_factory=Counter)
    by_hour: Counter[int] = field(default_factory=Counter)
    payloads: list[Payload] = field(default_factory=list)
    bytes: int = 0

    @property
    def left_out(self) -> int:
        """How many are counted and not shown."""
        return self.total - len(self.payloads)

    def add(self, event: StoredEvent) -> None:
        """Count one event, and keep its payload while there is room."""
        message = json.loads(event.text)
        happened = datetime.fromisoformat(message["timestamp"])
        self.total += 1
        self.by_event[message["event"]] += 1
        self.by_hour[int(happened.timestamp()) // _HOUR_S] += 1
        if len(self.payloads) >= _MOST_PAYLOADS or self.bytes > _MOST_BYTES:
            return
        text = json.dumps(message, indent=2)
        self.bytes += len(text)
        try:
            when = happened.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        except OverflowError:  # the first or the last day that there is, in another zone
            when = message["timestamp"][:19]
        name, reason = printable(message["event"]), printable(event.reason)
        self.payloads.append(Payload(when, name, message["uuid"], event.state, reason, text))


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything on the page. `runs` are the log's, newest first."""

    app: str
    home: str
    made_at: datetime
    status: Status
    waiting: EventGroup
    dead: EventGroup
    runs: list[journal.LoggedRun]

    @property
    def sent_by_event(self) -> Counter[str]:
        """What the runs of the log delivered."""
        total: Counter[str] = Counter()
        for run in self.runs:
            total.update(run.sent)
            total["(other events)"] += run.other_sent
        return +total

    @property
    def sent_by_hour(self) -> Counter[int]:
        """The same by the hour in which a run ended."""
        total: Counter[int] = Counter()
        for run in self.runs:
            total[int(run.ended.timestamp()) // _HOUR_S] += run.delivered
        return +total

    @property
    def delays(self) -> list[tuple[str, int]]:
        """How long what was delivered took to arrive, in classes."""
        return [(name, sum(run.delays[place] for run in self.runs)) for place, name in enumerate(DELAYS)]


def gather_facts(app: str, paths: Paths, env: Mapping[str, str], queue: Queue) -> Facts:
    """Read a spool. Sends nothing and changes nothing."""
    return Facts(
        app=app,
        home=printable(os.fspath(paths.home)),
        made_at=datetime.now(UTC),
        status=collect(app, paths, env),
        waiting=_counted(waiting(paths, queue)),
        dead=_counted(dead(queue)),
        runs=journal.logged_runs(paths)[::-1],
    )


def _counted(found: Iterable[StoredEvent]) -> EventGroup:
    group = EventGroup()
    for event in found:
        group.add(event)
    return group


def by_time(by_hour: Mapping[int, int], now: datetime) -> list[tuple[str, int]]:
    """Give columns without gaps up to now, by the hour or, where that would be too many, by the day.

    What is older than the first column, or lies in the future, has a column of its own.
    """
    if not by_hour:
        return []
    last = int(now.timestamp()) // _HOUR_S
    if last - min(by_hour) < _MOST_HOURS:
        return _columns(by_hour, min(*by_hour, last - 23), last, _HOUR_S, "%d %b %H:00")
    days: Counter[int] = Counter()
    for hour, count in by_hour.items():
        days[hour * _HOUR_S // _DAY_S] += count
    last = last * _HOUR_S // _DAY_S
    return _columns(days, max(min(days), last - _MOST_DAYS + 1), last, _DAY_S, "%d %b")


def _columns(counts: Mapping[int, int], first: int, last: int, size_s: int, form: str) -> list[tuple[str, int]]:
    older = sum(count for place, count in counts.items() if place < first)
    later = sum(count for place, count in counts.items() if place > last)
    columns = [(_stamp(place * size_s, form), counts.get(place, 0)) for place in range(first, last + 1)]
    return [*([("earlier", older)] if older else []), *columns, *([("later", later)] if later else [])]


def _stamp(seconds: int, form: str) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime(form)
