"""The account of one spool: what became of every event. Pure arithmetic; the queue stores it.

    captured == delivered + pending + dead + lost

`captured` and `pending` are counted elsewhere (the sequence, the rows): that the sum holds is a proof and
no definition.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace

from spool.errors import QueueDamagedError

__all__ = ["Account", "Ledger"]

# Losses that a person asked for: counted, but not reported to anybody.
PRIVATE_CAUSES = frozenset({"opted_out"})


@dataclass(slots=True)
class Ledger:
    """The counters beside the rows, kept in the same transactions.

    `refused` are the events that were captured and lost before they got a sequence number; they are in
    `lost` as well. `unreported` are the losses since the last `spool_loss` event.
    """

    delivered: int = 0
    refused: int = 0
    dead: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    unreported: dict[str, int] = field(default_factory=dict)

    def lose(self, cause: str, count: int = 1, *, entered: bool = True) -> None:
        """Count events as lost; `entered` tells whether they had entered the queue."""
        if count <= 0:
            return
        self.lost[cause] = self.lost.get(cause, 0) + count
        if cause not in PRIVATE_CAUSES:
            self.unreported[cause] = self.unreported.get(cause, 0) + count
        if not entered:
            self.refused += count

    def encode(self) -> str:
        """Give the text that `decode` reads: JSON, with a checksum over the rest of it as the last field."""
        counters = {name: getattr(self, name) for name in self.__slots__}
        body = json.dumps(counters, separators=(",", ":"))[:-1]
        return f'{body},"check":{_check(body)}}}'

    @classmethod
    def decode(cls, text: object) -> Ledger:
        """Read a stored ledger; QueueDamagedError if it is anything else."""
        body, _, check = str(text).rpartition(',"check":')
        if check != f"{_check(body)}}}":
            raise QueueDamagedError("the queue's account doesn't read")
        try:
            ledger = cls(**json.loads(body + "}"))
            numbers = [ledger.delivered, ledger.refused, ledger.dead]
            numbers += [*ledger.lost.values(), *ledger.unreported.values()]
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise QueueDamagedError("the queue's account doesn't read") from error
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise QueueDamagedError("the queue's account is no account")
        return ledger


def _check(body: str) -> int:
    return zlib.crc32(body.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Account:
    """The account at one moment, with what waits in bytes and since when (seconds since the epoch)."""

    captured: int = 0
    delivered: int = 0
    pending: int = 0
    dead: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    pending_bytes: int = 0
    oldest_at: float | None = None

    @property
    def lost(self) -> int:
        """All losses, of every cause."""
        return sum(self.losses.values())

    @property
    def balanced(self) -> bool:
        """Whether every event is accounted for. Always true; `status` and the tests look."""
        return self.captured == self.delivered + self.pending + self.dead + self.lost

    def with_aside(self, count: int) -> Account:
        """Add events that wait beside the queue: they were captured, and they are pending."""
        return replace(self, captured=self.captured + count, pending=self.pending + count)

    def as_json(self) -> dict[str, int]:
        """Give the five numbers under the contract's names."""
        return {
            "captured": self.captured,
            "delivered": self.delivered,
            "pending": self.pending,
            "dead": self.dead,
            "lost": self.lost,
        }
