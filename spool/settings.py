"""The options of a host, frozen, and the names that follow from the app's name."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

__all__ = [
    "DEFAULT_HOST",
    "MOST_EVENT_BYTES",
    "TESTING",
    "VERSION",
    "Durability",
    "FlushMode",
    "Limits",
    "env_prefix",
]

VERSION = "0.1.0"
DEFAULT_HOST = "https://us.i.posthog.com"
# Set by the guard kit while a test runs: the home of every app, here and in child processes; mistakes raise.
TESTING = "KTX_SPOOL_TESTING"

# PostHog takes no larger event.
MOST_EVENT_BYTES = 1_000_000
_MOST = {"max_event_bytes": MOST_EVENT_BYTES}

Durability = Literal["process", "power"]
FlushMode = Literal["auto", "never"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the spool may take from a machine. Over a limit the oldest pending event goes, counted.

    `max_event_bytes` is PostHog's SDK limit of 900 KiB per event, less what the server adds.
    `lock_wait_s` bounds every wait of a capture: a quarter of a second is felt, but only just.
    """

    max_events: int = 10_000
    max_bytes: int = 64 * 1024 * 1024
    max_age_s: float = 30 * 24 * 3600.0
    max_event_bytes: int = 900_000
    lock_wait_s: float = 0.25

    def __post_init__(self) -> None:
        """Refuse limits that no queue can keep: ValueError names the field."""
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = (0, 60) if field.name == "lock_wait_s" else (1, _MOST.get(field.name, 2**53))
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise ValueError(f"Limits.{field.name} is a number from {least} to {most}, not {value!r}")


@lru_cache(maxsize=8)
def env_prefix(app: str) -> str:
    """Give the prefix of the app's environment variables: `ktx` reads `KTX_HOME`.

    Raises ValueError for a name that could not be a folder and a variable.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", app):
        raise ValueError(f"app must be a plain name (letters, digits, - and _), not {app!r}")
    return app.upper().replace("-", "_") + "_"
