"""The options of a host, frozen, and the names that are derived from the app's name."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

__all__ = [
    "DEFAULT_HOST",
    "GUARD",
    "LONGEST_S",
    "MARK",
    "MOST_EVENT_BYTES",
    "TESTING",
    "VERSION",
    "Durability",
    "FlushMode",
    "Limits",
    "env_prefix",
    "is_plain_name",
    "is_set",
    "stripped",
]

VERSION = "0.1.0"
DEFAULT_HOST = "https://us.i.posthog.com"
# Set by the guard kit while a test runs: the home of every app; mistakes raise. `home/under_test.py` reads it.
TESTING = "KTX_SPOOL_TESTING"

# Set in a flusher's environment, and by the guard kit: nothing that runs there starts a flusher.
GUARD = "KTX_SPOOL_FLUSHER"

# Holds the arguments of `ktx-flush` that a program is started for: it runs that instead of its own work.
MARK = "KTX_SPOOL_RUN"

# No command lasts for a year: so long a time is that of a clock that jumped.
LONGEST_S = 366 * 24 * 3600.0

# PostHog takes no larger event.
MOST_EVENT_BYTES = 1_000_000
_MOST = {"max_event_bytes": MOST_EVENT_BYTES}
_LONGEST_NAME = 64

Durability = Literal["process", "power"]
FlushMode = Literal["auto", "never"]


class _Limits(NamedTuple):
    max_events: int
    max_bytes: int
    max_age_s: float
    max_event_bytes: int
    lock_wait_s: float


class Limits(_Limits):
    """What the spool may take from a machine. Over a limit the oldest pending event goes, counted.

    `max_event_bytes` is PostHog's SDK limit of 900 KiB per event, less what the server adds.
    `lock_wait_s` bounds every wait of a capture: a person barely notices a quarter of a second. Frozen; a limit that no
    queue can keep raises ValueError, which names the field.
    """

    __slots__ = ()

    def __new__(
        cls,
        max_events: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
        max_age_s: float = 30 * 24 * 3600.0,
        max_event_bytes: int = 900_000,
        lock_wait_s: float = 0.25,
    ) -> Self:
        """Refuse what no queue can keep."""
        limits = super().__new__(cls, max_events, max_bytes, max_age_s, max_event_bytes, lock_wait_s)
        for name, value in limits._asdict().items():
            least, most = (0, 60) if name == "lock_wait_s" else (1, _MOST.get(name, 2**53))
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise ValueError(f"Limits.{name} is a number from {least} to {most}, not {value!r}")
            if not name.endswith("_s") and value % 1:
                raise ValueError(f"Limits.{name} is a whole number, not {value!r}")
        return limits

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]  # a named tuple's own is generic
        """Apply the same rules to what `_replace` and `copy.replace` make."""
        return cls(*iterable)


def is_plain_name(text: str) -> bool:
    """Tell whether a text can name a folder, variable and option: a letter, then up to 63 letters, digits, -, _."""
    letters = text.replace("-", "").replace("_", "")
    return text.isascii() and text[:1].isalpha() and letters.isalnum() and len(text) <= _LONGEST_NAME


def is_set(value: str | None) -> bool:
    """Tell whether a variable says yes: anything but empty, `0` or `false`."""
    return (value or "").strip().lower() not in ("", "0", "false")


def stripped(value: str | None) -> str | None:
    """Give a key or an address without the blanks around it, as the newline of a secret's file; None for nothing."""
    return (value or "").strip() or None


@lru_cache(maxsize=8)
def env_prefix(app: str) -> str:
    """Give the prefix of the app's environment variables: `ktx` reads `KTX_HOME`.

    Raises ValueError for a name that could not be a folder and a variable.
    """
    if not is_plain_name(app):
        raise ValueError(f"app must be a plain name (letters, digits, - and _), not {app!r}")
    return app.upper().replace("-", "_") + "_"
