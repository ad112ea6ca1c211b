"""How the flusher writes what others read: words of somebody else, numbers with their nouns, moments."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["counted", "error_words", "moment", "printable"]


def printable(text: str, most: int = 300) -> str:
    """Make a text of somebody else harmless on a terminal: one line, no escapes, not endless."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return shown + "…" if len(text) > most else shown


def error_words(error: Exception) -> str:
    """Say an error as a person reads it: of the system's the file and what it says, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error) or type(error).__name__


def counted(count: int, noun: str) -> str:
    """Give a number with its noun, which takes an s: "1 event", "2,000 events"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def moment(seconds: float | None) -> str | None:
    """Write seconds since the epoch as RFC 3339; None also for a time beyond the calendar."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return None
