"""Events as NDJSON, for machines that never see the network: one line each, as it would be sent."""

from __future__ import annotations

import sqlite3
import uuid as uuids
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import BinaryIO

from flusher.context import no_flusher
from flusher.delivery.gather import batches
from flusher.events import dead, uuid_of, waiting
from flusher.text import printable
from spool.consent import Consent
from spool.errors import ConsentChangedError, LockBusyError, UnavailableError
from spool.event import check_stored, normalise
from spool.home import Paths, private_folder
from spool.queue import CHUNK, Queue

__all__ = ["export_events", "import_events"]

# Twice the largest event: a longer line is none.
_MAX_LINE_BYTES = 2_000_000
_LOCK_WAIT_S = 10.0
# A telemetry.json that changes at every look is nobody's decision.
_MOST_LOOKS = 3


def export_events(paths: Paths, queue: Queue, file: BinaryIO) -> int:
    """Write what waits, but no dead letters; nothing is removed. Gives how many events that were."""
    count = 0
    for event in waiting(paths, queue):
        file.write(event.text.encode("ascii") + b"\n")
        count += 1
    file.flush()
    return count


@dataclass(slots=True)
class Import:
    """What an import did: new events, events that were here already, lines that are no event. `off`: which rule."""

    imported: int = 0
    known: int = 0
    refused: int = 0
    off: str = ""


def import_events(
    paths: Paths,
    queue: Queue,
    file: BinaryIO,
    *,
    refuse: Callable[[int, str], None],
    ask: Callable[[], Consent],
) -> Import:
    """Add the events of an NDJSON file that are not in this spool yet: waiting, aside or dead.

    A line that is no event goes to `refuse` with its number and the reason; all others are imported, some hundred in
    one transaction, each under the consent that `ask` gives then; an import ends where that is no. Memory does not grow
    with the file. An interrupted import may be repeated. LockBusyError while a flusher or another import is at work; no
    flusher delivers meanwhile.
    """
    result = Import()
    private_folder(paths.spool)
    try:
        with no_flusher(paths, _LOCK_WAIT_S), closing(_Seen(paths, queue)) as seen:
            events = _events(file, seen, result, refuse, queue.limits.max_event_bytes)
            for chunk in batches(events, len, CHUNK):
                result.imported += _append(queue, chunk, ask, result)
                if result.off:
                    break
    except LockBusyError as error:
        raise LockBusyError("a flusher is at work, import again when it has ended") from error
    return result


def _append(queue: Queue, chunk: list[str], ask: Callable[[], Consent], result: Import) -> int:
    for _ in range(_MOST_LOOKS):
        now = ask()
        if not now.identity.enabled:
            result.off = now.identity.decided_by
            return 0
        queue.consent = now.signature
        with suppress(ConsentChangedError):  # ask again: it may be on all the same
            return queue.append_all(chunk)
    raise UnavailableError("telemetry.json changes all the time: import again later")


class _Seen:
    """The uuids of this spool and of the file so far, in a temporary SQLite database that goes to disk as it grows."""

    def __init__(self, paths: Paths, queue: Queue) -> None:
        # An empty name: a private file that SQLite deletes, with a cache of some 2 MB before it.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("create table seen (uuid blob primary key) without rowid")
        self._database.execute("begin")
        for source in (waiting(paths, queue), dead(queue)):
            for event in source:
                self.add(uuid_of(event.text))

    def add(self, uuid: str) -> bool:
        """Note a uuid; True if it is new."""
        known = self._database.execute("insert or ignore into seen values (?)", (uuids.UUID(uuid).bytes,))
        return known.rowcount == 1

    def close(self) -> None:
        """Forget them."""
        self._database.close()


def _events(
    file: BinaryIO, seen: _Seen, result: Import, refuse: Callable[[int, str], None], max_bytes: int
) -> Iterator[str]:
    for number, line in _lines(file):
        try:
            text = _event(line, max_bytes)
            new = seen.add(uuid_of(text))
        except (ValueError, RecursionError) as error:
            result.refused += 1
            refuse(number, printable(str(error)))
            continue
        if new:
            yield text
        else:
            result.known += 1


def _event(line: bytes, max_bytes: int) -> str:
    """Read one line; ValueError for what is no event, which an InvalidEventError is."""
    if len(line) > _MAX_LINE_BYTES:
        raise ValueError(f"longer than {_MAX_LINE_BYTES} bytes")
    text = normalise(check_stored(line.decode()))
    if len(text) > max_bytes:
        raise ValueError(f"{len(text)} bytes, and {max_bytes} are the limit")
    return text


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Give the lines that are not blank, with their numbers; of a line that is too long only its beginning."""
    number = 0
    while line := file.readline(_MAX_LINE_BYTES + 1):
        number += 1
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(_MAX_LINE_BYTES)):
            pass
        if line.strip():
            yield number, line
