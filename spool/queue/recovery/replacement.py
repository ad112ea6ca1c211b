"""A new queue: built as `queue.new` with all that it holds, then renamed. Under the queue's lock."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress

from spool.errors import SpoolError
from spool.home import Paths, private_folder, sync_folder, write_new
from spool.queue.cache import Cache, Key, Value, new_cache, open_cache
from spool.queue.recovery.damaged import read_damaged
from spool.queue.recovery.salvage import salvaged
from spool.queue.rows import encode_number
from spool.queue.transaction import META, Transaction
from spool.settings import Durability

__all__ = ["counters", "create", "rebuild", "replace"]


def create(paths: Paths, durability: Durability, timeout_s: float) -> None:
    """Create the first queue, whole or not at all.

    A `queue.new` that a killed process left is adopted if it was finished: it may hold what that process had salvaged.
    """
    if paths.queue_staged.exists():
        with suppress(SpoolError):  # not finished, so nothing is in it that isn't elsewhere
            open_cache(paths.queue_staged, "process", timeout_s).disconnect()
            os.rename(paths.queue_staged, paths.queue)
            return
    _build(paths, durability, {})
    os.rename(paths.queue_staged, paths.queue)
    if durability == "power":
        for folder in (paths.queue, paths.spool, paths.home, paths.home.parent):
            sync_folder(folder)


def counters(cache: Cache, cause: str) -> tuple[dict[Key, Value], int]:
    """Give the rows of an empty queue with the counters of this one, and how many events go.

    Those are counted as lost by `cause`.
    """
    transaction = Transaction(cache)
    ledger, (sequence, _rows, _size) = transaction.ledger, transaction.totals()
    gone = transaction.pending + ledger.dead
    ledger.lose(cause, gone)
    ledger.dead = 0
    return {"sequence": encode_number(sequence), "ledger": ledger.encode()}, gone


def replace(paths: Paths, durability: Durability, rows: Mapping[Key, Value]) -> None:
    """Put a queue with these rows in place of the present one, which is deleted."""
    _build(paths, durability, rows)
    old = paths.spool / f"queue.wiped-{os.urandom(4).hex()}"
    os.rename(paths.queue, old)
    os.rename(paths.queue_staged, paths.queue)
    shutil.rmtree(old, ignore_errors=True)


def rebuild(paths: Paths, durability: Durability, reason: str) -> None:
    """Move the damaged queue to quarantine, whole, and go on with what could be read of it.

    Killed in the middle, it starts again or finds the finished copy: nothing is read from two places.
    """
    private_folder(paths.quarantine)
    damaged = read_damaged(paths.queue, paths.quarantine / ".reading")
    _build(paths, durability, salvaged(damaged))
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.urandom(3).hex()}"
    write_new(paths.quarantine / f"{name}.reason", f"{reason}\n".encode())
    os.rename(paths.queue, paths.quarantine / name)
    os.rename(paths.queue_staged, paths.queue)


def _build(paths: Paths, durability: Durability, rows: Mapping[Key, Value]) -> None:
    """Build a queue with `rows` as `queue.new`; its `format` row is committed together with them."""
    folder = paths.queue_staged
    shutil.rmtree(folder, ignore_errors=True)
    try:
        private_folder(folder)
        cache = new_cache(folder, durability)
        try:
            with cache.transact():
                for key, value in {**META, **rows}.items():
                    cache.add(key, value)
        finally:
            cache.disconnect()
    except BaseException:  # on a full disk half a queue would keep the space that an event needs
        shutil.rmtree(folder, ignore_errors=True)
        raise
