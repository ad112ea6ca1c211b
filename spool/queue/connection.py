"""SQLite's connection to a queue. Its descriptors are looked at before each use: the host may have closed them.

SQLite doesn't notice that it has lost a descriptor. It would write to whatever file of the host has the number by now,
and close it at the end. And it keeps a record of each file, by inode, of the locks that this process holds: a new
connection to a file that a lost one has open would rely on locks that are gone, and use a descriptor that is lost. So a
connection that has lost one is left as it is for ever, and this process does not open its file again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from spool.errors import UnavailableError
from spool.home import Descriptor, lowest_free, open_numbers, write_new

__all__ = ["DATABASE", "FILES", "LOG", "Connection", "connect", "is_lost", "new_database"]

DATABASE = "cache.db"
LOG = f"{DATABASE}-wal"
_INDEX = f"{DATABASE}-shm"
# All that SQLite opens there; nothing else belongs into the folder.
FILES = (DATABASE, LOG, _INDEX, f"{DATABASE}-journal")
# SQLite opens three, and gets the lowest numbers that are free. To list all is slow in a host that has thousands.
_NEAR = 32


class Connection(sqlite3.Connection):
    """A connection to the database in a folder, for all threads.

    `close` alone ends it. One that is forgotten stays open: the garbage collector and the end of the interpreter would
    close it without the queue's lock, and without a look at its descriptors.
    """

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._database, self._log, self._index = (os.path.join(folder, name) for name in (DATABASE, LOG, _INDEX))
        self._lowest = lowest_free()
        super().__init__(self._database, timeout=timeout_s, isolation_level=None, check_same_thread=False)
        # SQLite keeps this reference until it is closed, and Python's collector doesn't know of it.
        self.create_function("stay_open", 0, self.close)
        self.opened = os.stat(self._database)
        self._opened_log: os.stat_result | None = None
        self.descriptors: list[Descriptor] = []
        self._pid = os.getpid()
        self._lost = False
        _connections.append(self)

    def learn_files(self) -> None:
        """Learn what SQLite has open. To be called in a transaction, when it has opened all that it needs."""
        log, index = os.stat(self._log), os.stat(self._index)
        others = {one.number: one for other in _connections for one in other.descriptors if one.is_ours()}
        # SQLite opens one index for all connections of a process.
        self.descriptors = [one for one in others.values() if os.path.samestat(one.opened, index)][:1]
        sought = [self.opened, log, index][: 2 if self.descriptors else 3]
        for number in self._numbers():
            if not sought:
                break
            with suppress(OSError):  # it isn't open
                file = os.fstat(number)
                found = [one for one in sought if number not in others and os.path.samestat(file, one)]
                self.descriptors += [Descriptor(number) for _ in found]
                sought = [one for one in sought if one not in found]
        self._opened_log = log

    def _numbers(self) -> Iterator[int]:
        """Give the numbers that SQLite may have got: first from the lowest on that was free, then all."""
        yield from range(self._lowest, self._lowest + _NEAR)
        yield from open_numbers()

    def is_usable(self) -> bool:
        """Tell whether SQLite has what it opened, and nobody has deleted it: to be asked before each transaction.

        Others delete the log when nobody else seems to have it open. A host can make it seem so: a process that closes
        any descriptor of a file gives up all of its POSIX locks on it.
        """
        files = self._look()
        return files is not None and all(
            file.st_nlink >= one.opened.st_nlink for file, one in zip(files, self.descriptors, strict=True)
        )

    def is_lost(self) -> bool:
        """Tell whether a descriptor stands for another file, or none. In a forked child all are the parent's."""
        return self._look() is None

    def _look(self) -> list[os.stat_result] | None:
        files = [file for one in self.descriptors if (file := one.look()) is not None]
        self._lost = self._lost or len(files) < len(self.descriptors) or self._pid != os.getpid()
        return None if self._lost else files

    def is_current(self) -> bool:
        """Tell whether database and log still have their names: else nobody else sees what was written to them."""
        return _is_file(self._database, self.opened) and _is_file(self._log, self._opened_log)

    def close(self) -> None:
        """Close the connection, under the queue's lock: the last one folds the log in. One that is lost stays."""
        if self not in _connections or self.is_lost():
            return
        super().close()
        _connections.remove(self)  # not before: an exception from another thread in between would leave it open
        for other in _connections:
            if os.path.samestat(other.opened, self.opened):
                # SQLite closes the database's descriptor with the last connection to it, or uses it again.
                other.descriptors += [one for one in self.descriptors if one.is_ours() and one not in other.descriptors]
                break


# Those of this process that are open, or lost.
_connections: list[Connection] = []


def connect(folder: Path, timeout_s: float) -> Connection:
    """Open the database in a folder; UnavailableError where this process can't any more."""
    if is_lost(folder):
        raise UnavailableError("the host has closed the queue's descriptors")
    return Connection(folder, timeout_s)


def is_lost(folder: Path) -> bool:
    """Tell whether the database in a folder is one that this process can't open any more."""
    lost = [one for one in list(_connections) if one.is_lost()]
    return any(_is_file(os.path.join(folder, DATABASE), one.opened) for one in lost)


def new_database(folder: Path) -> None:
    """Make an empty file for a database, 0600 from the first byte on: SQLite gives -wal and -shm the same mode."""
    refused: list[Path] = []
    write_new(folder / DATABASE, b"")
    while is_lost(folder):  # it has the inode of a file that was lost, and is deleted by now
        refused.append(folder / f"{DATABASE}.{len(refused)}")
        os.rename(folder / DATABASE, refused[-1])
        write_new(folder / DATABASE, b"")
    for path in refused:
        os.unlink(path)


def _is_file(path: str, file: os.stat_result | None) -> bool:
    try:
        return file is not None and os.path.samestat(os.stat(path, follow_symlinks=False), file)
    except OSError:
        return False
