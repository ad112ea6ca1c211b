"""Which homes are there: for whoever names one in which nothing ever was."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from flusher.text import printable

__all__ = ["is_install", "shown", "similar"]

_MOST_NAMED = 3
_LONGEST = 2_000


def is_install(home: Path) -> bool:
    """Tell whether a host, or a person who decided, has been here."""
    return os.path.lexists(home / "telemetry.json") or os.path.isdir(home / "spool")


def shown(home: Path) -> str:
    """Give a home as a person writes it, with a ~ for the user's own folder."""
    own = os.path.expanduser("~")
    return f"~{os.sep}{home.relative_to(own)}" if os.path.isabs(own) and home.is_relative_to(own) else str(home)


def similar(home: Path) -> str:
    """Name installs whose home is called much like this one, beside it and in the user's own folder; "" if none is."""
    folders = {home.parent, Path(os.path.expanduser("~"))}
    found = {folder / name for folder in folders for name in _names(folder) if is_install(folder / name)} - {home}
    names = {path.name.lstrip(".").lower() for path in found}
    close = difflib.get_close_matches(home.name.lstrip(".").lower(), names, _MOST_NAMED)
    named = sorted(str(path) for path in found if path.name.lstrip(".").lower() in close)
    return f"; there is one in {printable(' and in '.join(named), _LONGEST)}" if named else ""


def _names(folder: Path) -> Iterable[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return ()
