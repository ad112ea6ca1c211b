"""Deliver until the queue is empty or something says stop; settle what was acknowledged.

While a request is under way the batch before is settled and the next one is read. An event leaves the queue
only by `settle`: killed anywhere, this leaves it there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Protocol

from flusher.context import REJECTED_REASON, Context, Result
from flusher.delivery.backoff import in_run_wait_s
from flusher.delivery.gather import BATCH_BYTES, batches, text_size
from flusher.delivery.verdict import Action, Answer, Verdict, judge
from spool.queue import Queue, Row

__all__ = ["Drain"]

# How often a wait looks up whether it was told to stop.
_TICK_S = 0.05
# A server that asks for more patience than this is asked again by the next run.
_LONGEST_WAIT_S = 60.0
# A batch that goes through in such a part of its time may be twice as large the next time.
_QUICK = 0.25
# After so many rejected single events and none accepted, the destination may be at fault, not the events. It is, if it
# rejects as many others from all over the queue.
_MOST_REJECTED = 50
_OTHERS = 5


class Sends(Protocol):
    """Sends batches."""

    def send(self, batch: Sequence[Row]) -> Waits:
        """Return at once."""
        ...


class Waits(Protocol):
    """Waits for the answer to a batch."""

    @property
    def longest_s(self) -> float:
        """An answer that takes longer than this counts as none."""
        ...

    def wait(self, timeout_s: float) -> Answer | None:
        """Give the answer, or None if there is none after `timeout_s`."""
        ...


class Drain:
    """One drain of one queue over one courier.

    `most_bytes` bounds a batch: it begins with what fitted the last time, becomes less when a batch takes too long, and
    more again when one goes through quickly.
    """

    def __init__(
        self, context: Context, queue: Queue, courier: Sends, max_retries: int, most_bytes: int | None = None
    ) -> None:
        self.most_bytes = min(most_bytes or BATCH_BYTES, BATCH_BYTES)
        self._context = context
        self._max_retries = max_retries
        self._queue = queue
        self._courier = courier
        events = islice(queue.gather(), context.options.max_events)
        self._source = batches(events, text_size, context.options.batch_size)
        # Acknowledged, and not yet taken out: that happens while the next request is under way.
        self._unsettled: list[Row] = []
        # Parts of a batch that was rejected, or too large, are sent before everything else; the last one first.
        self._parts: list[list[Row]] = []
        self._ahead: list[Row] | None = None
        # The numbers of the events that this run made dead letters.
        self._rejected: set[int] = set()
        self._took_another = False

    def run(self) -> tuple[Result, str, float | None]:
        """Give how it ended: a result, its reason, and Retry-After in seconds where there was one."""
        try:
            while (batch := self._next()) is not None:
                sent, verdict = self._send(batch)
                if verdict is None:
                    return self._told_to_stop()
                if verdict.action is Action.ACKNOWLEDGE:
                    self._unsettled += sent
                elif verdict.action is Action.SPLIT:
                    if self._may_reject_everything(sent) and not self._takes_another():
                        self._put_back()
                        return Result.REFUSED, f"PostHog rejects every event: {verdict.reason}", None
                    self._split(sent, verdict.reason)
                else:
                    result = Result.UNREACHABLE if verdict.action is Action.RETRY else Result.REFUSED
                    return result, verdict.reason, verdict.retry_after_s
        finally:
            self._settle()
        if self._context.report.rejected:
            return Result.REJECTED, REJECTED_REASON, None
        return Result.DELIVERED, "", None

    def _next(self) -> list[Row] | None:
        """Give the next batch, no larger than what fits."""
        if self._parts:
            return self._fitting(self._parts.pop())
        batch, self._ahead = self._ahead or next(self._source, None), None
        return None if batch is None else self._fitting(batch)

    def _fitting(self, batch: list[Row]) -> list[Row]:
        """Give the first part of a batch, as large as fits; the rest comes next."""
        first = next(batches(batch, text_size, len(batch), self.most_bytes))
        if len(first) < len(batch):
            self._parts.append(batch[len(first) :])
        return first

    def _send(self, batch: list[Row]) -> tuple[list[Row], Verdict | None]:
        """Send a batch until there is a verdict on it, or on a part of it; give what was sent. None when told to stop.

        A batch that takes too long becomes smaller.
        """
        retry = 0
        while not self._must_stop():
            began_s = time.monotonic()
            reply = self._courier.send(batch)
            self._settle()
            if self._ahead is None:
                self._ahead = next(self._source, None)
            answer = self._wait(reply)
            if answer is None:
                if not self._context.stop.is_set():  # out of time: less of it may go through in the next run
                    self._shrink(batch)
                return batch, None
            verdict = judge(answer, datetime.now(UTC))
            if verdict.action is Action.ACKNOWLEDGE:
                self._went_through(batch, time.monotonic() - began_s)
            if verdict.smaller:
                self._shrink(batch)
            if verdict.action is not Action.RETRY or answer.stuck or retry >= self._max_retries:
                return batch, verdict
            wait_s = in_run_wait_s(retry, verdict.retry_after_s, self._context.rng)
            if wait_s > min(_LONGEST_WAIT_S, self._context.time_left_s()):
                return batch, verdict
            self._context.observer.waits(wait_s, verdict.reason)
            self._context.stop.wait(wait_s)
            retry += 1
            batch = self._fitting(batch)
        return batch, None

    def _shrink(self, batch: list[Row]) -> None:
        """Let half of this batch be the most that fits; an event by itself can't be halved."""
        if len(batch) > 1:
            self.most_bytes = min(self.most_bytes, max(1, sum(map(text_size, batch)) // 2))

    def _went_through(self, batch: list[Row], took_s: float) -> None:
        """Let twice as much fit if this was quick. A host that has answered is up: its requests may be repeated."""
        self._max_retries = self._context.options.max_retries
        if took_s < _QUICK * self._context.options.timeout_s:
            self.most_bytes = max(self.most_bytes, min(2 * sum(map(text_size, batch)), BATCH_BYTES))

    def _wait(self, reply: Waits) -> Answer | None:
        deadline = time.monotonic() + reply.longest_s
        while not self._context.stop.is_set() and self._context.time_left_s() > 0:
            answer = reply.wait(_TICK_S)
            if answer is not None:
                return answer
            if time.monotonic() > deadline:
                return Answer(error="the host answers too slowly", stuck=True, slow=True)
        return reply.wait(0)

    def _must_stop(self) -> bool:
        context = self._context
        return context.stop.is_set() or context.time_left_s() <= 0 or not context.identity.enabled

    def _told_to_stop(self) -> tuple[Result, str, float | None]:
        identity = self._context.identity
        if not identity.enabled:
            return Result.OFF, identity.decided_by, None
        return Result.TOLD_TO_STOP, "interrupted" if self._context.stop.is_set() else "out of time", None

    def _split(self, batch: list[Row], reason: str) -> None:
        """Halve a rejected batch, down to single events; a single event that is rejected becomes a dead letter."""
        if len(batch) > 1:
            middle = len(batch) // 2
            self._parts += [batch[middle:], batch[:middle]]
        else:
            self._context.report.rejected += self._queue.settle([], [(batch[0], reason)])
            self._rejected.add(batch[0].number)
            self._context.observer.settled(1)

    def _may_reject_everything(self, batch: list[Row]) -> bool:
        """Tell whether it looks as if the destination rejects every event, rather than some malformed ones.

        Without this, an address that answers 405 to everything would turn a backlog into dead letters.
        """
        accepted = self._context.report.delivered + len(self._unsettled)
        return len(batch) == 1 and accepted == 0 and len(self._rejected) >= _MOST_REJECTED and not self._took_another

    def _takes_another(self) -> bool:
        """Send some events from all over the queue, one by one, the newest first: malformed ones may stand in a row.

        False if each was rejected. What keeps one from being judged is met again by the next batch.
        """
        first, last = min(self._rejected), self._queue.account().sequence
        for part in range(_OTHERS, 0, -1):
            other = next(self._queue.gather(after=first + (last - first) * part // _OTHERS - 1), None)
            if other is None:
                continue
            sent, verdict = self._send([other])
            if verdict is None or verdict.action is not Action.SPLIT:
                self._took_another = verdict is not None and verdict.action is Action.ACKNOWLEDGE
                self._unsettled += sent if self._took_another else []
                return True
        return False

    def _put_back(self) -> None:
        """Put this run's dead letters back into the queue: they were not at fault."""
        letters = [letter for letter in self._queue.dead() if letter.number in self._rejected]
        self._context.report.rejected -= self._queue.retry_dead(letters)

    def _settle(self) -> None:
        """Take out what was acknowledged, in one transaction."""
        taken = self._unsettled
        if taken:
            context = self._context
            context.report.delivered += self._queue.settle(taken)
            self._unsettled = []  # not before: where the queue can't be had now, it can be a moment later
            context.counts.add(taken, context.clock())
            context.observer.settled(len(taken))
