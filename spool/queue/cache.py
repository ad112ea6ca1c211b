"""The diskcache that holds the queue. The only module that imports it, and the only one that speaks SQL to the queue.

One `diskcache.Cache` with a Disk of our own, on a connection that was checked before anything in the file was obeyed.
What `Cache` has a method for is done by it (`transact`, `get`, `set`, `add`, `delete`, `iterkeys`, `reset`, `len`);
the statements of our own at its end are for what it has none for. diskcache has had no release since August 2023:
each behaviour that is relied on has a test in tests/libraries/test_diskcache.py.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, cast

import diskcache
from diskcache.core import MODE_RAW

from spool.errors import DiskFullError, QueueDamagedError, SpoolError, UnavailableError
from spool.home import is_plain, oddity, private_folder, restore_mode, streams_kept_free
from spool.queue.connection import DATABASE, FILES, LOG, Connection, connect, new_database
from spool.queue.rows import FORMAT
from spool.settings import Durability

__all__ = [
    "LARGEST_FILE",
    "PRIVATE_NAMES",
    "SETTINGS",
    "Cache",
    "Key",
    "Patience",
    "Value",
    "as_spool_error",
    "check_files",
    "check_readable",
    "new_cache",
    "open_cache",
    "read_without_closing",
    "reading",
    "sqlite_facts",
    "translated",
]

Key = int | str
Value = int | str

_HEADER_BYTES = 100
# A queue of 64 MiB has some more in its pages. What tells of terabytes, by its length or in its header, is damaged.
LARGEST_FILE = 2**30

# What is relied on of diskcache beside its documented methods. tests/libraries/test_diskcache.py has a test for each.
PRIVATE_NAMES = {
    "Cache._con": "the connection: ours, checked, one for all threads; and statements that it has no method for",
    "Cache (key, raw, mode, filename, value)": "columns of its table, for the page of events and the batch to settle",
    "Settings (key, value)": "its table of settings, for the check before anything there is obeyed",
    "sqlite_master": "the names of its tables, indexes and triggers, for the same check",
    "Cache_key_raw": "its index, which keeps keys unique, for the same check",
    "core.MODE_RAW": "how it marks a value that stands in the row itself",
}

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


class TextDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache ships no types
    """Rows of plain text or integers, inline; any other row raises QueueDamagedError before it is looked at.

    diskcache's own Disk pickles some values and reads them back, which runs code (CVE-2025-69872), and reads and
    deletes the files that a row names.
    """

    def put(self, key: Any) -> tuple[Key, bool]:
        """Give a key as it is stored."""
        if type(key) not in (int, str):
            raise TypeError(f"a key of the queue is a text or an integer, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> Key:
        """Give a stored key back."""
        if raw != 1 or type(key) not in (int, str):
            raise QueueDamagedError("a row of the queue has a foreign key")
        return cast("Key", key)

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[int, int, None, Value]:  # noqa: ARG002, FBT001 - diskcache's signature
        """Give a value as it is stored. `size` is the length of an event, so that it counts the bytes that wait."""
        if type(value) not in (int, str):
            raise TypeError(f"a row of the queue is a text or an integer, not {type(value).__name__}")
        return len(value) if type(key) is int and type(value) is str else 0, MODE_RAW, None, value

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> Value:  # noqa: ARG002, FBT001 - as above
        """Give a stored value back."""
        if mode != MODE_RAW or filename is not None or type(value) not in (int, str):
            raise QueueDamagedError("a row of the queue has a foreign value")
        return cast("Value", value)

    def remove(self, file_path: Any) -> None:
        """Leave the file alone that a row names: none is ours."""


class Cache(diskcache.Cache):  # type: ignore[misc]  # as above
    """The cache of one queue, on one connection for all threads of this process, who take turns.

    diskcache opens a connection for each thread: a short-lived one would pay for an open and a close, and its
    close could not be made under the lock.
    """

    def __init__(self, connection: Connection) -> None:
        """Take a connection whose database was checked, or is empty."""
        self._connection = connection
        # diskcache expands `~` and `$NAME` in its folder's name, and uses the name for files only: there are none.
        super().__init__(os.sep, disk=TextDisk, **SETTINGS)

    @property
    def _con(self) -> Connection:
        return self._connection

    def close(self) -> None:
        """Do nothing: diskcache calls this in its constructor, to change the time that its connection may wait."""

    def disconnect(self) -> None:
        """Close the connection. Under the lock, for the last one to close folds the log in."""
        self._connection.close()

    def is_usable(self) -> bool:
        """Tell whether SQLite still has what it opened: to be asked before each transaction."""
        return self._connection.is_usable()

    def is_current(self) -> bool:
        """Tell whether database and log still have their names: to be asked after each transaction."""
        return self._connection.is_current()

    def wait_at_most(self, timeout_s: float) -> None:
        """Say how long a statement may wait for somebody without our lock."""
        self._con.execute(f"PRAGMA busy_timeout = {round(1000 * timeout_s)}")

    def be_patient(self, times: int = 1) -> None:
        """Let what is done next take so many steps as `Patience` gives, or `times` as many."""
        Patience.begin(self._con, times)

    def totals(self) -> tuple[int, int]:
        """Count the rows, and the characters of those with integer keys, in constant time."""
        rows, size = self.reset("count"), self.reset("size")
        if type(rows) is not int or type(size) is not int:
            raise QueueDamagedError("the queue's count of itself doesn't read")
        return rows, size

    @property
    def bytes(self) -> int:
        """How many bytes the database has."""
        ((pages,),), ((size,),) = (self._con.execute(f"PRAGMA page_{what}") for what in ("count", "size"))
        return int(pages * size)

    # -- statements of our own --------------------------------------------------------------------------

    def page(self, after: int, most: int, most_chars: int) -> list[tuple[int, Value]]:
        """Give the rows with integer keys above `after`, in their order: up to `most`, or until they fill `most_chars`.

        At least one, if there is one. `iterkeys` goes from the start for every hundred keys, which is quadratic over
        a backlog; `iter` knows no order and no beginning; and either takes another statement for each value.
        """
        select = "SELECT key, raw, mode, filename, value FROM Cache WHERE key > ? AND key < '' ORDER BY key LIMIT ?"
        page: list[tuple[int, Value]] = []
        with closing(self._con.execute(select, (after, most))) as rows:  # left open, it would keep the log as it is
            for key, raw, mode, filename, value in rows:
                text = self.disk.fetch(mode, filename, value, read=False)
                page.append((int(self.disk.get(key, raw)), text))
                most_chars -= len(str(text))
                if most_chars <= 0:
                    break
        return page

    def check_structure(self) -> None:
        """Raise QueueDamagedError unless all pages, the indexes and what diskcache knows of a row are in order."""
        self.be_patient(1 + self.bytes // 2_000_000)
        with closing(self._con.execute("PRAGMA integrity_check(1)")) as found:
            (first,) = found.fetchone()  # the pages come before the rows: a tree that is a circle is told here
        if first != "ok":
            raise QueueDamagedError(f"the queue's file is damaged: {first}")
        # To diskcache a row whose time is up is not there; it gives none of ours a time.
        if self._con.execute("SELECT 1 FROM Cache WHERE expire_time IS NOT NULL LIMIT 1").fetchone():
            raise QueueDamagedError("a row of the queue is hidden")

    def take(self, rows: Iterable[tuple[Key, Value]]) -> int:
        """Delete each row that still holds the value given, in one statement; give how many went.

        `get` and `delete` are three statements for each event, of a batch of 500.
        """
        return self._con.executemany("DELETE FROM Cache WHERE key = ? AND raw = 1 AND value = ?", rows).rowcount


def new_cache(folder: Path, durability: Durability) -> Cache:
    """Make a queue's database in an empty folder and open it. It is a queue when its `format` row is committed."""
    with translated():
        new_database(folder)
        return _opened(connect(folder, 1.0), durability, "COMMIT")


