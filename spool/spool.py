"""One home's spool as a host sees it: the queue, the side door, and a tally of what was lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from spool.command.span_file import recover
from spool.errors import OptedOutError, SpoolError, UnavailableError
from spool.event.build import Event
from spool.fallback import aside
from spool.fallback.loss_notes import Tally
from spool.fallback.mounts import is_network
from spool.home.paths import Paths
from spool.queue.queue import Queue
from spool.settings import Durability, Limits

__all__ = ["Spool"]

# Listing a folder of 10,000 files takes some 5 ms: not at every capture that goes aside.
_LOOK_EVERY = 64


class Spool:
    """What a Telemetry puts events into. On a network file system the queue is the flusher's alone."""

    def __init__(self, paths: Paths, limits: Limits, durability: Durability) -> None:
        self.paths = paths
        self.tally = Tally(paths)
        self._limits = limits
        self._durability: Durability = durability
        self._queue = Queue(paths, limits, durability)
        self._put = 0
        self._network = is_network(paths.spool)

    def put(self, event: Event, guard: Callable[[], None], closes: str | None = None) -> str | None:
        """Put an event on disk: None when it is in the queue, the reason when it had to go aside.

        `guard` is called at the last moment before the event is written. Raises OptedOutError from it, and
        SpoolError where not even a file aside could be written: the loss is noted.
        """
        self.tally.retry()
        try:
            if self._network:
                raise UnavailableError("the home is on a network file system")
            self._queue.append(event.text, guard, closes)
        except OptedOutError:
            raise
        except Exception as refusal:  # noqa: BLE001 - whatever keeps it from the queue, aside is next
            guard()
            self._put_aside(event, refusal)
            return str(refusal)
        return None

    def _put_aside(self, event: Event, refusal: Exception) -> None:
        try:
            aside.put(self.paths, event.uuid, event.text, self._durability)
        except SpoolError as second:
            self.tally.add(second.cause)
            raise UnavailableError(f"{refusal}; {second}") from second
        self._put += 1
        if self._put % _LOOK_EVERY == 1:
            self._keep_within()

    def _keep_within(self) -> None:
        """Drop the oldest files aside over the limit, each counted: where no flusher can ever absorb them."""
        waiting = aside.files(self.paths)
        for oldest in waiting[: max(0, len(waiting) - self._limits.max_events)]:
            self.tally.replace(oldest, "over_count")

    def recover(self) -> None:
        """Turn the spans of dead processes into their events, as a flusher would; not at any price."""
        if not self._network:
            with suppress(OSError, SpoolError):  # the next run of host or flusher tries again
                recover(self.paths, self._queue)

    def count_lost(self, cause: str) -> None:
        """Count one event that was captured and lost: in the ledger, or in a note for the flusher."""
        try:
            if not self._network:
                self._queue.count_lost(cause)
                return
        except SpoolError:
            pass  # the queue can't be had now: the note says the same
        self.tally.add(cause)

    def close(self) -> None:
        """Note what is still unsaid and close the queue."""
        self.tally.retry()
        self._queue.close()
