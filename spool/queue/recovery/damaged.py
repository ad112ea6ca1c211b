"""Read what can be read of a damaged queue: from a copy, so that quarantine gets the files as they were found.

Damage is passed over, whatever it makes SQLite raise. A refusal of the machine is raised (UnavailableError): what can't
be read now may be read later, and nothing was moved yet.

Numbers of bytes are those of https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from spool.errors import QueueDamagedError
from spool.home import private_folder, write_new
from spool.queue.cache import LARGEST_FILE, Key, Patience, Value, new_cache, read_without_closing, reading
from spool.queue.connection import DATABASE, LOG
from spool.queue.transaction import META

__all__ = ["Damaged", "Rows", "read_counters", "read_damaged"]

Rows = dict[Key, Value]

# Row by row between two rows of a page of which others can't be read: a page has fewer.
_LARGEST_GAP = 200
_COUNTERS = {"sequence", "ledger"}
_FILES = (DATABASE, LOG)
_HEADER = 100
# The first byte of a page that holds rows of a table.
_LEAF = 0x0D
_SELECT = "SELECT rowid, typeof(key), key, raw, mode, filename, typeof(value), value FROM Cache WHERE rowid"
_Row = tuple[int, bytes, bytes, int, int, bytes | None, bytes, bytes]


class Damaged(NamedTuple):
    """The plain rows that could be read, and how many there should be by diskcache's own count, if that can be read."""

    rows: Rows
    counted: int | None = None


def read_damaged(folder: Path, scratch: Path) -> Damaged:
    """Give the plain rows of a damaged queue, each once.

    First by the tree of pages, as SQLite finds them. Where that doesn't give as many rows as there should be, each page
    is read by itself: then one that can't be read, be it the first or an inner one, costs its own rows.

    Never raises for what the file holds, never follows a file name, never unpickles; OSError where there is no
    space for a copy in `scratch`, which is made and removed.
    """
    with _copied(folder, scratch) as copy:
        found = _read(_draft(copy), _by_the_tree)
        if found.counted != len(found.rows):
            draft = _draft(copy)
            _give_first_page(draft)
            found = Damaged({**_read(draft, _page_by_page).rows, **found.rows}, found.counted)
    return found


def read_counters(folder: Path, scratch: Path) -> Damaged:
    """Give the rows that a queue was made with, the counters among them; as `read_damaged`, but no event is read."""
    rows: Rows = {}
    with _copied(folder, scratch) as copy:
        draft = _draft(copy)
        for way in (_first_rows, _first_rows, _page_by_page):
            rows = {**_read(draft, way).rows, **rows}
            if rows.keys() >= _COUNTERS:
                break
            _give_first_page(draft)
    return Damaged({key: rows[key] for key in rows.keys() & META.keys()})


# -- the copy -----------------------------------------------------------------------------------------------


@contextmanager
def _copied(folder: Path, scratch: Path) -> Iterator[Path]:
    """Give a folder with a copy of the database and its log, for a block."""
    shutil.rmtree(scratch, ignore_errors=True)
    private_folder(scratch)
    try:
        private_folder(scratch / "copy")
        for name in _FILES:
            with suppress(PermissionError):  # another user's, mostly: there is nothing to read
                parts = () if os.path.islink(folder) else read_without_closing(folder / name)
                _write(scratch / "copy" / name, parts)
        yield scratch / "copy"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _draft(copy: Path) -> Path:
    """Give a database that SQLite may change: whatever it makes of it, the next one is as it was found."""
    draft = copy.parent / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    private_folder(draft)
    for name in _FILES:
        _write(draft / name, _parts(copy / name))
    _fill_up(draft / DATABASE)
    return draft / DATABASE


