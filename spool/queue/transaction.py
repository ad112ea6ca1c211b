"""What can be done to the queue inside one transaction: rows, numbers, limits, the ledger.

Keys: an integer is the sequence number of a pending event; `dead:<number>` a dead letter; five more rows
hold the format, the sequence, the ledger, the aside files that were absorbed last and the commands whose event
is in the queue while their span's file may still be there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice, pairwise
from typing import NamedTuple

from spool.errors import QueueDamagedError
from spool.home import Paths
from spool.queue.cache import Cache
from spool.queue.ledger import Ledger
from spool.queue.rows import FORMAT, decode, decode_number, encode, encode_number, parse
from spool.settings import Limits

__all__ = ["META", "REFUSED", "Beside", "DeadLetter", "Row", "Transaction", "is_letter", "is_sound", "names_in"]

META: dict[int | str, int | str] = {
    "absorbed": "[]",
    "closed": "[]",
    "ledger": Ledger().encode(),
    "sequence": encode_number(0),
    "format": FORMAT,
}
# Enough to see what is wrong with them; a fault that makes more of them makes them all alike.
DEAD_LIMIT = 1_000
# Some 5 ms of a capture's time.
MOST_DROPS = 100
# What is read at once: as much as goes into a request.
PAGE_CHARS = 4 * 1024 * 1024
# Marks the name of a file that holds no event, among those that were absorbed: it goes to quarantine.
REFUSED = "!"
_DEAD = "dead:"
_DIGITS = 16


class Row(NamedTuple):
    """One pending event as it stands in the queue: its number, the row's value, its text, when it was stored."""

    number: int
    value: str
    text: str
    stored_at: float


class DeadLetter(NamedTuple):
    """One rejected event: its number, its text, when it was stored, why and when it was rejected."""

    number: int
    text: str
    stored_at: float
    reason: str
    died_at: float


class Beside(NamedTuple):
    """What stands beside the queue: events and notes of losses by their files' names, open commands by their uuids."""

    events: Collection[str] = ()
    commands: Collection[str] = ()
    losses: Mapping[str, tuple[str, int]] = {}

    def rows(self) -> dict[int | str, int | str]:
        """Give the rows by which a queue knows that all this was counted."""
        absorbed = json.dumps(sorted([*self.events, *self.losses]))
        return {"absorbed": absorbed, "closed": json.dumps(sorted(self.commands))}


