"""Events aside: one file for each event that could not enter the queue in time.

A file is written under a name that starts with a dot and then renamed to `<time>-<uuid>.json`, so a file of that name
is complete. The flusher absorbs it under the lock. No lock is needed here, so it works while the lock is held, on file
systems without locks, and for programs in other languages.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

from spool.errors import DiskFullError, UnavailableError
from spool.home import Paths, listed, private_folder, publish, sync_folder, write_new
from spool.settings import Durability

__all__ = ["files", "is_name", "oldest_beyond", "put"]

_SUFFIX = ".json"
# A host drops twice as many at once as can be added between two looks of its own: some 2 ms.
_MOST_DROPS = 128


def put(paths: Paths, uuid: str, text: str, durability: Durability = "process") -> Path:
    """Write one event's file: when this returns, the event survives a killed process.

    With `power` it survives a power cut as well. Raises UnavailableError where not even this is possible;
    then nothing is left behind.
    """
    name = f"{time.time_ns():020d}-{uuid}{_SUFFIX}"
    draft, target = paths.aside / f".{name}", paths.aside / name
    durable = durability == "power"
    try:
        made = [private_folder(paths.spool), private_folder(paths.aside)]
        write_new(draft, text.encode("ascii"), durable=durable)
        publish(draft, target, durable=durable)
        if durable and any(made):
            for folder in (paths.spool, paths.home, paths.home.parent):
                sync_folder(folder)
    except OSError as error:
        for left in (draft, target):  # the event is counted as lost, so it must not arrive
            with suppress(OSError):
                os.unlink(left)
        kind = DiskFullError if error.errno == errno.ENOSPC else UnavailableError
        raise kind(f"{paths.aside} can't be written: {error.strerror or error}") from error
    return target


def files(paths: Paths) -> list[Path]:
    """Give the finished files, oldest first; an empty list where there is no such folder."""
    return [paths.aside / name for name in sorted(filter(is_name, listed(paths.aside)))]


def is_name(name: str) -> bool:
    """Tell whether a name in the folder is that of a finished file."""
    return name.endswith(_SUFFIX) and name[0] != "."


def oldest_beyond(paths: Paths, most: int) -> list[Path]:
    """Give some old files to drop, if there are more than `most`.

    A host waits for this, so it reads only the first `most` + 128 names, which the system gives in no order, and takes
    the oldest of these.
    """
    names = [name for name in listed(paths.aside, most + _MOST_DROPS) if is_name(name)]
    return [paths.aside / name for name in sorted(names)[: max(0, len(names) - most)]]
