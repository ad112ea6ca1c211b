"""What one row of the queue holds: an event's text, when it was stored, and a checksum over both.

Format 1: `<stored_at> <crc32> <event>`; seconds since the epoch with three decimals, eight hexadecimal
digits, ASCII JSON. The checksum is there because SQLite keeps none: a flipped bit would arrive as a fact.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from spool.errors import QueueDamagedError

__all__ = ["FORMAT", "Record", "decode", "encode"]

FORMAT = 1


class Record(NamedTuple):
    """One stored text and when it was stored (seconds since the epoch)."""

    stored_at: float
    text: str


def encode(stored_at: float, text: str) -> str:
    """Give the row for an ASCII text."""
    head = f"{stored_at:.3f}"
    return f"{head} {zlib.crc32(text.encode('ascii'), zlib.crc32(head.encode())):08x} {text}"


def decode(value: object) -> Record:
    """Give back what `encode` was given; QueueDamagedError if the row is anything else."""
    try:
        head, checksum, text = str(value).split(" ", 2)
        if int(checksum, 16) == zlib.crc32(text.encode("ascii"), zlib.crc32(head.encode())):
            return Record(float(head), text)
    except ValueError:
        pass  # said below: whichever part is wrong, the row is not what was written
    raise QueueDamagedError("a row of the queue is not what was written")
