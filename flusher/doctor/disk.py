"""What doctor finds on the disk: modes, owners and links by stat, and what it tries out in a scratch folder.

Files that are only examined are neither opened nor followed. The scratch folder touches neither the queue nor its
account.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from flusher.context import WAIT_S
from flusher.doctor.checks import FileFacts, HomeFacts
from spool.errors import QueueDamagedError, SpoolError
from spool.home import Paths, make_folder, private_folder, read_bounded, write_new
from spool.queue import DATABASE, FileLock, Queue, Row, read_without_closing
from spool.queue.account import Account

__all__ = ["Inspected", "inspect_queue", "look_at_files", "look_at_home", "names", "scratch", "try_canary", "try_lock"]

# The opt-out knows this name too: it deletes what a killed doctor left behind.
_PREFIX = "doctor-"
_STALE_S = 3600.0


def look_at_home(home: Path) -> HomeFacts:
    """Give the home as it stands."""
    try:
        status = os.stat(home)
        read_only = sys.platform != "win32" and bool(os.statvfs(home).f_flag & os.ST_RDONLY)
    except FileNotFoundError:
        return HomeFacts(str(home), None)
    except OSError as error:
        return HomeFacts(str(home), None, problem=error.strerror or str(error))
    return HomeFacts(
        path=str(home),
        mode=stat.S_IMODE(status.st_mode),
        is_folder=stat.S_ISDIR(status.st_mode),
        mine=_mine(status) or (status.st_uid == 0 and os.access(home, os.W_OK)),
        usable=os.access(home, os.W_OK | os.X_OK),
        read_only=read_only,
    )


def _mine(status: os.stat_result) -> bool:
    return sys.platform == "win32" or status.st_uid == os.geteuid()


def look_at_files(paths: Paths) -> Iterator[FileFacts]:
    """Give the spool's folder and what is in it, two levels deep, without following a link."""
    pending = [paths.spool]
    while pending:
        path = pending.pop()
        try:
            status = os.lstat(path)
        except OSError:  # gone since it was listed, or in a folder that can't be entered, which is said
            continue
        kind = _kind(status.st_mode)
        yield FileFacts(str(path), kind, stat.S_IMODE(status.st_mode), _mine(status), status.st_nlink)
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


# -- the scratch folder --------------------------------------------------------------------------------------


class Inspected(NamedTuple):
    """What a copy of the queue holds, and its damage in words; None where it is sound."""

    account: Account
    damage: str | None = None


@contextmanager
def scratch(paths: Paths) -> Iterator[Path]:
    """Give a private folder on the file system of the home, for a block. Raises OSError where none can be made.

    One that a killed doctor left behind is removed after an hour.
    """
    parent = paths.spool if paths.spool.is_dir() else paths.home
    for entry in list(os.scandir(parent)):
        age_s = abs(time.time() - entry.stat(follow_symlinks=False).st_mtime)  # a clock may have been set back
        if entry.name.startswith(_PREFIX) and age_s > _STALE_S:
            shutil.rmtree(entry.path, ignore_errors=True)
    folder = parent / f"{_PREFIX}{os.urandom(4).hex()}"
    try:  # before it is made: a Ctrl-C in between would leave it there
        make_folder(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def try_lock(folder: Path, queue_lock: Path | None) -> None:
    """Lock a file of the scratch folder, then the queue's own where it is given. Raises SpoolError or OSError."""
    FileLock(folder / "lock").acquire(0.0)
    if queue_lock is not None:
        with _held(queue_lock):
            pass


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the queue's lock for a block. A missing lock file is held by nobody, and is not created."""
    lock = FileLock(path, create=False)
    try:
        with suppress(FileNotFoundError):
            lock.acquire(WAIT_S)
        yield
    finally:
        lock.close()


def try_canary(folder: Path, text: str) -> Row:
    """Send an event through a queue of its own, and give it as it came out. Raises SpoolError or OSError."""
    queue = Queue(Paths(folder / "c"), wait_s=WAIT_S)
    try:
        queue.append(text)
        (stored,) = list(queue.gather())
        queue.settle([stored])
        account = queue.account()
    finally:
        queue.close()
    if (account.captured, account.delivered, account.pending) != (1, 1, 0):
        raise QueueDamagedError(f"the account of the scratch queue says {account.as_json()}")
    return stored


def inspect_queue(paths: Paths, folder: Path) -> Inspected:
    """Copy the queue under its lock, and read every row of the copy. Raises SpoolError or OSError.

    A copy, because opening a damaged queue moves it to quarantine, which is the flusher's task.
    """
    copy = Paths(folder / "q")
    if not (paths.queue / DATABASE).exists():
        return Inspected(Account(), "its file is gone" if paths.queue.exists() else None)
    private_folder(copy.spool)
    private_folder(copy.queue)
    with _held(paths.queue_lock):
        for name in (DATABASE, f"{DATABASE}-wal"):
            if (paths.queue / name).exists():
                write_new(copy.queue / name, b"")  # 0600 from the first byte on
                with (copy.queue / name).open("wb") as file:
                    file.writelines(read_without_closing(paths.queue / name))
    return _read(copy)


def _read(copy: Paths) -> Inspected:
    """Read it as the flusher would; if that finds damage, the reason is in the copy's quarantine."""
    queue = Queue(copy, wait_s=WAIT_S)
    try:
        queue.verify()
        before = queue.account()
        for _stored in queue.gather():
            pass
        queue.dead()
    except QueueDamagedError as error:
        return Inspected(Account(), str(error))
    finally:
        with suppress(SpoolError):
            queue.close()
    reasons = sorted(copy.quarantine.glob("*.reason")) if copy.quarantine.is_dir() else []
    return Inspected(before, read_bounded(reasons[0]).decode().strip() if reasons else None)
