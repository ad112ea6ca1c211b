"""A new queue: built as `queue.new` with all that it holds, then renamed. Under the queue's lock."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from spool.errors import QueueDamagedError, UnavailableError
from spool.home import Paths, Quarantine, private_folder, sync_folder, write_new
from spool.queue.cache import Cache, Key, Value, check_files, new_cache, open_cache
from spool.queue.connection import DATABASE, LOG, new_database
from spool.queue.ledger import Ledger
from spool.queue.recovery.damaged import read_counters, read_damaged
from spool.queue.recovery.look import damage_in
from spool.queue.recovery.salvage import read_ledger, salvaged
from spool.queue.rows import encode_number
from spool.queue.transaction import META, REFUSED, Beside, Transaction
from spool.settings import Durability

__all__ = ["counters", "create", "rebuild", "rebuild_empty", "renew", "replace"]

# Copied and synced in some 20 ms, while a host waits for its capture.
_LARGEST_COPY = 8 * 2**20
# How long a statement waits for others at a folder that nobody else uses.
_ALONE_S = 1.0


def create(paths: Paths, durability: Durability, timeout_s: float) -> None:
    """Create the first queue, whole or not at all.

    A `queue.new` that a killed process left is adopted if it was finished: it may hold what that process had salvaged.
    UnavailableError where that can't be told for now, as without a free descriptor.
    """
    if os.path.lexists(paths.queue_staged):
        with suppress(QueueDamagedError):  # not finished, so nothing is in it that isn't elsewhere
            open_cache(paths.queue_staged, "process", timeout_s).disconnect()
            os.rename(paths.queue_staged, paths.queue)
            return
    _build(paths, durability, {})
    os.rename(paths.queue_staged, paths.queue)
    if durability == "power":
        for folder in (paths.queue, paths.spool, paths.home, paths.home.parent):
            sync_folder(folder)


def counters(cache: Cache, cause: str, beside: Beside) -> tuple[dict[Key, Value], int]:
    """Give the rows of an empty queue with the counters of this one, and how many events go.

    Those are counted as lost by `cause`, here and beside, each once: what a run that was killed has counted already is
    known by its name. The names stay in the queue until the files are gone.
    """
    transaction = Transaction(cache)
    ledger, (sequence, _rows, _size) = transaction.ledger, transaction.totals()
    inside = transaction.pending + ledger.dead
    ledger.lose(cause, inside)
    ledger.dead = 0
    known = {name.removeprefix(REFUSED) for name in transaction.absorbed_names()}
    told = {name.removesuffix(".json")[-36:] for name in beside.events}  # commands whose event went aside
    outside = len(set(beside.events) - known) + len(set(beside.commands) - told - set(transaction.closed_spans()))
    ledger.lose(cause, outside, entered=False)
    for name in beside.losses.keys() - known:
        ledger.lose(*beside.losses[name], entered=False)
    return {"sequence": encode_number(sequence), "ledger": ledger.encode(), **beside.rows()}, inside + outside


def replace(paths: Paths, durability: Durability, rows: Mapping[Key, Value]) -> None:
    """Put a queue with these rows in place of the present one, which is deleted."""
    _build(paths, durability, rows)
    _take_place(paths, durability)


def renew(paths: Paths, durability: Durability) -> None:
    """Put a copy in place of the queue: the same content in another file, which SQLite can open in this process.

    Other processes notice that their file has lost its name. UnavailableError where it is too large to be copied while
    a host waits.
    """
    check_files(paths.queue)
    files = [paths.queue / name for name in (DATABASE, LOG)]
    files = [path for path in files if path.exists()]
    if sum(os.path.getsize(path) for path in files) > _LARGEST_COPY:
        raise UnavailableError("the host has closed the queue's descriptors, and the queue is too large to be copied")
    folder = paths.queue_staged
    shutil.rmtree(folder, ignore_errors=True)
    try:
        private_folder(folder)
        new_database(folder)
        write_new(folder / LOG, b"")
        for path in files:
            _copy(path, folder / path.name)
        open_cache(folder, durability, 1.0).disconnect()  # checks it, and folds the log in
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _take_place(paths, durability)


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as original, open(target, "wb") as copy:
        shutil.copyfileobj(original, copy)
        copy.flush()
        os.fsync(copy.fileno())  # what was synced once stays so, whatever the durability


def _take_place(paths: Paths, durability: Durability) -> None:
    """Let the finished `queue.new` be the queue, and delete what was."""
    old = paths.spool / f"queue.wiped-{os.urandom(4).hex()}"
    os.rename(paths.queue, old)
    os.rename(paths.queue_staged, paths.queue)
    if durability == "power":
        for folder in (paths.queue, paths.spool):
            sync_folder(folder)
    for left in paths.spool.glob("queue.wiped-*"):  # this one, and those of processes that were killed here
        shutil.rmtree(left, ignore_errors=True)


def rebuild(paths: Paths, durability: Durability, reason: str) -> None:
    """Move the damaged queue to quarantine, whole, and go on with what could be read of it.

    Nothing is moved unless the new queue stands the look that the old one did not stand: UnavailableError else.
    Killed in the middle, it starts again or finds the finished copy: nothing is read from two places.
    """
    rows = salvaged(read_damaged(paths.queue, _scratch(paths)))
    _put_in_place_of_damaged(paths, durability, reason, rows)


def rebuild_empty(paths: Paths, durability: Durability, reason: str, cause: str) -> int:
    """Do the same with the counters alone, for an opt-out: no event is read. Gives how many are lost by `cause`."""
    damaged = read_counters(paths.queue, _scratch(paths))
    rows = salvaged(damaged, cause)
    _put_in_place_of_damaged(paths, durability, reason, rows)
    before, after = read_ledger(damaged) or Ledger(), Ledger.decode(rows["ledger"])
    return after.lost.get(cause, 0) - before.lost.get(cause, 0)


def _scratch(paths: Paths) -> Path:
    quarantine = Quarantine(paths)
    scratch = quarantine.folder() / ".reading"
    quarantine.clear(scratch, "folder")
    return scratch


def _put_in_place_of_damaged(paths: Paths, durability: Durability, reason: str, rows: Mapping[Key, Value]) -> None:
    _build(paths, durability, rows)
    if still := damage_in(paths.queue_staged, _ALONE_S):
        shutil.rmtree(paths.queue_staged, ignore_errors=True)
        raise UnavailableError(f"a queue that was made anew is no better, so nothing was moved: {still}")
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.urandom(3).hex()}"
    Quarantine(paths).move(paths.queue, reason, name)
    os.rename(paths.queue_staged, paths.queue)


def _build(paths: Paths, durability: Durability, rows: Mapping[Key, Value]) -> None:
    """Build a queue with `rows` as `queue.new`; its `format` row is committed together with them."""
    folder = paths.queue_staged
    Quarantine(paths).clear(folder, "folder")
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
