"""Which rows of a damaged queue a rebuilt one gets: pure, from the rows that could be read."""

from __future__ import annotations

import re

from spool.errors import QueueDamagedError
from spool.queue.ledger import Ledger
from spool.queue.recovery.damaged import Damaged, Rows
from spool.queue.rows import decode_number, encode_number
from spool.queue.transaction import META, is_letter, is_sound, names_in

# At the end of what `Transaction.append` writes.
_NUMBER = re.compile(r'"spool_sequence":(\d{1,15})}}$')

__all__ = ["read_ledger", "salvaged"]


def salvaged(damaged: Damaged, cause: str = "damaged") -> Rows:
    """Choose the rows of a rebuilt queue from those that could be read, and make its account add up.

    Events that the account counts and no row holds are lost by `cause`; where nothing at all could be read, one loss
    is counted, since there was at least something.
    """
    rows = damaged.rows
    events = _events(rows)
    dead: Rows = {key: value for key, value in rows.items() if is_letter(key, value)}
    known = read_ledger(damaged)
    ledger = known or Ledger()
    ledger.dead = len(dead)
    settled = ledger.delivered + sum(ledger.lost.values()) - ledger.refused
    # At least so many numbers were given, whatever the sequence says.
    highest = max(
        _sequence(damaged, settled if known else 0),
        settled + len(events) + len(dead),
        *(key for key in events if isinstance(key, int)),
        0,
    )
    missing = highest - settled - len(events) - len(dead)
    if missing == 0 and known is None:
        ledger.refused += 1
        missing = 1
    ledger.lose(cause, missing)
    names: Rows = {key: rows[key] for key in ("absorbed", "closed") if _lists_names(rows.get(key))}
    return {**events, **dead, **names, "sequence": encode_number(highest), "ledger": ledger.encode()}


def _events(rows: Rows) -> Rows:
    """Give the sound events by their own numbers: the checksum is over those, and not over the keys of their rows."""
    events: Rows = {}
    for key, value in rows.items():
        if isinstance(key, int) and is_sound(value) and (number := _NUMBER.search(str(value))):
            events[int(number[1])] = value
    return events


def _sequence(damaged: Damaged, settled: int) -> int:
    """Say how many numbers were given: by the sequence; where that can't be read, by the rows, sound or not."""
    try:
        return decode_number(damaged.rows.get("sequence"))
    except QueueDamagedError:
        everything = damaged.counted == len(damaged.rows)
        return settled + len(damaged.rows.keys() - META.keys()) if everything else 0


def read_ledger(damaged: Damaged) -> Ledger | None:
    """Give the account of a damaged queue, if it can be read."""
    try:
        return Ledger.decode(damaged.rows.get("ledger"))
    except QueueDamagedError:
        return None


def _lists_names(value: object) -> bool:
    try:
        names_in(value)
    except QueueDamagedError:
        return False
    return True
