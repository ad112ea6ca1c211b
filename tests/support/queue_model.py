"""The queue in plain Python: what should be in it, and the account, after every operation."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from spool.queue import DeadLetter, Row
from spool.queue.account import Account
from spool.settings import Limits

__all__ = ["Model", "event"]


def event(name: int, size: int) -> str:
    """Give an event's text as capture hands it over; `name` tells it from all others."""
    return json.dumps({"uuid": f"u-{name}", "properties": {"pad": "x" * size}}, separators=(",", ":"))


def numbered(text: str, number: int) -> str:
    """Give the text as it is sent: with its number."""
    message = json.loads(text)
    message["properties"]["spool_sequence"] = number
    return json.dumps(message, separators=(",", ":"))


@dataclass
class Model:
    """What the queue should hold, in plain Python."""

    limits: Limits
    sequence: int = 0
    refused: int = 0
    delivered: int = 0
    pending: dict[int, tuple[float, str]] = field(default_factory=dict)
    dead: dict[int, DeadLetter] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    unreported: Counter[str] = field(default_factory=Counter)

    def append(self, text: str, now: float) -> None:
        """Add one event, numbered; limits are kept by `keep_within`."""
        self.sequence += 1
        self.pending[self.sequence] = (now, numbered(text, self.sequence))

    def append_dead(self, text: str, reason: str, now: float) -> None:
        """Number one event that nobody shall send."""
        self.sequence += 1
        self.dead[self.sequence] = DeadLetter(self.sequence, numbered(text, self.sequence), now, reason, now)

    def size(self) -> int:
        """Give the bytes that wait: time with three decimals, eight digits of checksum, text, two blanks."""
        return sum(len(f"{at:.3f}") + len(text) + 10 for at, text in self.pending.values())

    def keep_within(self) -> None:
        """Drop the oldest over a limit."""
        while len(self.pending) > self.limits.max_events:
            self.drop(min(self.pending), "over_count")
        while self.size() > self.limits.max_bytes and len(self.pending) > 1:
            self.drop(min(self.pending), "over_bytes")

    def drop(self, number: int, cause: str) -> None:
        """Lose one pending event."""
        del self.pending[number]
        self.lose(cause)

    def lose(self, cause: str, count: int = 1) -> None:
        """Count events as lost; what a person asked for is reported to nobody."""
        self.lost[cause] += count
        if cause != "opted_out":
            self.unreported[cause] += count

    def refuse(self, cause: str, count: int) -> None:
        """Count events as captured and lost that never had a number."""
        self.refused += count
        self.lose(cause, count)

    def holds(self, stored: Row) -> bool:
        """Tell whether exactly this row still waits."""
        return self.pending.get(stored.number) == (stored.stored_at, stored.text)

    def account(self) -> Account:
        """Add it up."""
        return Account(
            captured=self.sequence + self.refused,
            delivered=self.delivered,
            pending=len(self.pending),
            dead=len(self.dead),
            losses={cause: count for cause, count in self.lost.items() if count},
            pending_bytes=self.size(),
            oldest_at=self.pending[min(self.pending)][0] if self.pending else None,
            sequence=self.sequence,
        )
