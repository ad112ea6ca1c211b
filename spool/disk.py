"""diskcache, tamed: opened with our settings, checked before it is trusted. The only module that imports it.

diskcache makes the folder, the tables and the triggers, opens connections, and any diskcache can read what is there;
the statements are in spool/store.py. What is relied on of diskcache 5.6.3 has a test each in tests/test_disk.py, for
diskcache has had no release since August 2023: the `Cache` table keyed by integers and texts; `count` and `size` in
its `Settings` table, kept by triggers inside each transaction; a connection for each thread.
"""

from __future__ import annotations

import functools
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import diskcache

from spool.errors import DiskFullError, QueueDamagedError, SpoolError, UnavailableError
from spool.record import FORMAT
from spool.settings import Durability

__all__ = [
    "DATABASE",
    "Key",
    "TextDisk",
    "Value",
    "open_cache",
    "read_for_good",
    "read_whole",
    "set_power",
    "sqlite_facts",
    "translated",
    "translating",
]

P = ParamSpec("P")
T = TypeVar("T")
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
_RAW = diskcache.core.MODE_RAW


@contextmanager
def translated() -> Iterator[None]:
    """Turn what SQLite, diskcache and the system raise into the spool's errors."""
    try:
        yield
    except SpoolError:
        raise
    except _FOREIGN as error:
        raise _translation(error) from error


def translating(method: Callable[P, T]) -> Callable[P, T]:
    """Do the same for one method of ours, that raises nothing by itself; cheaper, for a capture calls six of them."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (sqlite3.Error, OSError) as error:
            raise _translation(error) from error

    return call


_FOREIGN = (diskcache.Timeout, sqlite3.Error, OSError, ValueError, TypeError, KeyError)


def _translation(error: Exception) -> SpoolError:
    if isinstance(error, diskcache.Timeout):
        return UnavailableError("the queue's database is busy")
    if isinstance(error, sqlite3.Error):
        return _verdict(error)
    if isinstance(error, OSError):
        return UnavailableError(f"the queue can't be reached: {error.strerror or error}")
    # diskcache unpacks rows that are not there, or adds to a counter that is a text.
    return QueueDamagedError(f"the queue answers nonsense: {error!r}")


_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_CONSTRAINT}


def _verdict(error: sqlite3.Error) -> SpoolError:
    """Tell a damaged file, which moves to quarantine, from a machine that refuses for now."""
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


class TextDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache ships no types
    """Keys are integers or texts, values texts or integers, inline. Nothing is pickled or put in a file.

    Any other row raises QueueDamagedError before it is looked at (CVE-2025-69872: a pickled row runs code,
    a row's file name reads and deletes files). The size of an event's row (integer key) is its length, so
    that diskcache's own `size` is the bytes that are pending.
    """

    def put(self, key: Any) -> tuple[Any, bool]:
        if type(key) not in (int, str):
            raise TypeError(f"a key of the queue is an integer or a text, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> int | str:
        if raw != 1 or type(key) not in (int, str):
            raise QueueDamagedError("a row of the queue has a foreign key")
        return key  # type: ignore[no-any-return]  # checked above: int or str

    def store(self, value: Any, read: Any, key: Any = None) -> tuple[int, int, None, Any]:
        if read or type(value) not in (int, str):
            raise TypeError(f"a value of the queue is a text or an integer, not {type(value).__name__}")
        return len(value) if type(key) is int else 0, _RAW, None, value

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> int | str:
        if mode != _RAW or filename is not None or read or type(value) not in (int, str):
            raise QueueDamagedError("a row of the queue has a foreign value")
        return value  # type: ignore[no-any-return]  # checked above: int or str

    def filename(self, key: Any = None, value: Any = None) -> tuple[str, str]:  # noqa: ARG002 - diskcache's
        raise TypeError("the queue keeps no side files")

    def remove(self, file_path: Any) -> None:
        raise QueueDamagedError(f"a row of the queue names a file: {str(file_path)[:80]!r}")


class _LiteralPath(str):
    """A path that diskcache takes as it is: it would expand `$NAME` in a folder's name."""

    __slots__ = ()

    def __str__(self) -> str:
        return self

    def __contains__(self, part: object) -> bool:
        return part not in ("$", "%") and super().__contains__(str(part))


def open_cache(folder: Path, *, create: bool, durability: Durability, timeout_s: float) -> diskcache.Cache:
    """Open the diskcache directory; call it under the queue's lock only.

    With `create` the folder is made and filled; without, what is there is checked first, and raises
    QueueDamagedError if it is no queue of ours. UnavailableError where SQLite or the disk refuses.
    """
    with translated():
        database = folder / DATABASE
        if create:
            # SQLite gives -wal and -shm the mode of the database: 0600 from the first byte on.
            os.close(os.open(database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            probe = None
        else:
            probe = _probe(database, timeout_s)
        try:
            directory = _LiteralPath(folder)
            cache = diskcache.Cache(directory, timeout=timeout_s, disk=TextDisk, **SETTINGS)
        finally:
            if probe is not None:
                probe.close()
        if durability == "power":
            set_power(cache)
        return cache


def set_power(cache: diskcache.Cache) -> None:
    """Make this connection's commits survive a power cut. Needed again after every reconnect."""
    cache.reset("sqlite_synchronous", 2, update=False)
    if sys.platform == "darwin":
        cache.reset("sqlite_fullfsync", 1, update=False)


def _probe(database: Path, timeout_s: float) -> sqlite3.Connection:
    """Look at the file before diskcache trusts it: it obeys whatever its Settings table says.

    The transaction shows in `timeout_s` whether somebody without our lock holds the database: diskcache
    would wait 60 s for that. The connection stays open, for the last one to close folds the log in.
    """
    if os.path.getsize(database) == 0:
        raise QueueDamagedError("the queue's file is empty")
    connection = sqlite3.connect(database, timeout=timeout_s, isolation_level=None)
    try:
        _begin(connection, database)
        schema = set(connection.execute("SELECT type, name FROM sqlite_master"))
        settings = dict(connection.execute("SELECT key, value FROM Settings"))
        form = connection.execute("SELECT value FROM Cache WHERE key = 'format'").fetchall()
        connection.execute("ROLLBACK")
        if connection.execute("PRAGMA journal_mode").fetchall() != [("wal",)]:
            raise QueueDamagedError("the queue's file is no database with a log")
        if schema != _SCHEMA:
            raise QueueDamagedError("the queue's tables are not ours")
        if {key: value for key, value in settings.items() if key not in _METADATA} != SETTINGS:
            raise QueueDamagedError("the queue's settings are not ours")
        if form != [(FORMAT,)]:
            raise QueueDamagedError("the queue has another format, or was never finished")
    except BaseException:
        connection.close()
        raise
    return connection


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
