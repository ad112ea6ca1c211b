"""The consent rule: one pure function. Whoever asks whether telemetry is on asks here.

Off always wins, and what can't be read means off.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from spool.settings import env_prefix

__all__ = ["Decision", "File", "Home", "decide", "is_set", "off_variables", "opted_out_by"]


class Home(enum.Enum):
    """What the home is to this process."""

    USABLE = "usable"
    UNUSABLE = "unusable"
    FOREIGN = "foreign"


class File(enum.Enum):
    """What `telemetry.json` says."""

    ABSENT = "absent"
    ENABLED = "enabled"
    DISABLED = "disabled"
    UNREADABLE = "unreadable"


class Decision(NamedTuple):
    """Whether telemetry is on, and the one rule that decided."""

    enabled: bool
    decided_by: str


def is_set(value: str | None) -> bool:
    """Tell whether a variable says yes: anything but empty, `0` or `false`."""
    return (value or "").strip().lower() not in ("", "0", "false")


def off_variables(app: str) -> tuple[str, str, str]:
    """Name the variables of which each may switch telemetry off."""
    return env_prefix(app) + "TELEMETRY_DISABLED", "DO_NOT_TRACK", "CI"


def opted_out_by(app: str, env: Mapping[str, str]) -> str | None:
    """Name the variable that switches this process off, if one does."""
    return next((name for name in off_variables(app) if is_set(env.get(name))), None)


def decide(app: str, env: Mapping[str, str], home: Home, file: File) -> Decision:
    """Decide, by the first rule that applies: environment, home, file, first run."""
    variable = opted_out_by(app, env)
    if variable is not None:
        return Decision(False, variable)
    if home is Home.UNUSABLE:
        return Decision(False, "home not usable")
    if home is Home.FOREIGN:
        return Decision(False, "home belongs to another user")
    if file is File.UNREADABLE:
        return Decision(False, "unreadable telemetry.json")
    if file is File.ABSENT:
        return Decision(True, "first run")
    return Decision(file is File.ENABLED, "telemetry.json")
