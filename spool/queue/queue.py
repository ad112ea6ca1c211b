"""The durable queue: append, gather, settle, and an account that adds up. Guarantees 1 to 3 live here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from spool.command.span_file import file_of
from spool.fallback.aside import SUFFIX
from spool.fallback.loss_notes import Note
from spool.home.paths import Paths
from spool.queue.database import Database
from spool.queue.transaction import DeadLetter, Stored, Transaction, dead_letters, events_after
from spool.settings import Durability, Limits

if TYPE_CHECKING:
    from spool.queue.account import Account

__all__ = ["Queue"]

T = TypeVar("T")

# Rows that one transaction of the flusher may touch: at some 30 us each a writer waits 15 ms at most.
CHUNK = 500
# Events that are read at once: as many as go into a request.
PAGE = 500
# Marks the name of a file that holds no event, among those that were absorbed: it goes to quarantine.
REFUSED = "!"


class Queue:
    """The spool's queue, for one process.

    Every method that writes is one transaction under `queue.lock` and is on disk when it returns. All wait
    at most `wait_s` (`Limits.lock_wait_s` by default) and raise UnavailableError where the queue can't be
    had, with nothing done. A damaged queue is moved to quarantine and salvaged on the way. `spare` is asked to
    make room when the disk is full; True if it did.
    """

    def __init__(  # noqa: PLR0913 - what a flusher's differs in, each by name
        self,
        paths: Paths,
        limits: Limits | None = None,
        durability: Durability = "process",
        *,
        wait_s: float | None = None,
        clock: Callable[[], float] = time.time,
        spare: Callable[[], bool] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.wait_s = self.limits.lock_wait_s if wait_s is None else wait_s
        self._clock = clock
        self._paths = paths
        self._database = Database(paths, durability, spare)

    def _write(self, operation: Callable[[Transaction], T]) -> T:
        return self._database.write(operation, self.wait_s)

    def append(self, text: str, guard: Callable[[], None] | None = None, closes: str | None = None) -> int:
        """Add one event; give its sequence number. Over a limit the oldest pending event goes, counted.

        `guard` is called under the lock before anything is written; what it raises is raised. `closes` is
        the uuid of a command whose event this is: 0 where that is in the queue already.
        """

        def operation(transaction: Transaction) -> int:
            if guard is not None:
                guard()
            if closes is not None and not transaction.close_span(closes, self._has_span):
                return 0
            number = transaction.append(text, self._clock())
            transaction.keep_within(self.limits)
            return number

        return self._write(operation)

    def close_span(self, uuid: str, text: str) -> bool:
        """Add the event of a command that was killed, once. False if its own event is in the queue already."""
        return self.append(text, closes=uuid) != 0

    def _has_span(self, uuid: str) -> bool:
        return os.path.exists(file_of(self._paths, uuid))

    def append_all(self, texts: Iterable[str]) -> int:
        """Add several events in one transaction: all of them or none. Gives how many."""
        batch = list(texts)

        def operation(transaction: Transaction) -> int:
            for text in batch:
                transaction.append(text, self._clock())
            transaction.keep_within(self.limits)
            return len(batch)

        return self._write(operation)

    def absorb(
        self,
        files: Mapping[str, str],
        refused: Mapping[str, str] | None = None,
        rejected: Mapping[str, tuple[str, str]] | None = None,
    ) -> int:
        """Add the events of aside files, by name, each once. Gives how many were new.

        `refused` are files that hold no event, with the cause by which they are lost; `rejected` events that
        nobody shall send, with the reason: dead letters. All names are remembered in the same transaction: a
        caller that is killed before it removed the files may come again with the same ones.
        """
        no_events = {REFUSED + name: cause for name, cause in (refused or {}).items()}
        dead = dict(rejected or {})

        def operation(transaction: Transaction) -> int:
            known = set(transaction.absorbed)
            for name in [*files, *dead]:
                if name in known:
                    continue
                if name in dead:
                    transaction.append_dead(*dead[name], self._clock())
                else:
                    transaction.append(files[name], self._clock())
                self._close_by_name(transaction, name)
            for name in no_events.keys() - known:
                transaction.ledger.lose(no_events[name], entered=False)
            transaction.absorbed = sorted([*files, *dead, *no_events])
            transaction.keep_within(self.limits)
            return len(files.keys() - known)

        return self._write(operation)

    def _close_by_name(self, transaction: Transaction, name: str) -> None:
        """Close the span of a command whose event went aside: the file is named by its uuid."""
        uuid = name.removesuffix(SUFFIX)[-36:]
        if self._has_span(uuid):
            transaction.close_span(uuid, self._has_span)

    def absorb_losses(self, notes: dict[str, Note]) -> None:
        """Count the losses of notes, by name, each once, as `absorb` does."""

        def operation(transaction: Transaction) -> None:
            known = set(transaction.absorbed)
            for name, note in notes.items():
                if name not in known:
                    transaction.ledger.lose(note.cause, note.losses, entered=False)
            transaction.absorbed = sorted(notes)

        self._write(operation)

    def wipe(self, cause: str = "opted_out") -> int:
        """Delete every event that waits or is dead, without a trace in free pages; the counters stay.

        Gives how many went. They are counted under `cause`.
        """
        if not self._database.exists():
            return 0
        return self._database.wipe(cause, self.wait_s)

    def rebuild(self, reason: str) -> None:
        """Move the queue to quarantine and go on with what reads: for one that hides what it holds."""
        self._database.rebuild(reason, self.wait_s)

    def verify(self) -> None:
        """Look whether the account adds up; a queue whose account does not is damaged, and rebuilt."""
        from spool.queue.account import verify  # noqa: PLC0415 - as in `account`

        if self._database.exists():
            self._database.read(verify, self.wait_s)

    def absorbed_names(self) -> set[str]:
        """The aside files that are in the queue already."""
        if not self._database.exists():
            return set()
        return self._database.read(lambda store: set(Transaction(store).absorbed), self.wait_s)

    def forget_absorbed(self) -> None:
        """Forget the names that were absorbed, once their files are gone: a name may be used again."""
        if self.absorbed_names():
            self._write(lambda transaction: setattr(transaction, "absorbed", []))

    def count_lost(self, cause: str, count: int = 1) -> None:
        """Count events as captured and lost that never entered the queue."""
        self._write(lambda transaction: transaction.ledger.lose(cause, count, entered=False))

    def report_losses(self, build: Callable[[dict[str, int]], str]) -> bool:
        """Append the event that `build` makes of the losses since the last report, if there were any.

        One transaction: a loss is reported once, by an event that is itself in the queue.
        """

        def operation(transaction: Transaction) -> bool:
            losses = dict(transaction.ledger.unreported)
            if losses:
                transaction.ledger.unreported = {}
                transaction.append(build(losses), self._clock())
            return bool(losses)

        return self._write(operation)

    def gather(self) -> Iterator[Stored]:
        """Go through the pending events, oldest first, while others append and settle.

        Read page by page, each under the lock for some milliseconds; memory does not grow with the backlog. What is
        added meanwhile is seen, what is gone is not.
        """
        after = 0
        while self._database.exists():
            page = self._database.read(partial(events_after, number=after, most=PAGE), self.wait_s)
            if not page:
                return
            for stored in page:
                after = stored.number
                yield stored

    def settle(self, acknowledged: Iterable[Stored], rejected: Iterable[tuple[Stored, str]] = ()) -> int:
        """Take out what PostHog acknowledged, and move what it rejected to the dead letters, in one step.

        Gives how many events left; those that somebody else removed meanwhile are not counted again.
        """
        taken, refused = list(acknowledged), list(rejected)
        return self._write(lambda transaction: transaction.settle(taken, refused, self._clock()))

    def expire(self) -> int:
        """Drop what is older than `Limits.max_age_s`, counted. Gives how many."""
        before = self._clock() - self.limits.max_age_s
        return self._in_chunks(lambda transaction: transaction.expire(before, CHUNK))

    def purge(self, cause: str = "purged") -> int:
        """Drop every pending event, counted under `cause`. Gives how many."""
        return self._in_chunks(lambda transaction: transaction.purge(cause, CHUNK))

    def _in_chunks(self, operation: Callable[[Transaction], int]) -> int:
        if not self._database.exists():
            return 0
        total = 0
        while done := self._write(operation):
            total += done
        return total

    def dead(self) -> list[DeadLetter]:
        """Give the dead letters, oldest first."""
        if not self._database.exists():
            return []
        return self._database.read(dead_letters, self.wait_s)

    def retry_dead(self, letters: Iterable[DeadLetter]) -> int:
        """Put dead letters back into the queue. Gives how many."""
        batch = list(letters)
        return self._write(lambda transaction: transaction.retry_dead(batch, self._clock())) if batch else 0

    def purge_dead(self, cause: str = "purged") -> int:
        """Delete the dead letters, counted under `cause`. Gives how many."""
        numbers = [letter.number for letter in self.dead()]
        return self._write(lambda transaction: transaction.drop_dead(numbers, cause)) if numbers else 0

    def account(self) -> Account:
        """Add up what became of every event of this install."""
        from spool.queue.account import Account, account  # noqa: PLC0415 - a dataclass, half a millisecond; no host asks

        if not self._database.exists():
            return Account()
        return self._database.read(account, self.wait_s)

    def close(self) -> None:
        """Close the connection, under the lock. The queue may be used again; it then opens anew."""
        self._database.close(self.wait_s)
