"""What lies in a home, as the system tells it: modes, owners, links. Nothing is opened, nothing is followed."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from flusher.doctor.checks_disk import Home, Place
from spool.home.paths import Paths

__all__ = ["look_at_home", "names", "places"]


def look_at_home(home: Path) -> Home:
    """Give the home as it stands."""
    try:
        status = os.stat(home)
        read_only = sys.platform != "win32" and bool(os.statvfs(home).f_flag & os.ST_RDONLY)
    except OSError:
        return Home(str(home), None)
    return Home(
        path=str(home),
        mode=stat.S_IMODE(status.st_mode),
        is_folder=stat.S_ISDIR(status.st_mode),
        mine=_mine(status) or (status.st_uid == 0 and os.access(home, os.W_OK)),
        usable=os.access(home, os.W_OK | os.X_OK),
        read_only=read_only,
    )


def _mine(status: os.stat_result) -> bool:
    return sys.platform == "win32" or status.st_uid == os.geteuid()


def places(paths: Paths) -> Iterator[Place]:
    """Give the spool's folder and what is in it, two levels deep, without following a link."""
    pending = [paths.spool]
    while pending:
        path = pending.pop()
        try:
            status = os.lstat(path)
        except OSError:  # gone since it was listed, or in a folder that can't be entered, which is said
            continue
        kind = _kind(status.st_mode)
        yield Place(str(path), kind, stat.S_IMODE(status.st_mode), _mine(status), status.st_nlink)
        if kind == "folder" and path in (paths.spool, paths.queue, paths.aside, paths.spans, paths.quarantine):
            pending += [path / name for name in names(path)]


def _kind(mode: int) -> Literal["folder", "file", "other"]:
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def names(folder: Path) -> list[str]:
    """Give the names in a folder; none where it can't be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
