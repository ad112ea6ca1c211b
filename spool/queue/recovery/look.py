"""A look at a whole queue. It alone decides whether a queue is damaged: what an operation met may be our mistake."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from spool.errors import QueueDamagedError
from spool.queue.account import account, verify
from spool.queue.cache import Cache, open_cache, reading
from spool.queue.transaction import Transaction

__all__ = ["damage_in"]

_PAGE = 500


def damage_in(folder: Path, timeout_s: float) -> str | None:
    """Say what is damaged in a queue; None where it is sound. Nothing is changed.

    It is opened anew, and all of it is read: pages, indexes, every row, the account. Then a row is added and deleted,
    which is rolled back: what is wrong with a trigger shows there. Under the queue's lock. Raises UnavailableError
    where the machine refuses.
    """
    try:
        with reading():
            cache = open_cache(folder, "process", timeout_s)
            try:
                with suppress(_RollBack), cache.transact():
                    cache.check_structure()
                    _read_all(cache)
                    _write_one(cache)
                    raise _RollBack
            finally:
                cache.disconnect()
    except QueueDamagedError as damage:
        return str(damage)
    return None


class _RollBack(Exception):  # noqa: N818 - no error: nothing of the look shall stay
    pass


def _read_all(cache: Cache) -> None:
    transaction = Transaction(cache)
    verify(transaction)
    transaction.absorbed_names()
    transaction.closed_spans()
    pending = size = last = 0
    while page := transaction.rows_after(last, _PAGE):
        pending, size, last = pending + len(page), size + sum(len(row.value) for row in page), page[-1].number
        cache.be_patient()
    counted = account(transaction)
    if (pending, size) != (counted.pending, counted.pending_bytes):
        raise QueueDamagedError("the queue doesn't hold what it counts")
    if last > transaction.totals()[0]:
        raise QueueDamagedError("the sequence went back")


def _write_one(cache: Cache) -> None:
    before = cache.totals()
    number = Transaction(cache).append('{"properties":{"look":1}}', 0.0)
    added = cache.totals()
    cache.delete(number)
    if (added[0], cache.totals()) != (before[0] + 1, before):
        raise QueueDamagedError("the queue doesn't count what is written into it")
