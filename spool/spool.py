"""One home's spool as a host sees it: the queue where that can be had, and a tally of what was lost."""

from __future__ import annotations

from spool.errors import SpoolError, UnavailableError
from spool.mounts import is_network
from spool.paths import Paths
from spool.queue import Queue
from spool.settings import Durability, Limits
from spool.tally import Tally

__all__ = ["Spool"]


class Spool:
    """What a Telemetry appends to. On a network file system the queue is the flusher's alone."""

    def __init__(self, paths: Paths, limits: Limits, durability: Durability) -> None:
        self.paths = paths
        self.tally = Tally(paths)
        self._queue = Queue(paths, limits, durability)
        self._network = is_network(paths.spool)

    def append(self, text: str) -> None:
        """Put an event into the queue; UnavailableError where it has to go aside."""
        if self._network:
            raise UnavailableError("the home is on a network file system")
        self._queue.append(text)

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
