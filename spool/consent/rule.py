"""The consent rule: one pure function. Off always wins, and a file that can't be read means off."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from spool.settings import env_prefix, is_set

__all__ = ["FileState", "HomeState", "decide", "opted_out_by"]


class HomeState(enum.Enum):
    """Whether this process may use the home."""

    USABLE = "usable"
    UNUSABLE = "unusable"
    FOREIGN = "foreign"


class FileState(enum.Enum):
    """What `telemetry.json` says."""

    ABSENT = "absent"
    ENABLED = "enabled"
    DISABLED = "disabled"
    UNREADABLE = "unreadable"


class Decision(NamedTuple):
    """Whether telemetry is on, and the one rule that decided."""

    enabled: bool
    decided_by: str


def opted_out_by(app: str, env: Mapping[str, str]) -> str | None:
    """Name the variable that switches this process off, if one does."""
    variables = (env_prefix(app) + "TELEMETRY_DISABLED", "DO_NOT_TRACK", "CI")
    return next((name for name in variables if is_set(env.get(name))), None)


def decide(app: str, env: Mapping[str, str], home: HomeState, file: FileState) -> Decision:
    """Decide, by the first rule that applies: environment, home, file, first run."""
    variable = opted_out_by(app, env)
    if variable is not None:
        return Decision(False, variable)
    if home is HomeState.UNUSABLE:
        return Decision(False, "home not usable")
    if home is HomeState.FOREIGN:
        return Decision(False, "home belongs to another user")
    if file is FileState.UNREADABLE:
        return Decision(False, "unreadable telemetry.json")
    if file is FileState.ABSENT:
        return Decision(True, "first run")
    return Decision(file is FileState.ENABLED, "telemetry.json")