def _parts(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            yield part


def _write(target: Path, parts: Iterable[bytes]) -> None:
    write_new(target, b"")
    length = 0
    with open(target, "wb") as copy:
        for part in parts:
            length += len(part)
            if part.strip(b"\0"):
                copy.write(part)
            else:  # a hole stays one: what tells of terabytes must not fill the disk
                copy.seek(length)
        copy.truncate(length)


def _fill_up(database: Path) -> None:
    """Extend a file that was cut off to the length in its header: else SQLite would refuse the pages that are left."""
    with open(database, "r+b") as file:
        header = file.read(_HEADER)
        length = int.from_bytes(header[16:18], "big") * int.from_bytes(header[28:32], "big")
        if os.path.getsize(database) < length <= LARGEST_FILE:
            file.truncate(length)


def _give_first_page(database: Path) -> None:
    """Give a file the first page of a new queue, which is alike in all of them.

    What stood there is added at the end: it may be a page of another place. The log is folded in, if SQLite takes it,
    and the file needs none from then on.
    """
    model = database.parent / "model"
    private_folder(model)
    new_cache(model, "process").disconnect()
    with open(model / DATABASE, "rb") as file:
        header = file.read(_HEADER)
        size = int.from_bytes(header[16:18], "big")
        first = header + file.read(size - _HEADER)
    shutil.rmtree(model)
    with open(database, "rb") as file:
        old = file.read(size).ljust(size, b"\0")
    _write_first_page(database, first, version=2)
    with suppress(QueueDamagedError), reading(), closing(sqlite3.connect(database)) as connection:
        ((pages,),) = connection.execute("PRAGMA page_count")
        if os.path.getsize(database) < pages * size <= LARGEST_FILE:  # SQLite would not fold a log into so small a file
            os.truncate(database, pages * size)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    _write_first_page(database, first, version=1)
    with open(database, "ab") as file:
        file.write(old)


def _write_first_page(database: Path, first: bytes, version: int) -> None:
    """Write a first page that says which version of SQLite reads and writes the file: 2 with a log, 1 without."""
    with open(database, "r+b") as file:
        # After the versions: 0 pages, for SQLite to count them, and none that is free.
        file.write(first[:18] + bytes([version, version]) + first[20:28] + bytes(12) + first[40:])
        length = file.seek(0, os.SEEK_END)
        file.truncate(length + -length % len(first))  # whole pages


# -- the rows -----------------------------------------------------------------------------------------------


def _read(database: Path, way: Callable[[sqlite3.Connection, Path], Iterator[_Row]]) -> Damaged:
    rows: Rows = {}
    counted = None
    with suppress(QueueDamagedError), reading(), closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.text_factory = bytes  # a text that is no UTF-8 must not hide its neighbours
        Patience.begin(connection)
        connection.execute("SELECT * FROM sqlite_master").fetchall()
        for row in way(connection, database):
            _keep(rows, row)
        counted = _counted(connection)
    return Damaged(rows, counted)


def _counted(connection: sqlite3.Connection) -> int | None:
    with suppress(QueueDamagedError), reading():
        (count,) = connection.execute("SELECT value FROM Settings WHERE key = 'count'").fetchone()
        return count if isinstance(count, int) else None
    return None


def _keep(rows: Rows, row: _Row) -> None:
    _, key_type, key, raw, mode, filename, value_type, value = row
    if raw != 1 or mode != 1 or filename is not None:
        return
    with suppress(UnicodeDecodeError):
        rows.setdefault(_plain(key_type, key), _plain(value_type, value))


def _plain(kind: bytes, value: object) -> Value:
    if kind == b"integer" and isinstance(value, int):
        return value
    if kind == b"text" and isinstance(value, bytes):
        return value.decode("ascii")
    raise UnicodeDecodeError("ascii", b"", 0, 1, "no text and no number")


def _first_rows(connection: sqlite3.Connection, _database: Path) -> Iterator[_Row]:
    """Go through the rows that a queue was made with: the counters are among them."""
    yield from _each(connection, range(1, 1 + len(META)))


def _page_by_page(connection: sqlite3.Connection, database: Path) -> Iterator[_Row]:
    """Go through all pages that hold rows, each in the place of the table's first page."""
    ((root, size),) = connection.execute(
        "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = 'Cache'"
    )
    with open(database, "r+b", buffering=0) as file:
        pages = [root, *(number for number in range(2, 1 + os.path.getsize(database) // size) if number != root)]
        for change, number in enumerate(pages):
            file.seek((number - 1) * size)
            page = file.read(size)
            if page[0] != _LEAF:
                continue
            file.seek((root - 1) * size)
            file.write(page)
            file.seek(24)  # SQLite forgets the pages that it knows when this number changes
            file.write(change.to_bytes(4, "big"))
            yield from _by_the_tree(connection, database)


def _by_the_tree(connection: sqlite3.Connection, _database: Path) -> Iterator[_Row]:
    """Go from the front to the first row that can't be read, from the back likewise, then through the gap."""
    front = yield from _run(connection, f"{_SELECT} > ? ORDER BY rowid LIMIT 1", -1, None)
    back = yield from _run(connection, f"{_SELECT} < ? ORDER BY rowid DESC LIMIT 1", 2**63 - 1, front)
    yield from _each(connection, range(front + 1, min(back, front + _LARGEST_GAP)))


def _run(connection: sqlite3.Connection, select: str, start: int, end: int | None) -> Generator[_Row, None, int]:
    """Go row by row, since a cursor reads ahead and would fail one row early; give the last row's id.

    `end` is where the other direction came to: given, if this one arrives there.
    """
    forward = start < 0
    with suppress(QueueDamagedError), reading():
        while row := next(iter(_select(connection, select, start)), None):
            if row[0] == end:
                return row[0]
            if row[0] <= start if forward else row[0] >= start:  # out of order: it would come again and again
                break
            start = row[0]
            yield row
    return start


def _each(connection: sqlite3.Connection, rowids: range) -> Iterator[_Row]:
    for rowid in rowids:
        with suppress(QueueDamagedError), reading():
            yield from _select(connection, f"{_SELECT} = ?", rowid)


def _select(connection: sqlite3.Connection, select: str, rowid: int) -> list[_Row]:
    Patience.begin(connection)
    return connection.execute(select, (rowid,)).fetchall()
