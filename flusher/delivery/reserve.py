"""A little space kept for a full disk: taking out what was delivered needs some, before it gives any back."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

from spool.home.files import write_new
from spool.home.paths import Paths

__all__ = ["keep", "spend"]

# One batch of 500 events of 1 KB touches some 250 pages, which go through the log.
_BYTES = 1024 * 1024


def keep(paths: Paths) -> None:
    """Set the space aside, where the disk has four times as much."""
    if os.path.exists(paths.reserve):
        return
    with suppress(OSError):
        if shutil.disk_usage(paths.spool).free > 4 * _BYTES:
            write_new(paths.reserve, bytes(_BYTES))


def spend(paths: Paths) -> bool:
    """Give the space back to the disk; False where there was none."""
    try:
        os.unlink(paths.reserve)
    except OSError:
        return False
    return True
