"""Read what can be read of a damaged queue: from a copy, so that quarantine gets the files as they were found."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from spool.home import private_folder, write_new
from spool.queue.cache import DATABASE, Key, Value, read_without_closing

__all__ = ["Damaged", "Rows", "read_damaged"]

Rows = dict[Key, Value]

# Row by row through a gap between two pages that can't be read: a fifth of a second at most.
_LARGEST_GAP = 20_000
# A queue of 64 MiB has some more in its pages; a header that tells of terabytes is damaged itself.
_LARGEST_FILE = 2**30
_SELECT = "SELECT rowid, typeof(key), key, raw, mode, filename, typeof(value), value FROM Cache WHERE rowid"
_Row = tuple[int, bytes, bytes, int, int, bytes | None, bytes, bytes]


class Damaged(NamedTuple):
    """The plain rows that could be read, and how many there should be by diskcache's own count, if that can be read."""

    rows: Rows
    counted: int | None = None


def read_damaged(folder: Path, scratch: Path) -> Damaged:
    """Give the plain rows of a damaged queue, each once; none of a file that SQLite refuses as a whole.

    Never raises for what the file holds, never follows a file name, never unpickles; OSError where there is no
    space for a copy in `scratch`, which is made and removed.
    """
    if os.path.islink(folder):
        return Damaged({})
    shutil.rmtree(scratch, ignore_errors=True)
    private_folder(scratch)
    try:
        if not _copy(folder / DATABASE, scratch / DATABASE):
            return Damaged({})
        _copy(folder / f"{DATABASE}-wal", scratch / f"{DATABASE}-wal")
        _fill_up(scratch / DATABASE)
        return _rows(scratch / DATABASE)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(source: Path, target: Path) -> bool:
    write_new(target, b"")
    with open(target, "wb") as copy, suppress(PermissionError):  # another user's, mostly: there is nothing to read
        return sum(copy.write(part) for part in read_without_closing(source)) > 0
    return False


def _fill_up(database: Path) -> None:
    """Extend a file that was cut off to the length in its header: else SQLite would refuse the pages that are left.

    Page size and number of pages stand at 16 and 28 of the header: https://www.sqlite.org/fileformat2.html.
    """
    with open(database, "r+b") as file:
        header = file.read(100)
        length = int.from_bytes(header[16:18], "big") * int.from_bytes(header[28:32], "big")
        if os.path.getsize(database) < length <= _LARGEST_FILE:
            file.truncate(length)


def _rows(database: Path) -> Damaged:
    rows: Rows = {}
    counted = None
    with suppress(sqlite3.Error), closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.text_factory = bytes  # a text that is no UTF-8 must not hide its neighbours
        connection.execute("SELECT * FROM sqlite_master").fetchall()
        for row in _readable(connection):
            _keep(rows, row)
        counted = _counted(connection)
    return Damaged(rows, counted)


def _counted(connection: sqlite3.Connection) -> int | None:
    try:
        (count,) = connection.execute("SELECT value FROM Settings WHERE key = 'count'").fetchone()
    except (sqlite3.Error, TypeError):
        return None
    return count if isinstance(count, int) else None


def _keep(rows: Rows, row: _Row) -> None:
    _, key_type, key, raw, mode, filename, value_type, value = row
    if raw != 1 or mode != 1 or filename is not None:
        return
    with suppress(UnicodeDecodeError):
        rows[_plain(key_type, key)] = _plain(value_type, value)


def _plain(kind: bytes, value: object) -> Value:
    if kind == b"integer" and isinstance(value, int):
        return value
    if kind == b"text" and isinstance(value, bytes):
        return value.decode("ascii")
    raise UnicodeDecodeError("ascii", b"", 0, 1, "no text and no number")


def _readable(connection: sqlite3.Connection) -> Iterator[_Row]:
    """Go from the front to the first page that can't be read, from the back likewise, then through the gap."""
    front = yield from _run(connection, f"{_SELECT} > ? ORDER BY rowid LIMIT 1", -1, None)
    back = yield from _run(connection, f"{_SELECT} < ? ORDER BY rowid DESC LIMIT 1", 2**63 - 1, front)
    for rowid in range(front + 1, min(back, front + _LARGEST_GAP)):
        with suppress(sqlite3.Error):
            yield from connection.execute(f"{_SELECT} = ?", (rowid,)).fetchall()


def _run(connection: sqlite3.Connection, select: str, start: int, end: int | None) -> Generator[_Row, None, int]:
    """Go row by row, since a cursor reads ahead and would fail one row early; give the last row's id."""
    forward = start < 0
    with suppress(sqlite3.Error):
        while row := connection.execute(select, (start,)).fetchone():
            if row[0] == end or (row[0] > start) != forward:  # at the end of the other direction, or in a loop of pages
                break
            start = row[0]
            yield row
    return start
