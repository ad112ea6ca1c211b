"""What one run delivered: how much of which event, and how long each took to arrive."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from spool.transaction import Stored

__all__ = ["DELAYS", "DELAY_LIMITS_S", "Tally"]

# A catalogue has some thirty names; a host that makes them up must not fill the log.
_MOST_NAMES = 50
_MOST_NAME_CHARS = 64
# Upper ends of the classes of delay; what took longer is in one more.
DELAY_LIMITS_S = (60.0, 600.0, 3600.0, 86_400.0, 7 * 86_400.0)
DELAYS = ("< 1 min", "< 10 min", "< 1 h", "< 1 day", "< 1 week", "longer")


class Tally:
    """Counts by event name, the names bounded; delays from an event's timestamp to its acknowledgement."""

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.other_events = 0
        self.delays = [0] * len(DELAYS)
        self.longest_delay_s = 0.0

    def add(self, delivered: Iterable[Stored], now: float) -> None:
        """Count events that were acknowledged at `now`. An event of the future took no time."""
        for stored in delivered:
            message = json.loads(stored.text)
            self._count(message["event"][:_MOST_NAME_CHARS])
            happened = datetime.fromisoformat(message["timestamp"])
            delay_s = max(0.0, (datetime.fromtimestamp(now, UTC) - happened).total_seconds())
            self.delays[sum(delay_s >= limit_s for limit_s in DELAY_LIMITS_S)] += 1
            self.longest_delay_s = max(self.longest_delay_s, delay_s)

    def _count(self, name: str) -> None:
        if name in self.events or len(self.events) < _MOST_NAMES:
            self.events[name] = self.events.get(name, 0) + 1
        else:
            self.other_events += 1
