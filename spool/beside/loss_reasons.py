"""Why events were lost lately: the last reasons, for whoever asks `status` or `doctor`. The counts stand elsewhere.

A line of JSON for each, in `losses.log`: when (RFC 3339, UTC), event, cause, reason. Nothing is locked: of two
processes that shorten the file at once, one may drop the other's line. A reason may name what a person has there (a
path, a field), so it never leaves the machine, and an opt-out deletes the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from spool.consent import consent
from spool.errors import SpoolError
from spool.home import Paths, Quarantine, open_own, private_folder, read_bounded, write_atomic

__all__ = ["LossReason", "note", "read", "reason_of"]

# Enough to see what is wrong; a fault that makes more of them makes them alike.
MOST = 20
_LONGEST_EVENT, _LONGEST_REASON = 200, 500
# Some 40 of the longest lines, or 200 of the usual ones, before the file is shortened.
_MOST_BYTES = 32 * 1024


class LossReason(NamedTuple):
    """Why one event was lost. `at` is RFC 3339 in UTC; `event` is its name, or what is known of it."""

    at: str
    event: str
    cause: str
    reason: str


def reason_of(event: object, cause: str, reason: str) -> LossReason:
    """Put a reason together, as of now, each part within its bounds."""
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return LossReason(at, str(event)[:_LONGEST_EVENT], cause, " ".join(reason.split())[:_LONGEST_REASON])


def note(app: str, paths: Paths, reasons: Iterable[LossReason]) -> None:
    """Add reasons to the file, if telemetry is on. Raises OSError or UnsafePathError.

    Consent is read again after the file is written, so that an opt-out meanwhile leaves no file.
    """
    if not consent(app, paths, os.environ).identity.enabled:
        return
    lines = "".join(json.dumps(reason._asdict()) + "\n" for reason in list(reasons)[-MOST:]).encode()
    private_folder(paths.spool)
    Quarantine(paths).clear(paths.losses_log, "file")
    descriptor = open_own(paths.losses_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, lines)
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    if size > _MOST_BYTES:
        write_atomic(paths.losses_log, "".join(json.dumps(one._asdict()) + "\n" for one in read(paths)).encode())
    if not consent(app, paths, os.environ).identity.enabled:
        with suppress(FileNotFoundError):
            os.unlink(paths.losses_log)


def read(paths: Paths) -> list[LossReason]:
    """Give the last reasons, oldest first. A line that doesn't read is left out; a file that doesn't gives none."""
    try:
        lines = read_bounded(paths.losses_log, 4 * _MOST_BYTES, follow=False).splitlines()
    except (OSError, SpoolError):
        return []
    found: list[LossReason] = []
    for line in lines:
        with suppress(ValueError, TypeError, RecursionError):
            reason = LossReason(**json.loads(line))
            if all(isinstance(part, str) for part in reason):
                found.append(reason)
    return found[-MOST:]
