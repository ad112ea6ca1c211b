"""What can be done to the queue inside one transaction: rows, numbers, limits, the ledger.

Keys: an integer is the sequence number of a pending event; `dead:<number>` a dead letter; five more rows
hold the format, the sequence, the ledger, the aside files that were absorbed last and the commands whose event
is in the queue while their span's file may still be there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from spool.errors import QueueDamagedError
from spool.ledger import Account, Ledger
from spool.record import FORMAT, decode, encode
from spool.settings import Limits

__all__ = ["DEAD_LIMIT", "META", "DeadLetter", "Stored", "Transaction", "is_dead_key", "is_sound"]

META: dict[int | str, int | str] = {
    "absorbed": "[]",
    "closed": "[]",
    "ledger": Ledger().encode(),
    "sequence": 0,
    "format": FORMAT,
}
# Enough to see what is wrong with them; a fault that makes more of them makes them all alike.
DEAD_LIMIT = 1_000
# Some 5 ms of a capture's time.
MOST_DROPS = 100
_DEAD = "dead:"


class Stored(NamedTuple):
    """One pending event as it stands in the queue: its number, its row, its text, when it was stored."""

    number: int
    row: str
    text: str
    stored_at: float


class DeadLetter(NamedTuple):
    """One rejected event: its number, its text, when it was stored, why and when it was rejected."""

    number: int
    text: str
    stored_at: float
    reason: str
    died_at: float


def _dead_key(number: int) -> str:
    return f"{_DEAD}{number:016d}"


def is_dead_key(key: object) -> bool:
    """Tell whether a row's key is a dead letter's."""
    return isinstance(key, str) and key.startswith(_DEAD) and key[len(_DEAD) :].isdigit()


def is_sound(value: object) -> bool:
    """Tell whether a row reads back as it was written."""
    try:
        decode(value)
    except QueueDamagedError:
        return False
    return True


class Transaction:
    """The queue as seen from inside one transaction. Its ledger is written back by `save`."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """The counters; read at first use, so that an append that loses nothing never reads them."""
        if self._ledger is None:
            self._ledger = Ledger.decode(self._store.get("ledger"))
        return self._ledger

    def save(self) -> None:
        """Write the ledger back, if it was looked at."""
        if self._ledger is not None:
            self._store.set("ledger", self._ledger.encode())

    # -- events -----------------------------------------------------------------------------------------

    def append(self, text: str, now: float) -> int:
        """Add an event at the end, numbered; `spool_sequence` is written into it. Gives the number.

        Numbers never go back, so a number never names two events. The text is an event's JSON that ends
        with its properties, which are not empty.
        """
        number = int(self._store.incr("sequence"))
        numbered = f'{text[:-2]},"spool_sequence":{number}}}}}'
        if number < 1 or not self._store.add(number, encode(now, numbered)):
            raise QueueDamagedError(f"number {number} can't be given: the sequence went back")
        return number

    def keep_within(self, limits: Limits) -> None:
        """Drop the oldest pending events until the limits hold, each counted. The newest one stays.

        At most `MOST_DROPS` at once, for somebody waits: limits that have become narrower hold after some
        appends.
        """
        rows = int(self._store.reset("count")) - len(META)
        if rows > limits.max_events:
            self._drop_oldest(min(rows - self.ledger.dead - limits.max_events, MOST_DROPS), "over_count")
        for _ in range(MOST_DROPS):
            if int(self._store.reset("size")) <= limits.max_bytes or self.pending <= 1:
                break
            self._drop_oldest(1, "over_bytes")

    def _drop_oldest(self, count: int, cause: str) -> None:
        for number in self._first_numbers(count):
            self._delete(number)
            self.ledger.lose(cause)

    def _delete(self, number: int) -> None:
        if not self._store.delete(number):
            raise QueueDamagedError(f"number {number} is there and can't be deleted")

    def _first_numbers(self, count: int) -> list[int]:
        numbers: list[int] = []
        for key in self._store.iterkeys():
            if len(numbers) >= count or type(key) is not int:
                break
            numbers.append(key)
        return numbers

    @property
    def pending(self) -> int:
        """How many events wait, by the rows."""
        return int(self._store.reset("count")) - len(META) - self.ledger.dead

    def settle(self, acknowledged: Iterable[Stored], rejected: Iterable[tuple[Stored, str]], now: float) -> int:
        """Take acknowledged events out and move rejected ones to the dead letters. Gives how many left.

        Only what still holds the value that was sent is touched: somebody may have purged it meanwhile.
        """
        settled = 0
        for stored in acknowledged:
            if self._store.get(stored.number) == stored.row:
                self._store.delete(stored.number)
                settled += 1
        self.ledger.delivered += settled
        for stored, reason in rejected:
            if self._store.get(stored.number) == stored.row:
                self._store.delete(stored.number)
                self._bury(stored, reason, now)
                settled += 1
        return settled

    def expire(self, before: float, most: int) -> int:
        """Drop up to `most` of the oldest events that were stored before `before`, each counted."""
        expired = 0
        for number in self._first_numbers(most):
            if decode(self._store.get(number)).stored_at >= before:
                break
            self._delete(number)
            expired += 1
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
        row = self._store.get(number)
        self._delete(number)
        self._bury(Stored(number, row, decode(row).text, now), reason, now)

    def _bury(self, stored: Stored, reason: str, now: float) -> None:
        letter = json.dumps({"reason": reason, "died_at": now, "stored_at": stored.stored_at, "event": stored.text})
        row = encode(now, letter)
        self._store.add(_dead_key(stored.number), row)
        self.ledger.dead += 1
        self.ledger.dead_bytes += len(row)
        if self.ledger.dead > DEAD_LIMIT:
            self.drop_dead([dead_letters(self._store)[0].number], "dead_overflow")

    def drop_dead(self, numbers: Iterable[int], cause: str) -> int:
        """Delete dead letters, counted under `cause`. Gives how many there were."""
        dropped = [row for number in numbers if (row := self._take_dead(number)) is not None]
        self.ledger.lose(cause, len(dropped))
        return len(dropped)

    def retry_dead(self, letters: Iterable[DeadLetter], now: float) -> int:
        """Put dead letters back into the queue under their old numbers. Gives how many."""
        revived = 0
        for letter in letters:
            if self._take_dead(letter.number) is not None:
                self._store.add(letter.number, encode(now, letter.text))
                revived += 1
        return revived

    def _take_dead(self, number: int) -> str | None:
        row: str | None = self._store.get(_dead_key(number))
        if row is not None:
            self._store.delete(_dead_key(number))
            self.ledger.dead -= 1
            self.ledger.dead_bytes -= len(row)
        return row

    # -- aside ------------------------------------------------------------------------------------------

    @property
    def absorbed(self) -> list[str]:
        """The aside files that are in the queue already, though their names may still be there."""
        return list(json.loads(self._store.get("absorbed")))

    @absorbed.setter
    def absorbed(self, names: list[str]) -> None:
        self._store.set("absorbed", json.dumps(names))

    # -- spans ------------------------------------------------------------------------------------------

    def close_span(self, uuid: str, has_file: Callable[[str], bool]) -> bool:
        """Note that a command's event is in the queue; False if it was before. Notes without a file go."""
        closed = list(json.loads(self._store.get("closed")))
        if uuid in closed:
            return False
        self._store.set("closed", json.dumps([*filter(has_file, closed), uuid]))
        return True


