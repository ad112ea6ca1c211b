"""How the flusher writes what others read: words of somebody else, numbers, moments, its own command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime

from spool.home.paths import Paths, resolve_home

__all__ = ["counted", "moment", "printable", "tool"]


def printable(text: str, most: int = 300) -> str:
    """Make a text of somebody else harmless on a terminal: one line, no escapes, not endless."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return shown + "…" if len(text) > most else shown


def counted(count: int, noun: str) -> str:
    """Give a number with its noun, which takes an s: "1 event", "2,000 events"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def moment(seconds: float | None) -> str | None:
    """Write seconds since the epoch as RFC 3339."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def tool(app: str, paths: Paths, env: Mapping[str, str]) -> str:
    """Give `ktx-flush` with `--app` and `--home` where it would look elsewhere without them, for a person to copy."""
    words = ["ktx-flush"] + (["--app", app] if app != "ktx" else [])
    if paths.home != resolve_home(app, None, env):
        words += ["--home", str(paths.home)]
    return shlex.join(words)