class Transaction:
    """The queue as seen from inside one transaction. Its ledger is written back by `save`."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._ledger: Ledger | None = None
        self._ledger_read = ""
        # The last number given, how many rows there are, how large the pending ones are; from the first append on.
        self._head: tuple[int, int, int] | None = None

    @property
    def ledger(self) -> Ledger:
        """The counters; read at first use, so that an append that loses nothing never reads them."""
        if self._ledger is None:
            self._ledger_read = str(self._cache.get("ledger"))
            self._ledger = Ledger.decode(self._ledger_read)
        return self._ledger

    def save(self) -> None:
        """Write the ledger back, if it was changed."""
        if self._ledger is not None and (text := self._ledger.encode()) != self._ledger_read:
            self._cache.set("ledger", text)

    # -- events -----------------------------------------------------------------------------------------

    def append(self, text: str, now: float) -> int:
        """Add an event at the end, numbered; `spool_sequence` is written into it. Gives the number.

        Numbers never go back, so a number never names two events. The text is an event's JSON that ends
        with its properties, which are not empty. The sequence is a text with a checksum, which `Cache.incr` can't
        keep: a flipped bit in it would number events anew.
        """
        if self._head is None:
            self._head = self.totals()
        last, rows, size = self._head
        number = last + 1
        value = encode(now, f'{text[:-2]},"spool_sequence":{number}}}}}')
        self._cache.set("sequence", encode_number(number))
        if not self._cache.add(number, value):
            raise QueueDamagedError(f"number {number} can't be given: the sequence went back")
        self._head = number, rows + 1, size + len(value)
        return number

    def keep_within(self, limits: Limits) -> None:
        """Drop the oldest pending events until the limits hold, each counted; after `append`. The newest one stays.

        At most `MOST_DROPS` at once, for somebody waits: limits that have become narrower hold after some
        appends.
        """
        _, rows, size = self._head or self.totals()
        if rows - len(META) <= limits.max_events and size <= limits.max_bytes:
            return
        self._check_counts()
        if rows - len(META) > limits.max_events:
            over = self._waiting(rows) - limits.max_events
            self._drop_oldest(min(over, MOST_DROPS), "over_count")
        for _ in range(MOST_DROPS if size > limits.max_bytes else 0):
            rows, size = self._cache.totals()
            if size <= limits.max_bytes or self._waiting(rows) <= 1:
                break
            self._drop_oldest(1, "over_bytes")

    def _check_counts(self) -> None:
        """Raise QueueDamagedError unless the counts can be true: by a damaged one sound events would be dropped."""
        numbers, rows, size = self.totals()
        gone = self.ledger.delivered + sum(self.ledger.lost.values()) - self.ledger.refused
        if rows - len(META) != numbers - gone or size > self._cache.bytes:
            raise QueueDamagedError("the queue's count of itself can't be true")

    def _drop_oldest(self, count: int, cause: str) -> None:
        for number in self._first_numbers(count):
            self._delete(number)
            self.ledger.lose(cause)

    def _delete(self, number: int) -> None:
        if not self._cache.delete(number):
            raise QueueDamagedError(f"number {number} is there and can't be deleted")

    def _first_numbers(self, most: int) -> list[int]:
        keys = islice(self._cache.iterkeys(), max(0, most))
        return [key for key in keys if isinstance(key, int)]

    @property
    def pending(self) -> int:
        """How many events wait, by the rows."""
        return self._waiting(self._cache.totals()[0])

    def _waiting(self, rows: int) -> int:
        return rows - len(META) - self.ledger.dead

    def settle(self, acknowledged: Iterable[Row], rejected: Iterable[tuple[Row, str]], now: float) -> int:
        """Take acknowledged events out and move rejected ones to the dead letters. Gives how many left.

        Only what still holds the value that was sent is touched: somebody may have purged it meanwhile.
        """
        settled = self._cache.take([(row.number, row.value) for row in acknowledged])
        self.ledger.delivered += settled
        for row, reason in rejected:
            if self._cache.take([(row.number, row.value)]):
                self._bury(row, reason, now)
                settled += 1
        return settled

    def expire(self, rows: Iterable[Row]) -> int:
        """Drop events that are too old, each counted; those that somebody else took out meanwhile are not."""
        expired = self._cache.take([(row.number, row.value) for row in rows])
        self.ledger.lose("expired", expired)
        return expired

    def purge(self, cause: str, most: int) -> int:
        """Drop up to `most` pending events, counted under `cause`."""
        numbers = self._first_numbers(most)
        for number in numbers:
            self._delete(number)
        self.ledger.lose(cause, len(numbers))
        return len(numbers)

    # -- dead letters -----------------------------------------------------------------------------------

    def append_dead(self, text: str, reason: str, now: float) -> None:
        """Number an event that nobody shall send, and make it a dead letter."""
        number = self.append(text, now)
        value = str(self._cache.get(number))
        self._delete(number)
        self._bury(Row(number, value, decode(value).text, now), reason, now)

    def _bury(self, row: Row, reason: str, now: float) -> None:
        letter = json.dumps({"reason": reason, "died_at": now, "stored_at": row.stored_at, "event": row.text})
        self._cache.add(_dead_key(row.number), encode(now, letter))
        self.ledger.dead += 1
        if self.ledger.dead > DEAD_LIMIT:
            self.drop_dead([min(self._dead_numbers())], "dead_overflow")

    def drop_dead(self, numbers: Iterable[int], cause: str) -> int:
        """Delete dead letters, counted under `cause`. Gives how many there were."""
        dropped = sum(self._delete_dead(number) for number in numbers)
        self.ledger.lose(cause, dropped)
        return dropped

    def retry_dead(self, letters: Iterable[DeadLetter], now: float) -> int:
        """Put dead letters back into the queue under their old numbers. Gives how many."""
        revived = 0
        for letter in letters:
            if self._delete_dead(letter.number):
                self._cache.add(letter.number, encode(now, letter.text))
                revived += 1
        return revived

    def _delete_dead(self, number: int) -> bool:
        deleted = bool(self._cache.delete(_dead_key(number)))
        self.ledger.dead -= deleted
        return deleted

    # -- what stands beside the queue ---------------------------------------------------------------------

    def absorbed_names(self) -> list[str]:
        """Give the aside files that are in the queue already, though their names may still be there."""
        return self._names("absorbed")

    def remember_absorbed(self, names: list[str]) -> None:
        """Note which aside files are in the queue, in place of those noted before."""
        self._cache.set("absorbed", json.dumps(names))

    def close_spans(self, uuids: Iterable[str], paths: Paths) -> list[str]:
        """Note that these commands are accounted for; give those that were not before. Notes without a file go."""
        closed = self._names("closed")
        known = set(closed)
        new = [uuid for uuid in dict.fromkeys(uuids) if uuid not in known]
        if new:
            kept = [one for one in closed if os.path.lexists(paths.span(one))]
            self._cache.set("closed", json.dumps(kept + new))
        return new

    def closed_spans(self) -> list[str]:
        """Give the uuids of commands whose event is in the queue, though their span's file may still be there."""
        return self._names("closed")

    def _names(self, key: str) -> list[str]:
        return names_in(self._cache.get(key))

    # -- reading ------------------------------------------------------------------------------------------

    def rows_after(self, number: int, most: int) -> list[Row]:
        """Give up to `most` pending events with numbers above `number`, oldest first; fewer, once they fill a page.

        An empty list where there are no more.
        """
        page = self._cache.page(number, most, PAGE_CHARS)
        if any(one >= next_one for one, next_one in pairwise([number, *(key for key, _value in page)])):
            raise QueueDamagedError("the queue's numbers are not in their order")  # a reader would come to no end
        return [Row(key, str(value), text, stored_at) for key, value in page for stored_at, text in [decode(value)]]

    def dead_letters(self) -> list[DeadLetter]:
        """Give the dead letters, oldest first."""
        return [_letter(number, self._cache.get(_dead_key(number))) for number in sorted(self._dead_numbers())]

    def _dead_numbers(self) -> Iterator[int]:
        """Give the numbers of the dead letters, the highest first: their keys sort after all integers."""
        for key in self._cache.iterkeys(reverse=True):
            if isinstance(key, int):
                return
            if key.startswith(_DEAD):
                yield _dead_number(key)

    def totals(self) -> tuple[int, int, int]:
        """Give how many numbers were given, how many rows there are, and the bytes that wait."""
        return decode_number(self._cache.get("sequence")), *self._cache.totals()


