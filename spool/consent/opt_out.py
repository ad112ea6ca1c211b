"""Opting out deletes everything that waits, and every record of it.

That is: pending and dead events, files aside, spans, quarantine, `emitted.json`, the reasons of losses, the log of the
runs and the report, drafts included.
"""

from __future__ import annotations

import os
from contextlib import suppress

from spool.errors import SpoolError
from spool.home import Paths, Quarantine, Signature, private_folder, read_bounded, write_state

__all__ = ["is_wiped", "wipe", "wipe_once"]


def wipe(paths: Paths, wait_s: float = 1.0) -> int:
    """Delete what waits; give how many events the queue held. The counters stay, so that the account adds up.

    Raises SpoolError where the queue can't be used: then everything beside it is deleted all the same, and the next run
    deletes the rest. A spool that is a link or another user's is left alone: UnsafePathError.
    """
    import shutil  # noqa: PLC0415 - it loads every compressor, for what is done once

    from spool.queue import Queue  # noqa: PLC0415 - sqlite3, only when there is something to delete

    if not os.path.isdir(paths.spool):
        return 0
    private_folder(paths.spool)
    Quarantine(paths).clear(paths.queue_lock, "file")
    queue = Queue(paths, wait_s=wait_s)
    try:
        gone = queue.wipe()
    finally:
        queue.close()
        for folder in (paths.aside, paths.spans, paths.quarantine):
            shutil.rmtree(folder, ignore_errors=True)
        records = (paths.flush_log.name, paths.report_page.name, paths.emitted.name, paths.losses_log.name)
        for entry in os.scandir(paths.spool):
            # Of an earlier wipe or doctor that was killed, or what could not be moved into quarantine.
            if entry.name.startswith(("queue.wiped-", "doctor-", f"{paths.quarantine.name}-")):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name.lstrip(".").startswith(records):
                with suppress(OSError):  # a running process has renamed its draft
                    os.unlink(entry.path)
    return gone


def is_wiped(paths: Paths, decided: Signature | None) -> bool:
    """Tell whether this opt-out was carried out already; where that can't be read it was not."""
    if not os.path.isdir(paths.spool):
        return True
    try:
        return read_bounded(paths.wiped, follow=False) == repr(decided).encode()
    except OSError:
        return False


def wipe_once(paths: Paths, decided: Signature | None, wait_s: float = 1.0) -> None:
    """Delete what waits, once for each decision: later runs only read one small file.

    `decided` is the signature of the `telemetry.json` that says no. What can't be deleted now is deleted
    at the next run.
    """
    try:
        if is_wiped(paths, decided):
            return
        wipe(paths, wait_s)
        write_state(paths, paths.wiped, repr(decided).encode())
    except (OSError, SpoolError):
        return  # not now: the next run of host or flusher tries again
