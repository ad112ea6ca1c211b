"""Losses travel too: an event that says how many were lost since the last one, and why."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from spool.consent.identity import Identity
from spool.event.build import compose, envelope, freeze
from spool.event.host_facts import host_facts
from spool.queue.queue import Queue
from spool.settings import VERSION, Limits

__all__ = ["report_losses"]


def report_losses(queue: Queue, identity: Identity, now: float) -> bool:
    """Append a `spool_loss` event with the counts by cause, if anything was lost since the last one."""

    def loss_event(losses: dict[str, int]) -> str:
        message = compose(
            "spool_loss",
            {"lostCount": sum(losses.values()), "lostByCause": losses},
            {**host_facts(VERSION, os.environ), **envelope(None, geoip_disable=True)},
            distinct_id=identity.install_id or "unknown",
            timestamp=datetime.fromtimestamp(now, UTC),
            uuid=None,
        )
        return freeze(message, Limits().max_event_bytes).text

    return queue.report_losses(loss_event)
