"""What waits and what was rejected, event by event: find it, send it back to the queue, delete it."""

from __future__ import annotations

import contextlib
import json
import os
import uuid as uuids
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flusher.absorb import absorb
from flusher.context import no_flusher
from flusher.text import printable
from spool.beside import aside
from spool.errors import ConfigurationError, LockBusyError
from spool.event import check_stored, normalise
from spool.home import Paths, is_plain, read_bounded
from spool.queue import Queue

__all__ = ["StoredEvent", "dead", "find", "purge", "retry", "uuid_of", "waiting"]

# A flusher that only settles its last batch is soon gone; one that delivers a backlog is not waited for.
_LOCK_WAIT_S = 2.0
# Each takes four statements: a capture waits some 20 ms at most.
_RETRY_CHUNK = 200


class StoredEvent(NamedTuple):
    """One event of the spool: where it stands, its text as it would be sent, and why and when it was rejected."""

    state: str
    text: str
    reason: str = ""
    died_at: float | None = None


class Purged(NamedTuple):
    """How many events were deleted, and how many stay aside because a flusher is about to take them."""

    events: int
    left_aside: int


def uuid_of(text: str) -> str:
    """Give the uuid of an event that was checked when it was stored."""
    return str(json.loads(text)["uuid"])


def _parse_uuid(given: str) -> str:
    """Read a uuid as a person types it; ConfigurationError if it is none."""
    try:
        return str(uuids.UUID(given))
    except ValueError as error:
        raise ConfigurationError(
            f"{printable(given, 60)} is no uuid; nothing was changed: look in list and list --dead"
        ) from error


def waiting(paths: Paths, queue: Queue) -> Iterator[StoredEvent]:
    """Go through all that waits, each event once, also while a flusher moves it from aside into the queue.

    The files aside come first: an event that is on its way is seen there, or in the queue after it. One that
    holds no event is left out, as no flusher would send it. Memory does not grow with the queue.
    """
    beside: set[str] = set()
    files = aside.files(paths)
    taken = queue.absorbed_names() if files and queue.account().captured else set()
    for path in files:
        if path.name in taken or not is_plain(path):
            continue
        with contextlib.suppress(OSError, ValueError):
            text = normalise(check_stored(read_bounded(path, follow=False).decode()))
            beside.add(uuid_of(text))
            yield StoredEvent("aside", text)
    for stored in queue.gather():
        if not beside or uuid_of(stored.text) not in beside:
            yield StoredEvent("pending", stored.text)


def dead(queue: Queue) -> Iterator[StoredEvent]:
    """Go through the dead letters, oldest first."""
    for letter in queue.dead():
        yield StoredEvent("dead", letter.text, letter.reason, letter.died_at)


def find(paths: Paths, queue: Queue, given: str) -> StoredEvent:
    """Give the event with this uuid, one that waits before a dead one; ConfigurationError where there is none."""
    wanted = _parse_uuid(given)
    for source in (waiting(paths, queue), dead(queue)):
        for event in source:
            if wanted in event.text and uuid_of(event.text) == wanted:
                return event
    raise ConfigurationError(f"no event {wanted} waits here or is a dead letter: look in list and list --dead")


def retry(queue: Queue, given: Sequence[str]) -> int:
    """Put dead letters back into the queue, all of them where none is named. Gives how many.

    A uuid that is no dead letter's raises ConfigurationError, and nothing is changed.
    """
    letters = queue.dead()
    if given:
        wanted = {_parse_uuid(one) for one in given}
        letters = [letter for letter in letters if uuid_of(letter.text) in wanted]
        missing = wanted - {uuid_of(letter.text) for letter in letters}
        if missing:
            raise ConfigurationError(
                f"no dead letter is {', '.join(sorted(missing))}; nothing was changed: look in list --dead"
            )
    chunks = (letters[start : start + _RETRY_CHUNK] for start in range(0, len(letters), _RETRY_CHUNK))
    return sum(queue.retry_dead(chunk) for chunk in chunks)


def purge(paths: Paths, queue: Queue, install_id: str | None) -> Purged:
    """Delete all that waits, in the queue and aside, counted as `purged`.

    The files aside are taken into the queue first, so that each is counted once. While a flusher does that
    they are its own: they stay, and the result says how many.
    """
    if not os.path.isdir(paths.spool):
        return Purged(0, 0)
    try:
        if aside.files(paths):
            with no_flusher(paths, _LOCK_WAIT_S):
                absorb(paths, queue, install_id)
    except LockBusyError:
        return Purged(queue.purge(), len(aside.files(paths)))
    return Purged(queue.purge(), 0)
