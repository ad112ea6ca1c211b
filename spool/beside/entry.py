"""One entry of `aside/` or `spans/`: how it is read, and what keeps it from being an event."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from spool.errors import EventTooLargeError, InvalidEventError, SpoolError, UnavailableError, UnsafePathError
from spool.home import read_bounded, restore_mode

__all__ = ["read_entry", "refusal"]

# What the machine says when it has too little of something, or a disk fails for a moment: the next run tries again.
_PASSING = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOENT, errno.ENOMEM),
    *(errno.ENOSPC, errno.ESTALE, errno.ETIMEDOUT),
}


def read_entry(path: Path, most_bytes: int) -> bytes:
    """Give what the file of one event holds. Nothing but a plain file is opened; one of ours that is shut is opened.

    Raises InvalidEventError for what is no plain file, OSError as `read_bounded`.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise InvalidEventError("no event's file: no plain file")
    try:
        return read_bounded(path, most_bytes, follow=False)
    except PermissionError:
        if not restore_mode(path):
            raise
        return read_bounded(path, most_bytes, follow=False)


def refusal(error: Exception) -> SpoolError | None:
    """Say why an entry is no event, by what was raised when it was read, whatever that is.

    None where it may be one and can't be read now: it stays where it is.
    """
    passing = isinstance(error, UnavailableError) and not isinstance(error, UnsafePathError)
    if passing or isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _PASSING):
        return None
    if isinstance(error, SpoolError):
        return error
    if isinstance(error, OSError):
        kind = EventTooLargeError if error.errno == errno.EFBIG else InvalidEventError
        return kind(f"no event's file: {error.strerror}")
    return InvalidEventError(str(error) or type(error).__name__)
