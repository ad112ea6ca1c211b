"""What one row of the queue holds: an event's text, when it was stored, and a checksum over both.

Format 1: `<stored_at> <crc32> <event>`; seconds since the epoch with three decimals, eight hexadecimal
digits, ASCII JSON. The checksum is there because SQLite keeps none: a flipped bit would arrive as a fact.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, NamedTuple

from spool.errors import QueueDamagedError

__all__ = ["FORMAT", "decode", "decode_number", "encode", "encode_number", "parse"]

FORMAT = 1
# More than any install will ever count, and as exact as JSON's numbers are.
_DIGITS = 16
# Calls that JSON of ours needs are fewer.
_ROOM = 50


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
        pass  # whichever part is wrong, the row is not what was written
    raise QueueDamagedError("a row of the queue is not what was written")


def encode_number(number: int) -> str:
    """Give the row for a counter: `<number> <crc32>`, since a flipped bit would give numbers a second time."""
    return f"{number} {zlib.crc32(b'%d' % number):08x}"


def decode_number(value: object) -> int:
    """Give back what `encode_number` was given; QueueDamagedError if the row is anything else."""
    text = str(value)
    head = text.split(" ", 1)[0]
    if head.isascii() and head.isdigit() and len(head) < _DIGITS and text == encode_number(int(head)):
        return int(head)
    raise QueueDamagedError("a counter of the queue is not what was written")


def parse(text: str) -> Any:
    """Parse JSON that was stored; ValueError for what is none, also for what is nested beyond all measure.

    RecursionError where the host's own stack is at its end, which is no fault of the text.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        _go_down(_ROOM)
        raise ValueError("nested too deeply") from error


def _go_down(levels: int) -> None:
    if levels:
        _go_down(levels - 1)
