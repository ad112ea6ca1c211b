"""The durable queue: append, gather, settle, and an account that adds up. Guarantees 1 to 3 are kept here.

Each method takes the queue's lock, opens the cache if it is not open, and does one transaction. What is damaged on the
way is moved to quarantine and salvaged.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Concatenate, NamedTuple, ParamSpec, TypeVar

from spool.errors import (
    ConsentChangedError,
    DiskFullError,
    LockBusyError,
    QueueDamagedError,
    SpoolError,
    UnavailableError,
)
from spool.home import Paths, Signature, private_folder, signature, streams_kept_free
from spool.interrupts import signals_held
from spool.queue.cache import Cache, as_spool_error, check_readable, open_cache, reading, translated
from spool.queue.connection import is_lost
from spool.queue.lock import FileLock
from spool.queue.transaction import REFUSED, Beside, DeadLetter, Row, Transaction
from spool.settings import Durability, Limits

if TYPE_CHECKING:
    from spool.queue.account import Account

__all__ = ["BY_FLUSHER", "CHUNK", "REFUSED", "UNASKED", "Queue"]

T = TypeVar("T")
P = ParamSpec("P")

# Rows that one transaction of the flusher may touch: at some 30 us each a writer waits 15 ms at most.
CHUNK = 500
# Events that are read at once: as many as go into a request.
PAGE = 500
# Stands for "ask for no consent", as in a scratch queue. It is the signature of no file; None is that of a missing one.
UNASKED: Signature = (0, 0, 0, 0)


class Effort(NamedTuple):
    """What a process may spend on damage: on a queue of how many bytes, and for how many times a host's patience."""

    most_mended: int
    patience: int


# A host salvages 1 MiB in some 0.1 s. It leaves more to the flusher, and its events go aside until then.
BY_HOST = Effort(1024 * 1024, 1)
# The most that it does at once is to reject 500 events while there are 1,000 dead letters: a tenth of this.
BY_FLUSHER = Effort(2**53, 100)

# Enough for a folder that vanishes twice, damage that is mended, and a full disk that is given room.
_MOST_TRIES = 6
# A fork waits a little longer than the capture of another thread may take, which it must not interrupt.
_FORK_WAIT_S = 0.5

_queues: weakref.WeakSet[Queue] = weakref.WeakSet()
# Those that could not be closed when they were to be: tried again before another connection is opened.
_left_open: set[Queue] = set()


