"""What one run delivered: how much of which event, and how long each took to arrive."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import datetime

import msgspec

from spool.queue import Row

__all__ = ["DELAYS", "DeliveryCounts"]

# A catalogue has some thirty names; a host that makes them up must not fill the log.
_MOST_NAMES = 50
_MOST_NAME_CHARS = 64
# Upper ends of the classes of delay; what took longer is in one more.
_DELAY_LIMITS_S = (60.0, 600.0, 3600.0, 86_400.0, 7 * 86_400.0)
DELAYS = ("< 1 min", "< 10 min", "< 1 h", "< 1 day", "< 1 week", "longer")


class _Head(msgspec.Struct):
    """The fields that are counted; skipping the others costs a sixth of parsing them all."""

    event: str
    timestamp: str


_read = msgspec.json.Decoder(_Head).decode


class DeliveryCounts:
    """Counts by event name, for a bounded number of names; delays from an event's timestamp to its acknowledgement."""

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.other_events = 0
        self.delays = [0] * len(DELAYS)
        self.longest_delay_s = 0.0

    def add(self, delivered: Iterable[Row], now: float) -> None:
        """Count events that were acknowledged at `now`. A timestamp in the future counts as no delay."""
        for stored in delivered:
            try:
                head = _read(stored.text)
                happened = datetime.fromisoformat(head.timestamp).timestamp()
            except (msgspec.DecodeError, ValueError, OverflowError):  # delivered all the same: counted without its name
                self.other_events += 1
                continue
            self._count(head.event[:_MOST_NAME_CHARS])
            delay_s = max(0.0, now - happened)
            self.delays[bisect_right(_DELAY_LIMITS_S, delay_s)] += 1
            self.longest_delay_s = max(self.longest_delay_s, delay_s)

    def _count(self, name: str) -> None:
        if name in self.events or len(self.events) < _MOST_NAMES:
            self.events[name] = self.events.get(name, 0) + 1
        else:
            self.other_events += 1