# Together some 0.1 s of work. No operation of a host takes a tenth of it.
_STEPS = 20_000
_MOST_ROUNDS = 100


class Patience:
    """Ends an operation that takes more steps than any of ours does: with damaged pages SQLite might go in circles.

    Counted in steps of SQLite's machine, not in seconds, for a process may be stopped and its clock set. SQLite counts
    a statement's steps over all of its uses: so a sound one may be met once, but not a hundred times.
    """

    def __init__(self, times: int = 1) -> None:
        self.rounds = times * _MOST_ROUNDS

    def __call__(self) -> bool:
        """Count a round; True ends the statement."""
        self.rounds -= 1
        return self.rounds < 0

    @classmethod
    def begin(cls, connection: sqlite3.Connection, times: int = 1) -> None:
        """Let what is done next on a connection take so many steps, or `times` as many."""
        connection.set_progress_handler(cls(times), _STEPS)


def open_cache(folder: Path, durability: Durability, timeout_s: float) -> Cache:
    """Open a queue's database; call it under the queue's lock only. Nothing is written.

    What is there is checked first, and raises QueueDamagedError if it is no queue of ours. `timeout_s` is how long a
    statement waits for somebody without our lock. UnavailableError where SQLite or the disk refuses.
    """
    with reading():
        check_files(folder)
        # SQLite would take it for a new one, and delete the log that may hold events.
        if not os.path.exists(folder / DATABASE) or os.path.getsize(folder / DATABASE) < _HEADER_BYTES:
            raise QueueDamagedError("the queue's file is gone, or empty")
        connection = connect(folder, timeout_s)
        try:
            Patience.begin(connection)
            _begin(connection, folder / DATABASE)
            _check(connection)
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
        return _opened(connection, durability, "ROLLBACK")