class Queue:
    """The spool's queue, for one process. Threads take turns; a fork starts afresh in the child.

    Every method that writes is one transaction under `queue.lock` and is on disk when it returns. All wait
    at most `wait_s` (`Limits.lock_wait_s` by default) and raise UnavailableError where the queue can't be
    had, with nothing done. A damaged queue is moved to quarantine and salvaged on the way, if its file is no larger
    than `effort` allows: QueueDamagedError else. `reserve` is a file whose space is given up when the disk is full.

    `consent` is the signature of the `telemetry.json` under which events are added, as it was when it was asked (None:
    there was no such file). Whatever adds one asks inside its transaction whether that still is the file. If not,
    ConsentChangedError is raised and nothing was written. So an opt-out, which deletes what waits under the same lock,
    finds every event that was added before it, and none is added after it.
    """

    def __init__(  # noqa: PLR0913 - what a flusher's differs in, each by name
        self,
        paths: Paths,
        limits: Limits | None = None,
        durability: Durability = "process",
        *,
        wait_s: float | None = None,
        clock: Callable[[], float] = time.time,
        reserve: Path | None = None,
        consent: Signature | None = UNASKED,
        effort: Effort = BY_HOST,
    ) -> None:
        self.consent = consent
        self.limits = limits or Limits()
        self.wait_s = self.limits.lock_wait_s if wait_s is None else wait_s
        self._clock = clock
        self._paths = paths
        self._durability: Durability = durability
        self._reserve = reserve
        self._effort = effort
        self._lock = FileLock(paths.queue_lock)
        self._begin_afresh()
        _queues.add(self)

    def _begin_afresh(self) -> None:
        self._pid = os.getpid()
        self._threads = RLock()
        self._owner: int | None = None
        self._cache: Cache | None = None

    # -- events -----------------------------------------------------------------------------------------

    def append(self, text: str, *, consent: Signature | None = UNASKED, closes: str | None = None) -> int:
        """Add one event; give its sequence number. Over a limit the oldest pending event goes, counted.

        `consent` as for the class, for an event that was allowed by itself. `closes` is the uuid of a command whose
        event this is: 0 where that is in the queue already.
        """
        return self._add(self.consent if consent == UNASKED else consent, self._append, text, closes)

    def _append(self, transaction: Transaction, text: str, closes: str | None) -> int:
        if closes is not None and not transaction.close_spans([closes], self._paths):
            return 0
        number = transaction.append(text, self._clock())
        transaction.keep_within(self.limits)
        return number

    def append_all(self, texts: Iterable[str]) -> int:
        """Add several events in one transaction: all of them or none. Gives how many."""
        return self._add(self.consent, self._append_all, list(texts))

    def _append_all(self, transaction: Transaction, texts: list[str]) -> int:
        for text in texts:
            transaction.append(text, self._clock())
        transaction.keep_within(self.limits)
        return len(texts)

    def close_spans(self, events: Mapping[str, str], lost: Mapping[str, str]) -> int:
        """Add the events of commands that were killed, by uuid, each once. Gives how many were new.

        `lost` are commands of which no event could be made, with the cause of the loss. All in one transaction; a
        caller that is killed before it removed the files may come again with the same ones.
        """
        return self._add(self.consent, self._close_spans, events, lost)

    def _close_spans(self, transaction: Transaction, events: Mapping[str, str], lost: Mapping[str, str]) -> int:
        new = transaction.close_spans([*events, *lost], self._paths)
        for uuid in new:
            if uuid in events:
                transaction.append(events[uuid], self._clock())
            else:
                transaction.ledger.lose(lost[uuid], entered=False)
        transaction.keep_within(self.limits)
        return len(events.keys() & set(new))

    def absorb(
        self,
        files: Mapping[str, str],
        refused: Mapping[str, str] | None = None,
        rejected: Mapping[str, tuple[str, str]] | None = None,
        kept: Iterable[str] = (),
    ) -> int:
        """Add the events of aside files, by name, each once. Gives how many were new.

        `refused` are files that hold no event, with the cause by which they are lost; `rejected` events that
        nobody shall send, with the reason: dead letters. All names are remembered in the same transaction: a
        caller that is killed before it removed the files may come again with the same ones. `kept`: names absorbed
        earlier whose files could not be removed.
        """
        return self._add(self.consent, self._absorb, files, refused or {}, rejected or {}, list(kept))

    def _absorb(
        self,
        transaction: Transaction,
        files: Mapping[str, str],
        refused: Mapping[str, str],
        rejected: Mapping[str, tuple[str, str]],
        kept: list[str],
    ) -> int:
        known = set(transaction.absorbed_names())
        causes = {REFUSED + name: cause for name, cause in refused.items()}
        closing = []
        for name in [*files, *rejected]:
            if name in known:
                continue
            if name in rejected:
                transaction.append_dead(*rejected[name], self._clock())
            else:
                transaction.append(files[name], self._clock())
            uuid = name.removesuffix(".json")[-36:]  # a command's event that went aside closes its span
            if os.path.lexists(self._paths.span(uuid)):
                closing.append(uuid)
        transaction.close_spans(closing, self._paths)
        for name in causes.keys() - known:
            transaction.ledger.lose(causes[name], entered=False)
        transaction.remember_absorbed(sorted({*files, *rejected, *causes, *kept}))
        transaction.keep_within(self.limits)
        return len(files.keys() - known)

    def absorb_losses(self, losses: Mapping[str, tuple[str, int]], kept: Iterable[str] = ()) -> None:
        """Count the losses of notes, (cause, count) by the note's name, each once, as `absorb` does."""
        self._do(self._absorb_losses, losses, list(kept))

    def _absorb_losses(self, transaction: Transaction, losses: Mapping[str, tuple[str, int]], kept: list[str]) -> None:
        known = set(transaction.absorbed_names())
        for name, (cause, count) in losses.items():
            if name not in known:
                transaction.ledger.lose(cause, count, entered=False)
        transaction.remember_absorbed(sorted({*losses, *kept}))

    def absorbed_names(self) -> set[str]:
        """The aside files that are in the queue already."""
        return set(self._do(Transaction.absorbed_names)) if self.exists() else set()

    def forget_absorbed(self, kept: Iterable[str] = ()) -> None:
        """Forget the names that were absorbed, once their files are gone: a name may be used again.

        `kept` are those of files that could not be removed.
        """
        left = sorted(kept)
        if self.absorbed_names() != set(left):
            self._do(Transaction.remember_absorbed, left)

    def count_lost(self, cause: str, count: int = 1) -> None:
        """Count events as captured and lost that never entered the queue."""
        self._do(self._count_lost, cause, count)

    def _count_lost(self, transaction: Transaction, cause: str, count: int) -> None:
        transaction.ledger.lose(cause, count, entered=False)

    def report_losses(self, build: Callable[[dict[str, int]], str]) -> bool:
        """Append the event that `build` makes of the losses since the last report, if there were any.

        One transaction: a loss is reported once, by an event that is itself in the queue.
        """
        return self._add(self.consent, self._report_losses, build)

    def _report_losses(self, transaction: Transaction, build: Callable[[dict[str, int]], str]) -> bool:
        losses = dict(transaction.ledger.unreported)
        if losses:
            transaction.ledger.unreported = {}
            transaction.append(build(losses), self._clock())
        return bool(losses)

    def gather(self, after: int = 0) -> Iterator[Row]:
        """Go through the pending events with a number above `after`, oldest first, while others append and settle.

        Read page by page, each under the lock for some milliseconds; memory does not grow with the backlog. What is
        added meanwhile is seen, what is gone is not.
        """
        while self.exists():
            page = self._do(Transaction.rows_after, after, PAGE)
            if not page:
                return
            after = page[-1].number
            yield from page

    def settle(self, acknowledged: Iterable[Row], rejected: Iterable[tuple[Row, str]] = ()) -> int:
        """Take out what PostHog acknowledged, and move what it rejected to the dead letters, in one step.

        Gives how many events left; those that somebody else removed meanwhile are not counted again.
        """
        return self._do(Transaction.settle, list(acknowledged), list(rejected), self._clock())

    def expire(self, is_too_old: Callable[[Row], bool]) -> int:
        """Drop the events of which this is true, counted. Gives how many. All are read, a page at a time."""
        total = 0
        rows = filter(is_too_old, self.gather())
        while chunk := list(islice(rows, CHUNK)):
            total += self._do(Transaction.expire, chunk)
        return total

    def purge(self) -> int:
        """Drop every pending event, counted as `purged`. Gives how many."""
        return self._in_chunks(Transaction.purge, "purged", CHUNK)

    def _in_chunks(
        self, operation: Callable[Concatenate[Transaction, P], int], *args: P.args, **kwargs: P.kwargs
    ) -> int:
        total = 0
        while self.exists() and (done := self._do(operation, *args, **kwargs)):
            total += done
        return total

    def dead(self) -> list[DeadLetter]:
        """Give the dead letters, oldest first."""
        return self._do(Transaction.dead_letters) if self.exists() else []

    def retry_dead(self, letters: Iterable[DeadLetter]) -> int:
        """Put dead letters back into the queue. Gives how many."""
        batch = list(letters)
        return self._add(self.consent, Transaction.retry_dead, batch, self._clock()) if batch else 0

    def purge_dead(self) -> int:
        """Delete the dead letters, counted as `purged`. Gives how many."""
        numbers = [letter.number for letter in self.dead()]
        return self._do(Transaction.drop_dead, numbers, "purged") if numbers else 0

    def account(self) -> Account:
        """Add up what became of every event of this install."""
        from spool.queue.account import Account, account  # noqa: PLC0415 - a millisecond, and no host asks

        return self._do(account) if self.exists() else Account()

    def verify(self) -> None:
        """Look whether the account adds up; a queue whose account does not is damaged, and rebuilt."""
        from spool.queue.account import verify  # noqa: PLC0415 - as in `account`

        if self.exists():
            self._do(verify)

    def wipe(self, beside: Callable[[], Beside] = Beside, delete: Callable[[], None] = lambda: None) -> int:
        """Delete every event that waits or is dead, without a trace in free pages; the counters stay.

        Gives how many went, together with what `beside` finds, which `delete` deletes; all in one turn. They are
        counted as `opted_out`, once, also when this is killed and done again. SQLite leaves deleted text in free
        pages: the queue is replaced by a new one.
        """
        from spool.queue.recovery import counters, rebuild_empty, replace  # noqa: PLC0415 - once for each opt-out

        gone, cause = 0, "opted_out"
        with self._turn() as deadline, translated(), streams_kept_free():
            found = beside()
            if self.exists() or any(found):
                try:
                    with reading():
                        rows, gone = counters(self._connected(deadline), cause, found)
                except QueueDamagedError as damage:
                    self._disconnect()
                    inside = rebuild_empty(self._paths, self._durability, str(damage), cause)
                    rows, outside = counters(self._connected(deadline), cause, found)
                    gone = inside + outside
                self._disconnect()
                replace(self._paths, self._durability, rows)
            delete()
            if any(found):  # the names of what is gone may tell something, and the queue need not know them any more
                replace(self._paths, self._durability, {**rows, **Beside().rows()})
        return gone

    def rebuild(self, reason: str) -> None:
        """Move the queue to quarantine and go on with what reads: for one that hides what it holds."""
        with self._turn():
            self._rebuild(reason)

    def exists(self) -> bool:
        """Whether there is a queue, sound or not, or one that a killed process left unfinished; creates none."""
        return os.path.lexists(self._paths.queue) or os.path.lexists(self._paths.queue_staged)

    def close(self, wait_s: float | None = None) -> None:
        """Close the connection, under the lock. The queue may be used again; it then opens anew."""
        if self._pid != os.getpid() or not (self._cache is not None or self._lock.is_open):
            return
        with suppress(SpoolError), self._turn(wait_s):
            self._disconnect()
            self._lock.close()
            return
        _left_open.add(self)  # somebody holds the queue

    # -- the turn, and what is done in it -----------------------------------------------------------------

    @contextmanager
    def _turn(self, wait_s: float | None = None) -> Iterator[float]:
        """Be the only thread of the only process at the queue; gives the moment until which one may wait.

        Raises LockBusyError after `wait_s`, and at once where this thread is in its turn already: a signal handler or
        a destructor has interrupted an append, which could not go on. UnavailableError where the machine has no lock
        to give.
        """
        if self._pid != os.getpid():
            self._begin_afresh()
        if self._owner == get_ident():
            raise LockBusyError("an append of this thread is under way")
        if self._cache is None:
            _close_those_left_open()
        wait_s = self.wait_s if wait_s is None else wait_s
        deadline = time.monotonic() + wait_s
        with signals_held():
            try:
                try:
                    if not self._threads.acquire(timeout=wait_s):
                        raise LockBusyError(f"another thread held the queue for {wait_s:.2g} s")
                    self._owner = get_ident()
                    with translated():
                        self._lock.acquire(max(0.0, deadline - time.monotonic()))
                    with streams_kept_free():  # SQLite opens more than its files, such as a folder to sync it
                        yield deadline
                finally:
                    self._leave()
            except BaseException:
                self._leave()  # once more, should somebody have raised an exception in this thread while it left
                raise

    def _leave(self) -> None:
        """Give back what this thread has of the turn: all of it, a part, or nothing."""
        try:
            if self._owner == get_ident():
                self._lock.release()
        finally:  # where that fails, as on a full stack, the next turn of this process does it
            if self._owner == get_ident():
                self._owner = None
            try:  # noqa: SIM105 - `suppress` would need three more calls
                self._threads.release()
            except RuntimeError:
                pass  # nothing: another thread has it

    def _add(
        self,
        consent: Signature | None,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation that adds events, under the consent that its caller has asked for."""

        def under_consent(transaction: Transaction) -> T:
            if consent != UNASKED and signature(self._paths.identity) != consent:
                raise ConsentChangedError("telemetry.json was changed since it was asked")
            return operation(transaction, *args, **kwargs)

        return self._do(under_consent)

    def _do(self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `operation` in one transaction: when this returns, what it did is on disk.

        A folder that was removed under us is made again; damage, and a full disk, are mended once. Raises
        UnavailableError (nothing was done, or it can't be told: do it again) and what `operation` raises.
        """
        looked = False
        with self._turn() as deadline:
            for _ in range(_MOST_TRIES):
                try:
                    cache = self._connected(deadline)
                    cache.be_patient(self._effort.patience)
                    with cache.transact():
                        transaction = Transaction(cache)
                        result = operation(transaction, *args, **kwargs)
                        transaction.save()
                    if cache.is_current():
                        return result
                    self._disconnect()  # what was written is gone with the folder
                except BaseException as error:
                    moved = self._cache is not None and not self._cache.is_current()
                    self._disconnect()  # in whatever state it is: SQLite rolls back
                    reason = as_spool_error(error)
                    suspect = _may_be_damage(reason)
                    if moved and (suspect or isinstance(reason, UnavailableError)):
                        continue
                    if suspect and not looked and self._may_mend():
                        looked = True
                        self._look_and_mend(deadline)
                        continue
                    if isinstance(reason, DiskFullError) and self._gave_up_reserve():
                        continue
                    if reason is error:
                        raise
                    raise reason from error
        raise UnavailableError("the queue's folder vanishes while it is written to")

    def _may_mend(self) -> bool:
        """Tell whether the queue's files are small enough for this process, so that nobody waits for long."""
        sizes = {self._paths.database: 0, self._paths.log: 0}
        for path in sizes:
            with suppress(OSError):  # gone, which is damage too
                sizes[path] = os.path.getsize(path)
        # The log has each page as often as it was written: 27 kB for an event.
        return max(sizes[self._paths.database], sizes[self._paths.log] // 16) <= self._effort.most_mended

    def _look_and_mend(self, deadline: float) -> None:
        """Rebuild the queue if a look at all of it finds damage. Called after something did not read, once.

        A disk that fails to read for a moment looks like damage to SQLite: the files are read first, and where that
        fails nothing is moved (UnavailableError). A queue that stands the look is sound, whatever an operation met in
        it: that is tried once more, and is a mistake of ours if it comes again.
        """
        check_readable(self._paths.queue)
        from spool.queue.recovery import damage_in  # noqa: PLC0415 - after damage, which most processes never see

        if damage := damage_in(self._paths.queue, _left(deadline)):
            self._rebuild(damage)

    def _gave_up_reserve(self) -> bool:
        """Give a full disk the space of the reserve, once; the log was closed with the connection."""
        if self._reserve is not None:
            with suppress(OSError):
                os.unlink(self._reserve)
                return True
        return False

    def _rebuild(self, reason: str) -> None:
        from spool.queue.recovery import rebuild  # noqa: PLC0415 - after damage, which most processes never see

        self._disconnect()
        with translated():
            rebuild(self._paths, self._durability, reason)

    # -- the connection -----------------------------------------------------------------------------------

    def _connected(self, deadline: float) -> Cache:
        """Give the open cache; called in a turn. One that has lost a descriptor or a file is opened anew."""
        timeout_s = _left(deadline)
        if self._cache is not None and self._cache.is_usable():
            self._cache.wait_at_most(timeout_s)
            return self._cache
        self._disconnect()
        with translated():
            private_folder(self._paths.spool)
            if not os.path.lexists(self._paths.queue):
                from spool.queue.recovery import create  # noqa: PLC0415 - once in the life of an install

                create(self._paths, self._durability, timeout_s)
            if is_lost(self._paths.queue):
                from spool.queue.recovery import renew  # noqa: PLC0415 - after a host has closed all descriptors

                renew(self._paths, self._durability)
            self._cache = open_cache(self._paths.queue, self._durability, timeout_s)
        return self._cache

    def _disconnect(self) -> None:
        if self._cache is not None:
            for _ in range(2):  # a connection that is stuck may refuse; an exception may come from another thread
                with suppress(Exception):
                    self._cache.disconnect()
                    break
        self._cache = None

    # -- forks --------------------------------------------------------------------------------------------

    def before_fork(self, kept_out: list[Queue]) -> None:
        """Keep every thread out of SQLite while a fork is made, and let no connection cross it.

        SQLite's own mutexes are copied as they are: held by a thread that the child doesn't have, they
        would stop the child for ever. Where the threads are kept out, the queue is added to `kept_out`, before anything
        that can fail: the parent lets them in again.
        """
        if self._pid != os.getpid() or self._owner == get_ident():
            return
        if not self._threads.acquire(timeout=_FORK_WAIT_S):
            return
        kept_out.append(self)
        if self._cache is not None:
            # Where somebody sits on the lock, the child leaves the connection alone.
            with streams_kept_free():
                self._lock.acquire(_FORK_WAIT_S)
                self._disconnect()
                self._lock.release()

    def after_fork(self) -> None:
        """Let the threads in, in the parent."""
        self._threads.release()


def _close_those_left_open() -> None:
    queues = list(_left_open)
    _left_open.clear()
    for queue in queues:
        queue.close(wait_s=0.0)


def _left(deadline: float) -> float:
    """Give the seconds until then: some are left for SQLite itself, however long the lock took."""
    return max(deadline - time.monotonic(), 0.01)


def _may_be_damage(reason: BaseException) -> bool:
    """Tell whether a damaged queue may be the reason: it is said to be, or nobody foresaw what came."""
    foreseen = isinstance(reason, SpoolError) or not isinstance(reason, Exception)
    return isinstance(reason, QueueDamagedError) or not foreseen


# By the thread that forks: two may do so at once.
_kept_out: dict[int, list[Queue]] = {}


def _before_fork() -> None:
    kept_out = _kept_out[get_ident()] = []
    for queue in list(_queues):
        with suppress(Exception):  # whatever the machine refuses, the fork is made all the same
            queue.before_fork(kept_out)


def _after_fork_in_parent() -> None:
    for queue in _kept_out.pop(get_ident(), ()):
        queue.after_fork()


def _after_fork_in_child() -> None:
    _kept_out.clear()
    _left_open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
