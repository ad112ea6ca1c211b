"""The queue's database: opened with our settings, checked before it is trusted, its refusals in the spool's words.

diskcache makes it (spool/queue/cache.py), once in the life of an install; from then on a connection of SQLite's own is
enough. That spares every command the import of diskcache and most of the time of an open, and nobody obeys the
settings that stand in a file which somebody changed.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spool.errors import DiskFullError, QueueDamagedError, SpoolError, UnavailableError
from spool.queue.rows import FORMAT
from spool.settings import Durability

__all__ = [
    "DATABASE",
    "SETTINGS",
    "Key",
    "Value",
    "connect",
    "in_our_words",
    "read_for_good",
    "read_whole",
    "sqlite_facts",
    "translated",
]

Key = int | str
Value = int | str

DATABASE = "cache.db"

# Everything that diskcache could do by itself is off: no eviction, no culling, no side files (it writes
# those without fsync), no memory map (a file truncated by somebody else would kill the host by SIGBUS),
# and at most 4 MiB of page cache, so that memory stays flat however large the backlog is.
SETTINGS: dict[str, int | str] = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "size_limit": 2**62,
    "cull_limit": 0,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 1000,
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,
    "sqlite_synchronous": 1,
    "disk_min_file_size": 2**62,
    "disk_pickle_protocol": 0,
}
_METADATA = {"count", "size", "hits", "misses"}
_SCHEMA = {
    ("table", "Settings"),
    ("table", "Cache"),
    ("index", "sqlite_autoindex_Settings_1"),
    ("index", "Cache_key_raw"),
    ("index", "Cache_expire_time"),
    ("trigger", "Settings_count_insert"),
    ("trigger", "Settings_count_delete"),
    ("trigger", "Settings_size_insert"),
    ("trigger", "Settings_size_update"),
    ("trigger", "Settings_size_delete"),
}


@contextmanager
def translated() -> Iterator[None]:
    """Turn what SQLite and the system raise into the spool's errors."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise in_our_words(error) from error


def in_our_words(error: BaseException) -> BaseException:
    """Give the spool's error for one of SQLite or the system; any other one as it is."""
    if isinstance(error, sqlite3.Error):
        return _verdict(error)
    if isinstance(error, OSError):
        return UnavailableError(f"the queue can't be reached: {error.strerror or error}")
    return error


_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_CONSTRAINT}


def _verdict(error: sqlite3.Error) -> SpoolError:
    """Tell a damaged file, which moves to quarantine, from a machine that refuses for now."""
    if isinstance(error, sqlite3.ProgrammingError):
        return UnavailableError(f"the queue's connection is closed: {error}")
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    primary = extended & 0xFF
    if primary in _DAMAGE or extended == sqlite3.SQLITE_IOERR_SHORT_READ:
        return QueueDamagedError(f"the queue's file is damaged: {error}")
    if primary == sqlite3.SQLITE_ERROR:
        if re.match(r'no such column: "?(count|size|hits|misses)"?', str(error)):
            return UnavailableError("this SQLite refuses double-quoted strings, which diskcache needs")
        return QueueDamagedError(f"the queue's tables are not ours: {error}")
    if primary == sqlite3.SQLITE_FULL:
        return DiskFullError("the disk is full")
    return UnavailableError(f"the queue's database refuses: {error}")


def connect(folder: Path, *, durability: Durability, timeout_s: float, new: bool = False) -> sqlite3.Connection:
    """Open the database of a queue; call it under the queue's lock only. Any thread may use it, one at a time.

    What is there is checked first, and raises QueueDamagedError if it is no queue of ours; a `new` one has no format
    yet. `timeout_s` is how long a statement waits for somebody without our lock. UnavailableError where SQLite or the
    disk refuses.
    """
    with translated():
        database = folder / DATABASE
        if os.path.getsize(database) == 0:
            raise QueueDamagedError("the queue's file is empty")
        connection = sqlite3.connect(database, timeout=timeout_s, isolation_level=None, check_same_thread=False)
        try:
            _begin(connection, database)
            _check(connection, new=new)
            connection.execute("ROLLBACK")
            _set(connection, durability)
        except BaseException:
            connection.close()
            raise
        return connection


def _check(connection: sqlite3.Connection, *, new: bool) -> None:
    if set(connection.execute("SELECT type, name FROM sqlite_master")) != _SCHEMA:
        raise QueueDamagedError("the queue's tables are not ours")
    settings = dict(connection.execute("SELECT key, value FROM Settings"))
    if {key: value for key, value in settings.items() if key not in _METADATA} != SETTINGS:
        raise QueueDamagedError("the queue's settings are not ours")
    if connection.execute("SELECT value FROM Cache WHERE key = 'format'").fetchall() != ([] if new else [(FORMAT,)]):
        raise QueueDamagedError("the queue has another format, or was never finished")


def _set(connection: sqlite3.Connection, durability: Durability) -> None:
    """Say how this connection works: a file remembers the mode of its journal, and nothing of the rest."""
    if connection.execute("PRAGMA journal_mode").fetchall() != [("wal",)]:
        raise QueueDamagedError("the queue's file is no database with a log")
    connection.execute(f"PRAGMA cache_size = {SETTINGS['sqlite_cache_size']}")
    connection.execute(f"PRAGMA mmap_size = {SETTINGS['sqlite_mmap_size']}")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
    if durability == "power" and sys.platform == "darwin":
        connection.execute("PRAGMA fullfsync = 1")


def _begin(connection: sqlite3.Connection, database: Path) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        # One byte of the header says who may write: with another one, SQLite only reads, wherever the file lies.
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY and os.access(database, os.W_OK):
            raise QueueDamagedError("the queue's file says that it can't be written") from error
        raise


def read_for_good(path: Path) -> Iterator[bytes]:
    """Read a file of the queue without ever closing it.

    A process that closes any descriptor of a file drops all of its POSIX locks on it: SQLite's, too, of whichever
    connection. The next process to leave would take the log along under that connection.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return
    try:
        while part := os.read(descriptor, 1 << 20):
            yield part
    except IsADirectoryError:
        return


def sqlite_facts() -> tuple[str, bool]:
    """Give SQLite's version, and whether it takes the double-quoted strings that diskcache writes."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute('SELECT "text"')
    except sqlite3.OperationalError:
        return sqlite3.sqlite_version, False
    finally:
        connection.close()
    return sqlite3.sqlite_version, True


def read_whole(folder: Path) -> None:
    """Read every byte of the queue's files; UnavailableError where the disk fails to."""
    with translated():
        for name in (DATABASE, f"{DATABASE}-wal"):
            for _part in read_for_good(folder / name):
                pass
