"""One home's spool as this process has it open."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spool.beside import LossNotes, aside, make_way
from spool.errors import UnavailableError, UnsafePathError
from spool.home import Paths, Signature, is_network, is_odd
from spool.launch import start
from spool.settings import Durability, Limits

if TYPE_CHECKING:
    from spool.beside.spans import OpenSpan
    from spool.queue import Queue

__all__ = ["OpenHome"]

# Listing a folder of 10,000 files takes some 5 ms: not at every capture that goes aside.
_LOOK_EVERY = 64


class OpenHome:
    """The queue of a home, and the notes of what was lost. On a network home the queue is the flusher's alone."""

    def __init__(self, paths: Paths, limits: Limits, durability: Durability, losses: LossNotes) -> None:
        self.paths = paths
        self.losses = losses
        self._queues: list[Queue] = []  # the one, once it is loaded
        self.on_network = is_network(paths.spool)
        self._limits = limits
        self._durability: Durability = durability
        self._went_aside = 0
        # A child that started a flusher and did not end at once: reaped at the next launch.
        self._child: int | None = None

    @property
    def queue(self) -> Queue:
        """The queue, with diskcache, filelock and sqlite3. UnavailableError where they can't be loaded."""
        if not self._queues:
            try:
                from spool.queue import Queue  # noqa: PLC0415 - a Python without sqlite3 puts events aside
            except Exception as error:
                raise UnavailableError(f"the queue can't be loaded: {type(error).__name__}: {error}") from error
            self._queues.append(Queue(self.paths, self._limits, self._durability))
        return self._queues[0]  # another thread may have been faster

    def put_aside(self, uuid: str, text: str) -> Path:
        """Write an event's file beside the queue, and give it. Raises SpoolError where not even that is possible."""
        try:
            path = aside.put(self.paths, uuid, text, self._durability)
        except UnsafePathError:
            make_way(self.paths)
            path = aside.put(self.paths, uuid, text, self._durability)
        self._went_aside += 1
        if self._went_aside % _LOOK_EVERY == 1:  # where no flusher can ever absorb them, the oldest go, each counted
            for oldest in aside.oldest_beyond(self.paths, self._limits.max_events):
                self.losses.replace(oldest)
        return path

    def open_span(self, message: Mapping[str, Any]) -> OpenSpan:
        """Write the event of a command in case it is killed. UnavailableError where that can't be done."""
        from spool.beside.spans import OpenSpan  # noqa: PLC0415 - for hosts that have commands

        if is_odd(self.paths.spans, "folder"):
            make_way(self.paths)
        return OpenSpan(self.paths, message["uuid"], message, durable=self._durability == "power")

    def count_lost(self, cause: str) -> None:
        """Count one event that was captured and lost: in the ledger, or in a note for the flusher."""
        if not self.on_network:
            with suppress(Exception):  # whatever keeps it from the queue, the note says the same
                self.queue.count_lost(cause)
                return
        self.losses.add(cause)

    def recover(self, consent: Signature | None) -> None:
        """Turn some dead commands into their events, as a flusher does with all; a failure is left to that.

        Under the consent that has this signature, as all that the queue adds by itself.
        """
        if not self.on_network:
            with suppress(Exception):  # whatever others left there, the host's own event comes next
                from spool.beside.spans import recover_some  # noqa: PLC0415 - with the queue

                self.queue.consent = consent
                recover_some(self.paths, self.queue)

    def launch(self, app: str, interval_s: float, reap_s: float) -> None:
        """Start a detached flusher if one is due; reap a child of an earlier launch first."""
        if self._child is not None and not start.reaped(self._child):
            return
        self._child = start.launch_if_due(app, self.paths, interval_s, reap_s)

    def close(self) -> None:
        """Note the losses that are still in memory, and close the queue."""
        self.losses.retry()
        for queue in self._queues:
            queue.close()

    def disconnect(self) -> None:
        """Close the queue where that takes no waiting. What comes after opens it again."""
        for queue in self._queues:
            queue.close(wait_s=0.0)
