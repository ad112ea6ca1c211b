"""The life of the queue's database: locked, opened once, checked, discarded after a fault, rebuilt.

Everything that writes goes through `Database.write`: one lock, one deadline, one transaction.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TypeVar

from spool.errors import DiskFullError, QueueDamagedError, SpoolError, UnavailableError
from spool.home.files import private_folder, refuse_links
from spool.home.paths import Paths
from spool.queue.disk import DATABASE, Key, Value, in_our_words, read_whole, translated
from spool.queue.ledger import Ledger
from spool.queue.lock import FileLock
from spool.queue.rows import decode_number, encode_number
from spool.queue.store import Store, open_store
from spool.queue.transaction import Transaction
from spool.queue.turn import Turn
from spool.settings import Durability

__all__ = ["Database"]

T = TypeVar("T")
# A fork waits a little longer than the capture of another thread may take, which it must not interrupt.
_FORK_WAIT_S = 0.5

_live: weakref.WeakSet[Database] = weakref.WeakSet()
# Connections of a parent process, kept for ever: SQLite must not even close them in the child.
_inherited: list[object] = []


class Database:
    """One process's way to the queue. Threads take turns; a fork starts afresh in the child.

    One connection serves all threads and stays open, for an open costs milliseconds.
    """

    def __init__(
        self, paths: Paths, durability: Durability = "process", spare: Callable[[], bool] | None = None
    ) -> None:
        self.paths = paths
        self._spare = spare
        self.durability: Durability = durability
        self.lock = FileLock(paths.queue_lock, guard=lambda: private_folder(paths.spool))
        self._reset()
        _live.add(self)

    def _reset(self) -> None:
        self._turn = Turn(self.lock)
        self._store: Store | None = None
        self._barred = False
        self._opened: os.stat_result | None = None
        self._pid = os.getpid()

    # -- turns ------------------------------------------------------------------------------------------

    def exclusive(self, wait_s: float) -> AbstractContextManager[float]:
        """Give a block in which this is the only thread of the only process at the queue; see `Turn.taken`."""
        if self._pid != os.getpid():
            self._leave_to_parent()
        if self._barred:
            raise UnavailableError("this process was forked while the queue was open")
        return self._turn.taken(wait_s)

    def before_fork(self) -> bool:
        """Keep every thread out of SQLite while a fork is made, and let no connection cross it.

        SQLite's own mutexes are copied as they are: held by a thread that the child doesn't have, they
        would stop the child for ever. True if the turn was taken, and is to be given back by the parent.
        """
        if self._pid != os.getpid() or self._turn.is_ours or not self._turn.keep_threads_out(_FORK_WAIT_S):
            return False
        if self._store is not None:
            with suppress(SpoolError):  # somebody sits on the lock: the child leaves the connection alone
                self._turn.lock_processes_out(_FORK_WAIT_S)
                self.discard()
                self.lock.release()
        return True

    def after_fork(self) -> None:
        """Give the turn back, in the parent."""
        self._turn.let_threads_in()

    def _leave_to_parent(self) -> None:
        barred = self._barred or self._store is not None
        _inherited.append(self._store)
        self._reset()
        # SQLite believes that it holds the parent's locks: with a connection of this process the parent
        # could not tell that the log is in use. Such a child goes aside, for its whole life.
        self._barred = barred

    # -- work -------------------------------------------------------------------------------------------

    def write(self, operation: Callable[[Transaction], T], wait_s: float) -> T:
        """Run `operation` in one transaction: when this returns, what it did is on disk.

        A damaged queue moves to quarantine, and the operation runs once more on what was salvaged. Raises
        UnavailableError (nothing was done, or it can't be told: do it again) and what `operation` raises.
        Where `spare` makes room on a full disk, it is done again.
        """
        with self.exclusive(wait_s) as deadline:
            return self._with_space(lambda: self._mending(lambda: self._transact(operation, deadline)))

    def _with_space(self, attempt: Callable[[], T]) -> T:
        """Make an attempt; on a full disk again, for the log that was closed may have been all that was in the way.

        A third one is made in the space that `spare` gives.
        """
        if self._spare is None:
            return attempt()
        with suppress(DiskFullError):
            return attempt()
        try:
            return attempt()
        except DiskFullError:
            if not self._spare():
                raise
        return attempt()

    def _mending(self, attempt: Callable[[], T]) -> T:
        """Make an attempt; after damage that is still there at a second look, rebuild and make it again.

        A disk that fails to read for a moment looks like damage to SQLite: the whole file is read first, and
        where that fails nothing is moved.
        """
        try:
            return attempt()
        except QueueDamagedError:
            self.discard()
            read_whole(self.paths.queue)
        try:
            return attempt()
        except QueueDamagedError as damage:
            self._rebuild(str(damage))
            return attempt()

    def _transact(self, operation: Callable[[Transaction], T], deadline: float) -> T:
        for _attempt in range(3):
            store = self._ready(deadline)
            try:
                with store.transact():
                    transaction = Transaction(store)
                    result = operation(transaction)
                    transaction.save()
            except BaseException as error:
                said = in_our_words(error)
                moved = isinstance(said, UnavailableError | QueueDamagedError) and not self._is_current()
                self.discard()
                if moved:
                    continue
                if said is error:
                    raise
                raise said from error
            if self._is_current():
                return result
            self.discard()  # the folder was removed under us: what was written is gone with it
        raise UnavailableError("the queue's folder vanishes while it is written to")

    def read(self, operation: Callable[[Store], T], wait_s: float) -> T:
        """Run `operation` on the store under the lock, without a transaction; nothing may be written.

        A damaged queue is rebuilt, as in `write`.
        """
        with self.exclusive(wait_s) as deadline:
            return self._with_space(lambda: self._mending(lambda: self._look(operation, deadline)))

    def _look(self, operation: Callable[[Store], T], deadline: float) -> T:
        if self._store is not None and not self._is_current():
            self.discard()
        store = self._ready(deadline)
        try:
            return operation(store)
        except BaseException as error:
            self.discard()
            if (said := in_our_words(error)) is error:
                raise
            raise said from error

    def rebuild(self, reason: str, wait_s: float) -> None:
        """Move the queue to quarantine and go on with what reads: for damage found while reading rows."""
        with self.exclusive(wait_s):
            self._rebuild(reason)

    def wipe(self, cause: str, wait_s: float) -> int:
        """Replace the queue by one that holds the counters only; give how many events went with the old.

        SQLite leaves deleted text in free pages; a new file does not.
        """
        from spool.queue.recovery import building  # noqa: PLC0415 - once for each opt-out

        def counters(store: Store) -> tuple[int, Ledger, int]:
            ledger = Ledger.decode(store.get("ledger"))
            return decode_number(store.get("sequence")), ledger, Transaction(store).pending + ledger.dead

        with self.exclusive(wait_s) as deadline:
            sequence, ledger, gone = self._look(counters, deadline)
            self.discard()
            ledger.lose(cause, gone)
            ledger.dead = 0
            rows: dict[Key, Value] = {"sequence": encode_number(sequence), "ledger": ledger.encode()}
            building.replace(self.paths, self.durability, rows)
            return gone

    def exists(self) -> bool:
        """Whether there is a queue, or one that a killed process left unfinished; creates none."""
        return self.paths.queue.exists() or self.paths.queue_staged.exists()

    def close(self, wait_s: float) -> None:
        """Close the connection under the lock; without the lock, the end of the process does."""
        if self._store is None or self._pid != os.getpid():
            return
        with suppress(SpoolError), self.exclusive(wait_s):  # a close that can't be had costs nothing
            self.discard()

    def __del__(self) -> None:
        if getattr(self, "_store", None) is not None and not sys.is_finalizing():
            self.close(_FORK_WAIT_S)

    def discard(self) -> None:
        """Drop the connection, in whatever state it is: SQLite rolls back what was not committed."""
        store, self._store, self._opened = self._store, None, None
        if store is not None:
            with suppress(Exception):  # a wedged connection may refuse even this; it is gone all the same
                store.close()

    # -- opening ----------------------------------------------------------------------------------------

    def _is_current(self) -> bool:
        try:
            named = os.stat(self.paths.database, follow_symlinks=False)
            os.stat(self.paths.log, follow_symlinks=False)  # `os.access` would ask for the real user, not for this one
        except OSError:
            return False
        return self._opened is not None and os.path.samestat(named, self._opened)

    def _ready(self, deadline: float) -> Store:
        """Give the open store; called under the lock. Whether its file still bears the name shows afterwards."""
        # Some patience is left for SQLite itself, however long the lock took.
        timeout_s = max(deadline - time.monotonic(), 0.01)
        if self._store is not None:
            self._store.wait_at_most(timeout_s)
        else:
            with translated():
                private_folder(self.paths.spool)
                if not self.paths.queue.exists():
                    from spool.queue.recovery import building  # noqa: PLC0415 - once in the life of an install

                    building.create(self.paths, self.durability, timeout_s)
                private_folder(self.paths.queue)
                refuse_links(self.paths.queue)
                if not (self.paths.queue / DATABASE).exists():
                    self._rebuild("the queue's file is gone")
            self._store = open_store(self.paths.queue, durability=self.durability, timeout_s=timeout_s)
            with translated():
                self._opened = os.stat(self.paths.queue / DATABASE, follow_symlinks=False)
        return self._store

    def _rebuild(self, reason: str) -> None:
        from spool.queue.recovery import building  # noqa: PLC0415 - after damage, which most processes never see

        self.discard()
        building.rebuild(self.paths, self.durability, reason)


_kept_out: list[Database] = []


def _before_fork() -> None:
    _kept_out.extend(database for database in list(_live) if database.before_fork())


def _after_fork_in_parent() -> None:
    while _kept_out:
        _kept_out.pop().after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_kept_out.clear)
