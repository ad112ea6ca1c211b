"""Why the last flusher that a host started never was at work."""

from __future__ import annotations

import errno
import os

from flusher.text import moment
from spool.home import Paths, read_bounded
from spool.launch.start import LAUNCH_PAUSE_S

__all__ = ["launch_problem"]

_MOST_BYTES = 64 * 1024


def launch_problem(paths: Paths, now: float) -> str | None:
    """Give the last line of what it said, or of why none could be started; None where all is well, or not known.

    A host makes the file empty, and a flusher that is at work removes it: an empty one that is old tells of a flusher
    that was killed before.
    """
    try:
        begun = os.lstat(paths.launch_errors).st_mtime
        lines = read_bounded(paths.launch_errors, _MOST_BYTES, follow=False).decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"what it said is long, and stands in {paths.launch_errors}" if error.errno == errno.EFBIG else None
    said = [line.strip() for line in lines if line.strip()]
    if said:
        return said[-1]
    if 0 <= now - begun < LAUNCH_PAUSE_S:
        return None
    return f"the one that was started at {moment(begun)} was killed before it was at work"
