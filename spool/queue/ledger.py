"""The counters of one spool. Pure arithmetic; the queue stores them, and `spool/queue/account.py` adds them up."""

from __future__ import annotations

import json
import zlib

from spool.errors import QueueDamagedError
from spool.queue.rows import parse

__all__ = ["Ledger"]

# Losses that a person asked for: counted, but not reported.
PRIVATE_CAUSES = frozenset({"opted_out"})


class Ledger:
    """The counters beside the rows, kept in the same transactions.

    `refused` are the events that were captured and lost before they got a sequence number; they are in
    `lost` as well. `unreported` are the losses since the last `spool_loss` event.
    """

    __slots__ = ("dead", "delivered", "lost", "refused", "unreported")

    def __init__(
        self,
        delivered: int = 0,
        refused: int = 0,
        dead: int = 0,
        lost: dict[str, int] | None = None,
        unreported: dict[str, int] | None = None,
    ) -> None:
        self.delivered = delivered
        self.refused = refused
        self.dead = dead
        self.lost: dict[str, int] = {} if lost is None else lost
        self.unreported: dict[str, int] = {} if unreported is None else unreported

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
            ledger = cls(**parse(body + "}"))
            numbers = [ledger.delivered, ledger.refused, ledger.dead]
            numbers += [*ledger.lost.values(), *ledger.unreported.values()]
        except (ValueError, TypeError, AttributeError) as error:
            raise QueueDamagedError("the queue's account doesn't read") from error
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise QueueDamagedError("the queue's account is no account")
        return ledger


def _check(body: str) -> int:
    return zlib.crc32(body.encode("utf-8", "surrogatepass"))
