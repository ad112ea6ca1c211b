"""What a rebuilt queue holds of a damaged one: pure, from the rows that could be read."""

from __future__ import annotations

import json

from spool.errors import QueueDamagedError
from spool.ledger import Ledger
from spool.transaction import is_dead_key, is_sound

__all__ = ["Rows", "salvaged"]

Rows = dict[int | str, int | str]


def salvaged(rows: Rows) -> Rows:
    """Choose what a rebuilt queue holds of the rows that could be read, and make its account add up.

    What the account knows of and no row holds is counted as lost by `damaged`; where nothing at all was
    readable, one loss is counted, for there was at least something.
    """
    events: Rows = {key: value for key, value in rows.items() if isinstance(key, int) and key > 0 and is_sound(value)}
    dead: Rows = {key: value for key, value in rows.items() if is_dead_key(key) and is_sound(value)}
    try:
        ledger = Ledger.decode(rows.get("ledger"))
        known = True
    except QueueDamagedError:
        ledger, known = Ledger(), False
    sequence = rows.get("sequence")
    highest = max(
        [
            sequence if type(sequence) is int and 0 <= sequence < 2**53 else 0,
            *(key for key in events if isinstance(key, int)),
        ]
    )
    ledger.dead = len(dead)
    ledger.dead_bytes = sum(len(str(value)) for value in dead.values())
    held = ledger.delivered + len(events) + len(dead) + sum(ledger.lost.values())
    # So many numbers were given at least: the sequence may be what is damaged.
    highest = max(highest, held - ledger.refused)
    missing = highest + ledger.refused - held
    if missing == 0 and not known:
        ledger.refused += 1
        missing = 1
    ledger.lose("damaged", missing)
    names: Rows = {key: rows[key] for key in ("absorbed", "closed") if _is_list(rows.get(key))}
    return {**events, **dead, **names, "sequence": highest, "ledger": ledger.encode()}


def _is_list(value: object) -> bool:
    try:
        return isinstance(json.loads(str(value)), list)
    except ValueError:
        return False
