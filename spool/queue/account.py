"""The account of one spool: what became of every event.

    captured == delivered + pending + dead + lost

`captured` is counted by the sequence, `pending` by the rows, the rest by the ledger: so the sum is a check, and not
true by definition. A capture needs none of this.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from spool.errors import QueueDamagedError
from spool.queue.transaction import META, Transaction

__all__ = ["Account", "account", "verify"]


@dataclass(frozen=True, slots=True)
class Account:
    """The account at one moment, with what waits in bytes and since when (seconds since the epoch).

    `sequence` is the last number that was given.
    """

    captured: int = 0
    delivered: int = 0
    pending: int = 0
    dead: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    pending_bytes: int = 0
    oldest_at: float | None = None
    sequence: int = 0

    @property
    def lost(self) -> int:
        """All losses, of every cause."""
        return sum(self.losses.values())

    @property
    def balanced(self) -> bool:
        """Whether every event is accounted for. Always true for a sound queue; `verify` and the tests check it."""
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


def account(transaction: Transaction) -> Account:
    """Add up what became of every event, in constant time."""
    ledger = transaction.ledger
    sequence, rows, size = transaction.totals()
    oldest = transaction.rows_after(0, most=1)
    return Account(
        captured=sequence + ledger.refused,
        delivered=ledger.delivered,
        pending=rows - len(META) - ledger.dead,
        dead=ledger.dead,
        losses=dict(ledger.lost),
        pending_bytes=size,
        oldest_at=oldest[0].stored_at if oldest else None,
        sequence=sequence,
    )


def verify(transaction: Transaction) -> None:
    """Raise QueueDamagedError unless the account adds up and counts as many dead letters as there are."""
    found = account(transaction)
    if not found.balanced:
        raise QueueDamagedError("the account does not add up")
    if found.dead != len(transaction.dead_letters()):
        raise QueueDamagedError("dead letters are missing")