def check_files(folder: Path) -> None:
    """Raise QueueDamagedError if the folder, or a file that SQLite would open in it, is not plain and ours.

    SQLite follows links, and waits for pipes. A mode that shuts us out is set right.
    """
    odd = oddity(folder, "folder")
    if odd is None:
        private_folder(folder)
    for path in (folder / name for name in FILES) if odd is None else ():
        with suppress(FileNotFoundError):
            odd = odd or oddity(path, "file")
            restore_mode(path)
    if odd is not None:
        raise QueueDamagedError(f"the queue, or a file in it, {odd}")


def _opened(connection: Connection, durability: Durability, end: Literal["COMMIT", "ROLLBACK"]) -> Cache:
    """Let diskcache make its tables and settings, or find them, in one transaction.

    Its constructor writes every setting at each open, by itself in forty commits. Of a queue that was checked
    nothing would change by that, so it is rolled back: a mere look leaves no log to fold in, and works on a full disk.
    """
    try:
        for name, value in SETTINGS.items():  # the constructor finds them set: inside a transaction some can't be
            pragma = name.removeprefix("sqlite_")
            # One that is set already is left alone: some are written into the file, which a full disk has no room for.
            if pragma != name and connection.execute(f"PRAGMA {pragma}").fetchone() != (value,):
                connection.execute(f"PRAGMA {pragma} = {value}")
        connection.execute("BEGIN IMMEDIATE")
        connection.learn_files()
        cache = Cache(connection)
        connection.execute(end)
        if durability == "power":
            cache.reset("sqlite_synchronous", 2, update=False)
            if sys.platform == "darwin":
                cache.reset("sqlite_fullfsync", 1, update=False)
    except BaseException:
        connection.close()
        raise
    return cache


def _begin(connection: sqlite3.Connection, database: Path) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        # One byte of the header says who may write: with another one, SQLite only reads, wherever the file is.
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY and os.access(database, os.W_OK):
            raise QueueDamagedError("the queue's file says that it can't be written") from error
        raise


def _check(connection: sqlite3.Connection) -> None:
    """Raise QueueDamagedError unless tables, settings, format and journal are ours: diskcache obeys what it finds."""
    if set(connection.execute("SELECT type, name FROM sqlite_master")) != _SCHEMA:
        raise QueueDamagedError("the queue's tables are not ours")
    # Without it a key might name two rows, which diskcache doesn't expect.
    if ("Cache_key_raw", 1) not in [row[1:3] for row in connection.execute("PRAGMA index_list(Cache)")]:
        raise QueueDamagedError("the queue's keys are not unique")
    settings = dict(connection.execute("SELECT key, value FROM Settings"))
    if not settings.keys() >= _METADATA or {name: settings[name] for name in settings.keys() - _METADATA} != SETTINGS:
        raise QueueDamagedError("the queue's settings are not ours")
    if connection.execute("SELECT value FROM Cache WHERE key = 'format'").fetchall() != [(FORMAT,)]:
        raise QueueDamagedError("the queue has another format, or was never finished")
    if connection.execute("PRAGMA journal_mode").fetchall() != [("wal",)]:
        raise QueueDamagedError("the queue's file is no database with a log")


# -- what comes, in the spool's words -----------------------------------------------------------------------


