"""When to try again: pure arithmetic. Full jitter, so that a fleet does not come back at once."""

from __future__ import annotations

import random
from typing import NamedTuple

from spool.launch.start import is_over

__all__ = ["MOST_S", "Waiting", "after_failure", "in_run_retries", "in_run_wait_s", "is_due"]

# Between two runs: a minute at first (an outage is rarely shorter), doubled with every failure in a row.
_FIRST_S = 60.0
MOST_S = 3600.0
# A server may ask for more than our cap, but not for ever.
_MOST_RETRY_AFTER_S = 24 * 3600.0


class Waiting(NamedTuple):
    """Until when nobody tries (seconds since the epoch), and how long that was when it was decided."""

    until: float
    delay_s: float


def in_run_wait_s(retry: int, retry_after_s: float | None, rng: random.Random) -> float:
    """Give the wait before retry 0, 1, 2 ... of one request: about 1, 2, 4 s; Retry-After is a minimum."""
    return max(2.0**retry * rng.uniform(0.75, 1.25), retry_after_s or 0.0)


def in_run_retries(asked: int, failures: int, *, force: bool) -> int:
    """Give how often a run may repeat a request: not at all as long as the run before it failed.

    Each run asks a host that is down once, to see whether it is back; a person who forces a run wants more.
    """
    return 0 if failures and not force else asked


def after_failure(
    failures: int, now: float, rng: random.Random, *, retry_after_s: float | None = None, slow: bool = False
) -> Waiting:
    """Decide the next attempt of all processes after `failures` runs in a row have failed.

    Full jitter over a doubling span, capped at an hour. `slow` (the destination refuses for a reason that
    only a person can fix) starts at half the cap. Retry-After is a minimum, with jitter on top, for
    everybody was told the same.
    """
    if slow:
        delay_s = rng.uniform(MOST_S / 2, MOST_S)
    else:
        delay_s = rng.uniform(0.0, min(MOST_S, _FIRST_S * 2.0 ** min(failures - 1, 10)))
    if retry_after_s is not None:
        least_s = min(retry_after_s, _MOST_RETRY_AFTER_S)
        delay_s = max(delay_s, least_s + rng.uniform(0.0, max(1.0, least_s / 10)))
    return Waiting(now + delay_s, delay_s)


def is_due(waiting: Waiting | None, now: float) -> bool:
    """Tell whether an attempt may be made."""
    return waiting is None or is_over(waiting.until, waiting.delay_s, now)
