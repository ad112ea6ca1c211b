"""`flush.json`: last attempt, last result, failures in a row, next attempt. Shared by all processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from flusher.delivery.backoff import Waiting
from flusher.delivery.expiry import FailedRun
from spool.home import Paths, read_state, write_state

__all__ = ["FlushState", "load", "store"]


_LATEST = 4e9
# More than are ever noted.
_MOST_RUNS = 50


@dataclass(frozen=True, slots=True)
class FlushState:
    """What the last runs left for the next. Times are seconds since the epoch.

    `next_attempt` None: nothing keeps a flusher from trying. `batch_bytes` is what fits into one request on a slow
    uplink; None where that was never too much. `failed_runs` are those since the last success, at least a day apart.
    """

    last_attempt: float | None = None
    last_success: float | None = None
    last_result: str = ""
    reason: str = ""
    failures: int = 0
    next_attempt: float | None = None
    delay_s: float = 0.0
    batch_bytes: int | None = None
    failed_runs: tuple[FailedRun, ...] = ()

    @property
    def waiting(self) -> Waiting | None:
        """The stored wait, if there is one."""
        return None if self.next_attempt is None else Waiting(self.next_attempt, self.delay_s)


def load(paths: Paths) -> FlushState:
    """Read the state. A missing or broken file gives an empty one: the next attempt may start, and writes it anew."""
    fields = read_state(paths.flush_state) or {}
    try:
        return FlushState(
            last_attempt=_number(fields.get("last_attempt")),
            last_success=_number(fields.get("last_success")),
            last_result=str(fields.get("last_result", "")),
            reason=str(fields.get("reason", "")),
            failures=max(0, int(fields.get("failures", 0))),
            next_attempt=_number(fields.get("next_attempt")),
            delay_s=_number(fields.get("delay_s")) or 0.0,
            batch_bytes=int(_number(fields.get("batch_bytes")) or 0) or None,
            failed_runs=_failed_runs(fields.get("failed_runs")),
        )
    except (ValueError, TypeError, OverflowError):
        return FlushState()


def _number(value: Any) -> float | None:
    """Take a number that can be a moment or a wait: from 1970 to the year 2096."""
    return float(value) if isinstance(value, int | float) and 0 <= value < _LATEST else None


def _failed_runs(value: Any) -> tuple[FailedRun, ...]:
    """Take the runs that read; others are as if they had never been, and so nothing expires by them."""
    found = []
    for item in value if isinstance(value, list) else []:
        match item:
            case [at, int(last_number), str(boot), uptime_s] if (
                _number(at) is not None and _number(uptime_s) is not None
            ):
                found.append(FailedRun(float(at), last_number, boot, float(uptime_s)))
    return tuple(found[-_MOST_RUNS:])


def store(paths: Paths, state: FlushState) -> None:
    """Replace the file in one step. Raises OSError."""
    write_state(paths, paths.flush_state, json.dumps(asdict(state), indent=2).encode() + b"\n")
