"""How a queue comes into being: built beside its place with all that it holds, then renamed. Under the queue's lock.

Once in the life of an install, and after damage or an opt-out: no command carries this, nor what only this needs.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import closing, suppress

from spool.errors import SpoolError
from spool.home.files import private_folder, sync_folder, write_new
from spool.home.paths import Paths
from spool.queue.disk import DATABASE, Key, Value, translated
from spool.queue.recovery.salvage import salvaged
from spool.queue.recovery.wreckage import read_wreck
from spool.queue.store import make_store, open_store
from spool.queue.transaction import META
from spool.settings import Durability

__all__ = ["create", "rebuild", "replace"]


def create(paths: Paths, durability: Durability, timeout_s: float) -> None:
    """Bring the first queue into being, whole or not at all.

    A queue that a killed process left beside is adopted if it was finished: it may hold what that process had
    salvaged.
    """
    if paths.queue_staged.exists():
        with suppress(SpoolError):  # not finished, so nothing is in it that isn't elsewhere
            open_store(paths.queue_staged, durability="process", timeout_s=timeout_s).close()
            os.rename(paths.queue_staged, paths.queue)
            return
    _build(paths, durability, {})
    os.rename(paths.queue_staged, paths.queue)
    if durability == "power":
        for folder in (paths.queue, paths.spool, paths.home, paths.home.parent):
            sync_folder(folder)


def replace(paths: Paths, durability: Durability, rows: Mapping[Key, Value]) -> None:
    """Put a queue with these rows in the place of the one that is there, which is deleted."""
    with translated():
        _build(paths, durability, rows)
        doomed = paths.spool / f"queue.wiped-{os.urandom(4).hex()}"
        os.rename(paths.queue, doomed)
        os.rename(paths.queue_staged, paths.queue)
        shutil.rmtree(doomed, ignore_errors=True)


def rebuild(paths: Paths, durability: Durability, reason: str) -> None:
    """Move the damaged queue to quarantine, whole, and go on with what could be read of it.

    Killed in the middle, it starts again or finds the finished copy: nothing is read from two places.
    """

    def blank_page() -> bytes:
        _build(paths, durability, {})
        return (paths.queue_staged / DATABASE).read_bytes()

    with translated():
        private_folder(paths.quarantine)
        wreck = read_wreck(paths.queue, paths.quarantine / ".reading", blank_page)
        _build(paths, durability, salvaged(wreck))
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.urandom(3).hex()}"
        write_new(paths.quarantine / f"{name}.reason", f"{reason}\n".encode())
        os.rename(paths.queue, paths.quarantine / name)
        os.rename(paths.queue_staged, paths.queue)


def _build(paths: Paths, durability: Durability, rows: Mapping[Key, Value]) -> None:
    """Build a queue with `rows` in its place beside; its `format` row is committed with the last of them."""
    folder = paths.queue_staged
    shutil.rmtree(folder, ignore_errors=True)
    try:
        private_folder(folder)
        store = make_store(folder, durability=durability)
        with closing(store), store.transact():
            for key, value in {**META, **rows}.items():
                store.add(key, value)
    except BaseException:  # on a full disk half a queue would keep the space that an event needs
        shutil.rmtree(folder, ignore_errors=True)
        raise
