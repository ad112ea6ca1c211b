"""One thing that doctor looked at: its state, what was found, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Finding", "State", "exit_code"]

State = Literal["ok", "warn", "fail"]

# What only the other end, or the network, can mend: events wait meanwhile.
_DESTINATION = {"server", "delivery", "flusher"}
_CONFIGURATION, _UNREACHABLE = 2, 75


@dataclass(frozen=True, slots=True)
class Finding:
    """`mend` is a sentence that names the action; only what is well has none."""

    name: str
    state: State
    what: str
    mend: str | None = None

    def as_json(self) -> dict[str, object]:
        """Give it for a program to read."""
        return asdict(self)


def exit_code(findings: Iterable[Finding]) -> int:
    """Give 0 where nothing fails, 75 where only the destination does, else 2."""
    failed = {finding.name for finding in findings if finding.state == "fail"}
    if not failed:
        return 0
    return _UNREACHABLE if failed <= _DESTINATION else _CONFIGURATION
