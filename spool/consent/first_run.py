"""The first run of an install: one id, one notice, one `install_first_run`, whoever runs first and dies when.

The event is written beside, under a name that the id is part of; then the identity is published, which one of
many processes wins; then the event gets its name. Killed in between, the flusher sees that the event belongs
to the identity and gives it its name; what belongs to another id was never published, and is deleted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from spool.consent.identity import mint
from spool.fallback.aside import SUFFIX
from spool.home.files import private_folder, write_new
from spool.home.paths import Paths

__all__ = ["complete", "first_run"]

_DRAFT = ".first-run-"


def first_run(paths: Paths, build: Callable[[str], str]) -> bool:
    """Mint an identity and leave its `install_first_run` in aside. True for exactly one of many at once.

    `build` makes the event's text for an install id. Raises OSError or UnsafePathError where the home can't
    be written; then nothing was published.
    """
    from uuid import uuid4  # noqa: PLC0415 - once in the life of an install

    install_id = str(uuid4())
    private_folder(paths.spool)
    private_folder(paths.aside)
    beside = paths.aside / f"{_DRAFT}{install_id}{SUFFIX}"
    write_new(beside, build(install_id).encode("ascii"), durable=True)
    won = False
    try:
        won = mint(paths, install_id)
    finally:
        if not won:
            with suppress(FileNotFoundError):  # the winner has tidied up already
                os.unlink(beside)
    if won:
        complete(paths, install_id)
    return won


def complete(paths: Paths, install_id: str | None) -> None:
    """Give this install's event its name, unless it has one; delete those of ids that were never published."""
    if install_id is None:
        return
    try:
        drafts = [entry.name for entry in os.scandir(paths.aside) if entry.name.startswith(_DRAFT)]
    except OSError:
        return  # no such folder: nothing to complete
    for name in drafts:
        with suppress(FileNotFoundError):  # its own process was faster
            if name == f"{_DRAFT}{install_id}{SUFFIX}":
                os.rename(paths.aside / name, paths.aside / f"{time.time_ns():020d}-{install_id}{SUFFIX}")
            else:
                os.unlink(paths.aside / name)
