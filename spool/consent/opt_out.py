"""Was an opt-out carried out here already? `spool/beside/wipe.py` does that; to look costs a few system calls."""

from __future__ import annotations

import os

from spool.home import Paths, Signature, read_bounded, write_state

__all__ = ["is_wiped", "mark_wiped"]


def is_wiped(paths: Paths, decided: Signature | None) -> bool:
    """Tell whether this opt-out was carried out, and nothing came later. Where that can't be read it was not.

    What comes later is a file of a program that asked just before: it makes a folder, which an opt-out removes.
    """
    if not os.path.isdir(paths.spool):
        return True
    if any(os.path.lexists(folder) for folder in (paths.aside, paths.spans, paths.quarantine)):
        return False
    try:
        mark = read_bounded(paths.wiped, follow=False).decode(errors="replace")
    except OSError:
        return False
    # A release before this one looked at three of the four numbers.
    return decided is not None and mark in _marks(decided)


def mark_wiped(paths: Paths, decided: Signature | None) -> None:
    """Remember that the opt-out of this `telemetry.json` was carried out. Raises OSError."""
    write_state(paths, paths.wiped, repr(decided).encode())


def _marks(decided: Signature) -> tuple[str, str]:
    return repr(decided), repr(decided[:3])
