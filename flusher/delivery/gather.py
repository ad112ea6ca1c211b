"""Batches of pending events, bounded in events and in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from flusher.context import BATCH_SIZE
from spool.queue import Row

__all__ = ["BATCH_BYTES", "batches"]

# The SDKs send at most 5 MiB; the server takes 20. An event is under 1 MB, so one more always fits.
BATCH_BYTES = 4 * 1024 * 1024


def batches(
    events: Iterable[Row],
    batch_size: int = BATCH_SIZE,
    max_bytes: int = BATCH_BYTES,
    most: int | None = None,
) -> Iterator[list[Row]]:
    """Cut the events into batches of at most `batch_size` events and `max_bytes` of text, `most` in all.

    One event over `max_bytes` makes a batch of its own. Nothing is read ahead of what is asked for.
    """
    batch: list[Row] = []
    size = 0
    for event in islice(events, most):
        if batch and (len(batch) >= batch_size or size + len(event.text) > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event.text)
    if batch:
        yield batch
