"""`flush.log`: a line of JSON for each run, enough to explain yesterday. The oldest lines go first.

A line holds counts, names of events and why a run ended, and nothing else of an event. Nothing relies on it: a line
that can't be written is left out, and one that can't be parsed is skipped.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from flusher.context import Context, no_flusher
from flusher.counts import DELAYS
from spool.errors import SpoolError
from spool.home import Paths, Quarantine, open_own, private_folder, read_bounded, write_atomic
from spool.settings import VERSION

__all__ = ["MOST_BYTES", "LoggedRun", "append", "logged_runs", "record"]

# Some thousand lines: ten days of a run every quarter of an hour. Cut down to the newer half.
MOST_BYTES = 512 * 1024
_LARGEST = 2**53


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """One run. `losses` are those of the whole install, by cause, as they stood at its end.

    `sent` counts by event name; `other_sent` are of names beyond the first fifty. `delays` counts by
    `flusher.counts.DELAYS`. `started_by` is "host", "waiting host", "person" or "script".
    """

    started_at: str = ""
    seconds: float = 0.0
    started_by: str = ""
    result: str = ""
    reason: str = ""
    exit_code: int = 0
    delivered: int = 0
    rejected: int = 0
    remaining: int = 0
    recovered_spans: int = 0
    absorbed: int = 0
    expired: int = 0
    requests: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    next_attempt: str | None = None
    set_aside: str = ""
    sent: dict[str, int] = field(default_factory=dict)
    other_sent: int = 0
    delays: list[int] = field(default_factory=lambda: [0] * len(DELAYS))
    longest_delay_s: float = 0.0
    version: str = VERSION

    @property
    def ended(self) -> datetime:
        """When the run ended."""
        return datetime.fromisoformat(self.started_at).astimezone(UTC) + timedelta(seconds=self.seconds)


def record(context: Context) -> None:
    """Add the line of a run that ends, unless it was off, a dry run, or found no spool. Never raises."""
    paths = context.paths
    if context.options.dry_run or not os.path.isdir(paths.spool) or not context.identity.enabled:
        return
    append(paths, _logged(context))
    now = context.identity
    if not now.enabled and now.decided_by == "telemetry.json":  # an opt-out whose wipe may have missed the line
        with suppress(OSError, SpoolError):
            private_folder(paths.spool)
            os.unlink(paths.flush_log)


def _logged(context: Context) -> LoggedRun:
    report = context.report
    began_at = datetime.fromtimestamp(max(0.0, context.clock() - report.seconds), UTC)
    return LoggedRun(
        started_at=began_at.isoformat(timespec="milliseconds"),
        started_by=context.started_by,
        exit_code=report.result.exit_code,
        losses=context.account.losses,
        sent=context.counts.events,
        other_sent=context.counts.other_events,
        delays=context.counts.delays,
        longest_delay_s=round(context.counts.longest_delay_s, 3),
        **report.as_json(),
    )


def append(paths: Paths, run: LoggedRun) -> None:
    """Add a line, in one call. A log over the limit is cut, unless another flusher is at work. Never raises."""
    with suppress(OSError, SpoolError):
        private_folder(paths.spool)  # a link, or a folder of somebody else: nothing is written there
        Quarantine(paths).clear(paths.flush_log, "file")
        if _write(paths, json.dumps(asdict(run), separators=(",", ":"))) > MOST_BYTES:
            with no_flusher(paths, 0.0):
                _cut(paths)


def _write(paths: Paths, line: str) -> int:
    """Add the line and give the size of the log. A partial line, which a full disk left, is ended first."""
    descriptor = open_own(paths.flush_log, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size:
            os.lseek(descriptor, size - 1, os.SEEK_SET)
        whole = size == 0 or os.read(descriptor, 1) == b"\n"
        return size + os.write(descriptor, ("" if whole else "\n").encode() + line.encode("ascii") + b"\n")
    finally:
        os.close(descriptor)


def _cut(paths: Paths) -> None:
    """Keep the whole lines of the newer half."""
    descriptor = open_own(paths.flush_log, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(-MOST_BYTES // 2, os.SEEK_END)
        newer = file.read(MOST_BYTES // 2)
    write_atomic(paths.flush_log, newer[newer.find(b"\n") + 1 :])


def logged_runs(paths: Paths) -> list[LoggedRun]:
    """Give the runs of the log, oldest first: all that can be parsed."""
    try:
        lines = read_bounded(paths.flush_log, 4 * MOST_BYTES, follow=False).splitlines()
    except OSError:
        return []
    found = (_parse(line) for line in lines)
    return [run for run in found if run is not None]


def _parse(line: bytes) -> LoggedRun | None:
    """Read a line; None if it is none of ours. What an older version didn't write has its default."""
    try:
        fields: Any = json.loads(line)
        run = LoggedRun(**{name: fields[name] for name in LoggedRun.__slots__ if name in fields})
        sound = all(_fits(getattr(run, name), getattr(LoggedRun(), name)) for name in LoggedRun.__slots__)
        return run if sound and run.ended and len(run.delays) == len(DELAYS) else None
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def _fits(value: Any, sample: Any) -> bool:
    """Tell whether a value is of the kind of a field's default; numbers are finite and not negative."""
    if sample is None:
        return value is None or isinstance(value, str)
    if isinstance(sample, dict):
        return isinstance(value, dict) and all(_fits(count, 0) for count in value.values())
    if isinstance(sample, list):
        return isinstance(value, list) and all(_fits(count, 0) for count in value)
    if isinstance(sample, str):
        return isinstance(value, str)
    wanted = int | float if isinstance(sample, float) else int
    return isinstance(value, wanted) and not isinstance(value, bool) and 0 <= value < _LARGEST
