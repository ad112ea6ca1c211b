"""Batches, bounded in number and in bytes: of events for a request, of files and lines for a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from flusher.context import BATCH_SIZE
from spool.queue import Row

__all__ = ["BATCH_BYTES", "batches", "text_size"]

# The SDKs send at most 5 MiB; the server takes 20. An event is under 1 MB, so one more always fits.
BATCH_BYTES = 4 * 1024 * 1024

_Item = TypeVar("_Item")


def batches(
    items: Iterable[_Item], size_of: Callable[[_Item], int], most: int = BATCH_SIZE, max_bytes: int = BATCH_BYTES
) -> Iterator[list[_Item]]:
    """Cut the items into batches of at most `most` items and `max_bytes` bytes, as `size_of` counts them.

    One item over `max_bytes` makes a batch of its own. No more than one item is read ahead.
    """
    batch: list[_Item] = []
    size = 0
    for item in items:
        if batch and (len(batch) >= most or size + size_of(item) > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += size_of(item)
    if batch:
        yield batch


def text_size(event: Row) -> int:
    """Give the bytes of an event's text, which is ASCII."""
    return len(event.text)
