"""Take the aside files into the queue, each once, also when killed in the middle."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from spool import aside, tally
from spool.errors import InvalidEventError
from spool.event import check_stored, normalise
from spool.files import private_folder, read_bounded
from spool.paths import Paths
from spool.queue import CHUNK, Queue

__all__ = ["absorb"]


def absorb(paths: Paths, queue: Queue) -> int:
    """Absorb every finished file; give how many events that were.

    The names go into the queue with the events, in one transaction; then the files are removed. Killed in
    between, the next run finds the names and only removes. A file that is no event is set aside in
    quarantine with its reason, and counted as lost by `invalid`. Notes of losses are counted likewise.
    """
    total = 0
    waiting = aside.files(paths)
    for start in range(0, len(waiting), CHUNK):
        total += _absorb_chunk(paths, queue, waiting[start : start + CHUNK])
    _absorb_notes(paths, queue)
    return total


def _absorb_notes(paths: Paths, queue: Queue) -> None:
    """Claim each note first, so that its process begins another, then count it once."""
    claimed = []
    for path in tally.notes(paths):
        target = path if path.name.endswith(tally.CLAIMED) else path.with_name(path.name + tally.CLAIMED)
        with contextlib.suppress(FileNotFoundError):  # renamed by its process meanwhile: next time
            os.rename(path, target)
            claimed.append(target)
    if claimed:
        queue.absorb_losses({path.name: note for path in claimed if (note := tally.parse(path.name))})
    for path in claimed:
        os.unlink(path)


def _absorb_chunk(paths: Paths, queue: Queue, chunk: list[Path]) -> int:
    events: dict[str, str] = {}
    refused: dict[Path, str] = {}
    for path in chunk:
        try:
            events[path.name] = normalise(check_stored(read_bounded(path).decode()))
        except FileNotFoundError:
            continue  # purged meanwhile
        except (InvalidEventError, OSError, ValueError) as error:
            refused[path] = str(error)
    taken = queue.absorb(events, refused=[path.name for path in refused])
    for path, reason in refused.items():
        _set_aside(paths, path, reason)
    for name in events:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(paths.aside / name)
    return taken


def _set_aside(paths: Paths, path: Path, reason: str) -> None:
    private_folder(paths.quarantine)
    target = paths.quarantine / path.name
    os.replace(path, target)
    target.with_suffix(".reason").write_text(reason + "\n")
