"""The first run of an install: one id, one notice, one `install_first_run`, whichever process is first or is killed.

The event is written as a draft whose name contains the id; then the identity is published, which one of many processes
wins; then the draft is renamed. If the process is killed in between, the flusher renames the draft of the published id;
a draft of any other id was never published, and is deleted.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from spool.consent.identity import mint
from spool.home import Paths, listed, private_folder, write_new

__all__ = ["complete", "first_run", "first_run_notice", "say"]

_DRAFT, _SUFFIX = ".first-run-", ".json"


def first_run(paths: Paths, install_id: str, event: str, wait_s: float = 1.0) -> bool:
    """Make `install_id` the identity and leave its `install_first_run` aside. True for exactly one of many at once.

    `event` is the event's text. Raises OSError or SpoolError where the home can't be written, or where a lock is needed
    and can't be had in `wait_s`; then nothing was published.
    """
    private_folder(paths.spool)
    private_folder(paths.aside)
    beside = paths.aside / f"{_DRAFT}{install_id}{_SUFFIX}"
    write_new(beside, event.encode("ascii"), durable=True)
    won = False
    try:
        won = mint(paths, install_id, wait_s)
    finally:
        if not won:
            with suppress(FileNotFoundError):  # the winner has tidied up already
                os.unlink(beside)
    if won:
        complete(paths, install_id)
    return won


def complete(paths: Paths, install_id: str | None) -> None:
    """Rename the draft of this install's event, if there is one; delete drafts of ids that were never published."""
    if install_id is None:
        return
    for name in listed(paths.aside):
        if not name.startswith(_DRAFT):
            continue
        with suppress(OSError):  # the process that wrote it was faster, mostly
            if name == f"{_DRAFT}{install_id}{_SUFFIX}":
                os.rename(paths.aside / name, paths.aside / f"{time.time_ns():020d}-{install_id}{_SUFFIX}")
            else:
                os.unlink(paths.aside / name)


# -- what the user sees of it -----------------------------------------------------------------------------


def say(line: str, *, dim: bool = False) -> None:
    """Write one line to stderr, which a daemon may have closed. Stdout may be a protocol channel."""
    try:
        dim = dim and sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        sys.stderr.write(f"\033[2m{line}\033[0m\n" if dim else line + "\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        return  # stderr is closed: the line can't be shown


def first_run_notice(app: str, prefix: str) -> str:
    """Say what is collected, and how to say no."""
    return (
        f"{app} collects anonymous usage data to improve the product."
        f" To say no: set {prefix}TELEMETRY_DISABLED=1, or run ktx-flush --app {app} disable."
    )
