"""The first thing that a run does: what stands where the spool keeps its own goes to quarantine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spool.beside import aside, loss_notes
from spool.home import Paths, Quarantine, is_odd, is_plain, listed, private_folder
from spool.queue import FILES

__all__ = ["tidy"]

# Whoever writes a file under another name first has given it its own by then, or was killed.
_STALE_S = 24 * 3600.0


def tidy(paths: Paths, quarantine: Quarantine) -> None:
    """Clear the places of our files and folders, each by itself, and remove drafts that nobody will finish.

    Called under `flush.lock`. Three things are not looked at here: the queue and SQLite's files in it, which each open
    checks; events aside and dead commands, which are read one by one; and destination.json, of which a run complains.
    """
    for path in (
        *(paths.queue_lock, paths.flush_state, paths.flush_log, paths.launched, paths.launch_errors),
        *(paths.emitted, paths.losses_log, paths.wiped, paths.reserve, paths.report_page),
    ):
        quarantine.clear(path, "file")
    with quarantine.going_on(paths.quarantine):
        if os.path.lexists(paths.quarantine):
            quarantine.folder()
    for folder in (paths.aside, paths.spans):
        with quarantine.going_on(folder):
            if os.path.lexists(folder) and quarantine.clear(folder, "folder"):
                private_folder(folder)
    _sweep(paths.aside, quarantine, lambda name: aside.is_name(name) or loss_notes.parse(name) is not None)
    _sweep(paths.spans, quarantine, aside.is_name)
    if not is_odd(paths.queue, "folder"):
        for name in listed(paths.queue):
            if name not in FILES:
                quarantine.take(paths.queue / name, "nothing else belongs into the queue's folder")


def _sweep(folder: Path, quarantine: Quarantine, is_ours: Callable[[str], bool]) -> None:
    """Remove what has no name of ours, after a day: a hidden file is a draft, and goes; all else to quarantine."""
    for name in listed(folder):
        path = folder / name
        if is_ours(name) or not _is_stale(path):
            continue
        if name.startswith(".") and is_plain(path):
            with suppress(OSError):
                os.unlink(path)
                continue
        quarantine.take(path, "its name is none of ours, and it is older than a day")


def _is_stale(path: Path) -> bool:
    with suppress(OSError):
        return abs(time.time() - os.lstat(path).st_mtime) > _STALE_S  # a clock may have been set back
    return False
