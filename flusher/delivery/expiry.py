"""Which events have waited too long: pure decisions that a wrong clock can't turn into a loss.

An event goes when two runs found it too old that were a day apart, and neither could deliver it. What the first of them
found is not stored for each event: it is worked out from its moment and the last number that there was.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from spool.queue import Row

__all__ = [
    "FailedRun",
    "age_s",
    "apart_s",
    "earliest",
    "elapsed_s",
    "is_too_old",
    "noted",
    "plausible",
    "uptime",
]

_DAY_S = 24 * 3600.0
# PostHog's first year: no event of ours is older, and clocks that lost their time begin before.
_FIRST_YEAR = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
# Of a maximal age, so that few runs are noted however high it is.
_MOST_NOTED = 32


class FailedRun(NamedTuple):
    """A run that could not deliver: when it was, and the last number that was given by then.

    `boot` and `uptime_s` are those of the machine, where it tells them.
    """

    at: float
    last_number: int
    boot: str = ""
    uptime_s: float = 0.0


def uptime() -> tuple[str, float]:
    """Give this boot's id, and the seconds since it, asleep or not; nobody can set that clock. Linux only."""
    if sys.platform == "linux":
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip(), time.clock_gettime(time.CLOCK_BOOTTIME)
        except (OSError, ValueError):
            pass  # no /proc here
    return "", 0.0


def elapsed_s(before: FailedRun, now: FailedRun) -> float:
    """Give the time between two runs; within one boot, what the clock and the uptime agree on."""
    by_clock_s, by_uptime_s = now.at - before.at, now.uptime_s - before.uptime_s
    if now.boot and now.boot == before.boot and by_uptime_s >= 0:  # it goes back only where somebody makes it up
        return min(by_clock_s, by_uptime_s)
    return by_clock_s


def apart_s(max_age_s: float) -> float:
    """Give how far apart two runs are of which the second may drop what both found too old."""
    return max(_DAY_S, max_age_s / _MOST_NOTED)


def earliest(created_at: str, now: float) -> float:
    """Give the first moment at which an event can have been stored: that of the install, if that can be true."""
    try:
        created = datetime.fromisoformat(created_at).timestamp()
    except (ValueError, OverflowError):
        return _FIRST_YEAR
    return created if _FIRST_YEAR < created <= now else _FIRST_YEAR


def age_s(stored_at: float, earliest: float, now: float) -> float:
    """Give how long an event has waited: since the install, where it was stored by a clock that was not set."""
    return max(0.0, now - (stored_at if stored_at >= _FIRST_YEAR else earliest))


def plausible(runs: Sequence[FailedRun], now: float, earliest: float) -> list[FailedRun]:
    """Give the noted runs that can be true: none is before the install, none ahead of now."""
    return [run for run in runs if earliest <= run.at <= now]


def noted(runs: Sequence[FailedRun], max_age_s: float) -> tuple[FailedRun, ...]:
    """Give the runs that are still needed: all within the age, and the one before."""
    needed_from = runs[-1].at - max_age_s - apart_s(max_age_s)
    older = [run for run in runs if run.at < needed_from]
    return (*older[-1:], *(run for run in runs if run.at >= needed_from))


def is_too_old(row: Row, runs: Sequence[FailedRun], now: float, max_age_s: float, earliest: float) -> bool:
    """Tell whether an event is too old now, and was so at the last of these runs, which saw it.

    One that was stored at a time that can't be counts from the first run that saw it.
    """
    if row.number > runs[-1].last_number:
        return False
    since = row.stored_at
    if not earliest <= since <= now:
        since = next(run.at for run in runs if run.last_number >= row.number)
    return min(now, runs[-1].at) - since > max_age_s