# -- reading, without a transaction ---------------------------------------------------------------------


def pending_events(store: Any) -> Iterator[Stored]:
    """Go through the pending events, oldest first; what is added meanwhile is seen, what is gone is not."""
    for number in store.iterkeys():
        if type(number) is not int:
            return
        row = store.get(number)
        if row is not None:
            stored_at, text = decode(row)
            yield Stored(number, row, text, stored_at)


def dead_letters(store: Any) -> list[DeadLetter]:
    """Give the dead letters, oldest first."""
    letters = []
    for key in store.iterkeys(reverse=True):
        if type(key) is int:
            break
        if is_dead_key(key) and (row := store.get(key)) is not None:
            fields = json.loads(decode(row).text)
            letters.append(
                DeadLetter(
                    int(key[len(_DEAD) :]),
                    fields["event"],
                    fields["stored_at"],
                    fields["reason"],
                    fields["died_at"],
                )
            )
    return letters[::-1]


def account(store: Any) -> Account:
    """Add up what became of every event, in constant time. One consistent view needs the lock."""
    ledger = Ledger.decode(store.get("ledger"))
    oldest = next(pending_events(store), None)
    return Account(
        captured=int(store.get("sequence")) + ledger.refused,
        delivered=ledger.delivered,
        pending=int(store.reset("count")) - len(META) - ledger.dead,
        dead=ledger.dead,
        losses=dict(ledger.lost),
        pending_bytes=int(store.reset("size")),
        oldest_at=oldest.stored_at if oldest else None,
    )