@contextmanager
def translated() -> Iterator[None]:
    """Turn what diskcache, SQLite and the system raise into the spool's errors, as `as_spool_error` says."""
    try:
        yield
    except Exception as error:
        reason = as_spool_error(error)
        if reason is error:
            raise
        raise reason from error


@contextmanager
def reading() -> Iterator[None]:
    """Take whatever comes in a block that only opens, checks or reads a queue for damage, if it is no refusal.

    What a file makes of SQLite, sqlite3 and diskcache can't be foreseen: a name in its schema that is no UTF-8, a
    setting that is not there.
    """
    try:
        with translated():
            yield
    except SpoolError:
        raise
    except Exception as error:
        raise QueueDamagedError(f"the queue's file is damaged: {type(error).__name__}: {error}") from error


def as_spool_error(error: BaseException) -> BaseException:
    """Give the spool's error for what came at the queue.

    | what came | what it is |
    |---|---|
    | an error of the spool, no `Exception` | itself |
    | SQLite and diskcache: the file is in use, can't be read or written, the disk is full | a refusal of the machine |
    | anything else that SQLite says of the file | damage |
    | the system's errors; no memory; no room on the host's stack | a refusal of the machine |
    | anything else | itself: damage if the queue was only read (`reading`), else perhaps a mistake of ours |
    """
    if isinstance(error, sqlite3.OperationalError) and "cannot rollback" in str(error) and error.__context__:
        error = error.__context__  # SQLite had rolled back by itself; what made it do so is the reason
    if isinstance(error, sqlite3.Error):
        return _verdict(error)
    if isinstance(error, diskcache.Timeout):
        return UnavailableError("the queue's database is busy")
    if isinstance(error, OSError):
        return UnavailableError(f"the queue can't be reached: {error.strerror or error}")
    if isinstance(error, MemoryError | RecursionError):
        return UnavailableError(f"this process has no room for the queue ({type(error).__name__})")
    return error


# What SQLite says of the machine, or of who calls it; whatever else it says is said of the file.
_REFUSALS = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_ABORT,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}


def _verdict(error: sqlite3.Error) -> SpoolError:
    """Tell a damaged file, which moves to quarantine, from a machine that refuses for now."""
    if isinstance(error, sqlite3.ProgrammingError):
        return UnavailableError(f"the queue's connection is closed: {error}")
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    primary = extended & 0xFF
    if primary == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return DiskFullError("the disk is full")
    if primary in _REFUSALS and extended != sqlite3.SQLITE_IOERR_SHORT_READ:
        return UnavailableError(f"the queue's database refuses: {error}")
    if primary == sqlite3.SQLITE_INTERRUPT:
        return QueueDamagedError("the queue's file is damaged: SQLite comes to no end in it")
    if primary == sqlite3.SQLITE_ERROR:
        if re.match(r'no such column: "?(count|size|hits|misses)"?', str(error)):
            return UnavailableError("this SQLite refuses double-quoted strings, which diskcache needs")
        return QueueDamagedError(f"the queue's tables are not ours: {error}")
    return QueueDamagedError(f"the queue's file is damaged: {error}")


def sqlite_facts() -> tuple[str, bool]:
    """Give SQLite's version, and whether it takes the double-quoted strings that diskcache writes."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute('SELECT "text"')
        except sqlite3.OperationalError:
            return sqlite3.sqlite_version, False
    return sqlite3.sqlite_version, True


# -- the files, past SQLite ---------------------------------------------------------------------------------


def read_without_closing(path: Path) -> Iterator[bytes]:
    """Read a file of the queue and leave its descriptor open; nothing of what is no plain file.

    A process that closes any descriptor of a file drops all of its POSIX locks on it, SQLite's too, of whichever
    connection. The next process to leave would take the log along under that connection. Only damage is read so, and
    no more of it than `LARGEST_FILE`.
    """
    if not is_plain(path):
        return
    try:
        with streams_kept_free():
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return
    left = LARGEST_FILE
    while left > 0 and (part := os.read(descriptor, 1 << 20)):
        left -= len(part)
        yield part


def check_readable(folder: Path) -> None:
    """Read every byte of the queue's files; UnavailableError where the disk fails to.

    What is not plain and ours is damage, whether it reads or not.
    """
    with translated():
        for name in (DATABASE, LOG):
            with suppress(FileNotFoundError, NotADirectoryError):
                if oddity(folder, "folder") is None and oddity(folder / name, "file") is None:
                    for _part in read_without_closing(folder / name):
                        pass
