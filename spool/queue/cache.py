"""A new queue's folder, made by diskcache: tables, indexes, triggers. The only module that imports it.

Any diskcache reads what lies there. What is relied on of diskcache 5.6.3 has a test in tests/libraries/test_disk.py:
diskcache has had no release since August 2023: the `Cache` table keyed by integers and texts; `count` and `size` in
its `Settings` table, kept by triggers inside each transaction. No row goes through it: it would pickle some, and put
others into files beside.
"""

from __future__ import annotations

import os
from pathlib import Path

import diskcache

from spool.errors import UnavailableError
from spool.queue.disk import DATABASE, SETTINGS, translated

__all__ = ["make"]


class _LiteralPath(str):
    """A path that diskcache takes as it is: it would expand `$NAME` in a folder's name."""

    __slots__ = ()

    def __str__(self) -> str:
        return self

    def __contains__(self, part: object) -> bool:
        return part not in ("$", "%") and super().__contains__(str(part))


def make(folder: Path) -> None:
    """Make an empty diskcache in a folder that is there; UnavailableError where SQLite or the disk refuses."""
    with translated():
        # SQLite gives -wal and -shm the mode of the database: 0600 from the first byte on.
        os.close(os.open(folder / DATABASE, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            diskcache.Cache(_LiteralPath(folder), timeout=1.0, **SETTINGS).close()
        except diskcache.Timeout as error:
            raise UnavailableError("the queue's new database is busy") from error