def _dead_key(number: int) -> str:
    return f"{_DEAD}{number:0{_DIGITS}d}"


def _dead_number(key: str) -> int:
    digits = key.removeprefix(_DEAD)
    if not (digits.isascii() and digits.isdigit() and len(digits) == _DIGITS):
        raise QueueDamagedError("a dead letter has a foreign key")
    return int(digits)


def _letter(number: int, value: object) -> DeadLetter:
    try:
        fields = parse(decode(value).text)
        event, reason = str(fields["event"]), str(fields["reason"])
        return DeadLetter(number, event, float(fields["stored_at"]), reason, float(fields["died_at"]))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise QueueDamagedError("a dead letter doesn't read") from error


def names_in(value: object) -> list[str]:
    """Give the names of files that a row lists; QueueDamagedError if it lists anything else."""
    try:
        names = list(parse(str(value)))
    except (ValueError, TypeError) as error:
        raise QueueDamagedError("a list of names in the queue doesn't read") from error
    if not all(isinstance(name, str) and not {"/", "\0"} & set(name) for name in names):
        raise QueueDamagedError("a list of names in the queue holds what is none")
    return names


def is_letter(key: object, value: object) -> bool:
    """Tell whether a row is a dead letter that reads back."""
    try:
        return isinstance(key, str) and key.startswith(_DEAD) and _letter(_dead_number(key), value) is not None
    except QueueDamagedError:
        return False


def is_sound(value: object) -> bool:
    """Tell whether a row reads back as it was written."""
    try:
        decode(value)
    except QueueDamagedError:
        return False
    return True
