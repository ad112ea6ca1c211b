"""The rows of the queue, in statements of our own on diskcache's tables.

diskcache's own methods look a row up before they touch it, and write its times: an append was eight statements
instead of six, and settling an event three instead of one. They also unpickle some rows (CVE-2025-69872: that runs
code), and read and delete the files that others name. Here a row is a plain text or an integer, inline.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import cast

from spool.errors import QueueDamagedError
from spool.queue.disk import Key, Value, connect
from spool.settings import Durability

__all__ = ["Store", "make_store", "open_store"]


# diskcache's mark for a value that is neither pickled nor in a file.
_INLINE = 1
# A patience that differs by less is the same one: else each append would set it.
_SLACK_S = 0.02


def open_store(folder: Path, *, durability: Durability, timeout_s: float) -> Store:
    """Open a queue's folder, as `disk.connect` does; call it under the queue's lock only."""
    return Store(connect(folder, durability=durability, timeout_s=timeout_s), timeout_s)


def make_store(folder: Path, *, durability: Durability) -> Store:
    """Make a queue in an empty folder and open it. It counts as one when its `format` row is committed."""
    from spool.queue.cache import make  # noqa: PLC0415 - diskcache, once in the life of an install

    make(folder)
    return Store(connect(folder, durability=durability, timeout_s=1.0, new=True), 1.0)


class Store:
    """The rows of one open queue. What writes belongs inside `transact`.

    A row that is not plain text or an integer, inline, raises QueueDamagedError before it is looked at. What SQLite
    raises comes out as it is: `Database` says it in the spool's words.
    """

    def __init__(self, connection: sqlite3.Connection, timeout_s: float) -> None:
        self._connection = connection
        self._sql = connection.execute
        self._timeout_s = timeout_s

    def wait_at_most(self, timeout_s: float) -> None:
        """Say how long a statement may wait for somebody without our lock, if that is something else by now."""
        if abs(timeout_s - self._timeout_s) > _SLACK_S:
            self._sql(f"PRAGMA busy_timeout = {round(1000 * timeout_s)}")
            self._timeout_s = timeout_s

    def transact(self) -> _Block:
        """Give a block that is committed, or nothing of it: what it raises is raised as it is."""
        return _Block(self._sql)

    def get(self, key: Key) -> Value | None:
        """Give the value of a key; None where there is no such row."""
        rows = self._sql(_GET, (key,)).fetchall()
        if not rows:
            return None
        return _plain_value(*rows[0])

    def add(self, key: Key, value: Value) -> bool:
        """Add a row; False where the key is taken."""
        try:
            self._sql(_ADD, (key, _size(key, value), value))
        except sqlite3.IntegrityError:
            return False
        return True

    def set(self, key: Key, value: Value) -> None:
        """Give a key its value, new or not."""
        if self._sql(_CHANGE, (value, _size(key, value), key)).rowcount != 1:
            self.add(key, value)

    def delete(self, key: Key) -> bool:
        """Delete a row; False where there is none."""
        return bool(self._sql(_DELETE, (key,)).rowcount)

    def take(self, key: Key, value: Value) -> bool:
        """Delete a row if it still holds `value`; False where it does not."""
        return bool(self._sql(_TAKE, (key, value)).rowcount)

    def take_all(self, rows: Iterable[tuple[Key, Value]]) -> int:
        """Take many rows as `take` does, a fourth faster than one by one; give how many went."""
        return self._connection.executemany(_TAKE, rows).rowcount

    def totals(self) -> tuple[int, int]:
        """Count the rows, and the characters of those with integer keys, in constant time."""
        match sorted(self._sql(_TOTALS).fetchall()):
            case [("count", int(count)), ("size", int(size))]:
                return count, size
        raise QueueDamagedError("the queue's count of itself doesn't read")

    def head(self) -> tuple[Value | None, int, int]:
        """Give what an append looks at: the value of `sequence`, and the totals."""
        match self._sql(_HEAD).fetchall():
            case [(int() | str() | None as sequence, int(count), int(size))]:
                return sequence, count, size
        raise QueueDamagedError("the queue's count of itself doesn't read")

    def sizes(self, after: int, most: int) -> list[tuple[int, int]]:
        """Give (key, characters) of up to `most` rows with integer keys above `after`, in their order."""
        rows = self._sql(_SIZES, (after, most)).fetchall()
        if not all(type(size) is int for _key, _raw, size in rows):
            raise QueueDamagedError("a row of the queue has a foreign size")
        return [(int(_plain_key(key, raw)), size) for key, raw, size in rows]

    def page(self, after: int, most: int, most_chars: int) -> list[tuple[int, Value]]:
        """Give the rows with integer keys above `after`, in their order: up to `most`, or until they fill `most_chars`.

        At least one, if there is one.
        """
        page: list[tuple[int, Value]] = []
        with closing(self._sql(_PAGE, (after, most))) as rows:  # left open, it would keep the log as it is
            for key, raw, mode, filename, value in rows:
                page.append((int(_plain_key(key, raw)), _plain_value(mode, filename, value)))
                most_chars -= len(str(value))
                if most_chars <= 0:
                    break
        return page

    def named(self, prefix: str) -> list[tuple[str, Value]]:
        """Give the rows whose key is a text that begins with `prefix`, in the order of the keys."""
        rows = self._sql(_NAMED, (prefix, f"{prefix}\x7f")).fetchall()
        return [
            (str(_plain_key(key, raw)), _plain_value(mode, filename, value)) for key, raw, mode, filename, value in rows
        ]

    def close(self) -> None:
        """Close the connection. Under the lock, for the last one to close folds the log in."""
        self._connection.close()


class _Block:
    """One transaction. A class, for every capture has one, and a generator's block costs 2 us more."""

    __slots__ = ("_sql",)

    def __init__(self, sql: Callable[..., sqlite3.Cursor]) -> None:
        self._sql = sql

    def __enter__(self) -> None:
        self._sql("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        if kind is None:
            self._sql("COMMIT")
            return
        with suppress(Exception):  # the first error says more than that of the rollback
            self._sql("ROLLBACK")


def _size(key: Key, value: Value) -> int:
    """Give what a row counts for in diskcache's `size`: an event its length, so that it is the bytes that wait."""
    if type(key) not in (int, str) or type(value) not in (int, str):
        raise TypeError(f"a row of the queue is a text or an integer, not {type(key).__name__}, {type(value).__name__}")
    return len(value) if isinstance(key, int) and isinstance(value, str) else 0


def _plain_key(key: object, raw: object) -> Key:
    if raw != 1 or type(key) not in (int, str):
        raise QueueDamagedError("a row of the queue has a foreign key")
    return cast("Key", key)


def _plain_value(mode: object, filename: object, value: object) -> Value:
    if mode != _INLINE or filename is not None or type(value) not in (int, str):
        raise QueueDamagedError("a row of the queue has a foreign value")
    return cast("Value", value)


_ROW = "WHERE key = ? AND raw = 1"
_GET = f"SELECT mode, filename, value FROM Cache {_ROW}"  # noqa: S608 - constants of this module, as below
_ADD = "INSERT INTO Cache (key, raw, size, mode, value) VALUES (?, 1, ?, 1, ?)"
_CHANGE = f"UPDATE Cache SET value = ?, size = ? {_ROW}"  # noqa: S608
_DELETE = f"DELETE FROM Cache {_ROW}"  # noqa: S608
_TAKE = f"DELETE FROM Cache {_ROW} AND value = ?"  # noqa: S608
_TOTALS = "SELECT key, value FROM Settings WHERE key IN ('count', 'size')"
_HEAD = (
    "SELECT (SELECT value FROM Cache WHERE key = 'sequence' AND raw = 1),"
    " (SELECT value FROM Settings WHERE key = 'count'), (SELECT value FROM Settings WHERE key = 'size')"
)
# Integers sort before texts, and texts before anything that is no key of ours.
_SIZES = "SELECT key, raw, size FROM Cache WHERE key > ? AND key < '' ORDER BY key LIMIT ?"
_PLAIN = "SELECT key, raw, mode, filename, value FROM Cache"
_PAGE = f"{_PLAIN} WHERE key > ? AND key < '' ORDER BY key LIMIT ?"
_NAMED = f"{_PLAIN} WHERE key >= ? AND key < ? ORDER BY key"
