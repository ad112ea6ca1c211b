"""Every error that the spool raises, in one tree.

`Telemetry.capture` turns them into a receipt; only in strict mode it raises InvalidEventError. The flusher turns them
into one line on stderr and an exit code.
"""

from __future__ import annotations


class SpoolError(Exception):
    """The root. `cause` is the short name under which a loss by this error is counted."""

    cause = "internal"


class InvalidEventError(SpoolError, ValueError):
    """A programming mistake: the event is no event, or not the one that the catalogue describes.

    The event is lost and counted as `invalid`. The author of the host mends the call.
    """

    cause = "invalid"


class EventTooLargeError(InvalidEventError):
    """The encoded event is over `Limits.max_event_bytes`. It is lost and counted as `too_large`."""

    cause = "too_large"


class UnavailableError(SpoolError):
    """The queue can't be had now, for a reason of the machine. The event goes aside; nothing is lost."""

    cause = "unavailable"


class LockBusyError(UnavailableError):
    """Another process or thread held the lock until the deadline. The event goes aside."""

    cause = "lock_busy"


class LockUnsupportedError(UnavailableError):
    """This file system has no flock. The event goes aside, one file each, which needs no lock."""

    cause = "no_flock"


class UnsafePathError(UnavailableError):
    """A link, another kind of file, or another user's file, where the spool keeps its own. It is not followed or used.

    Inside `spool/` it is moved to quarantine, at the latest by the next run of the flusher. Where `spool/` itself is
    such a thing, nothing is stored until the user removes it or gets the folder back.
    """

    cause = "unsafe_path"


class QueueDamagedError(SpoolError):
    """The queue's file is not, or no longer, a queue of ours. It moves to quarantine, whole."""

    cause = "damaged"


class DiskFullError(UnavailableError):
    """No space in the queue for one more event. It goes aside.

    Without space for that either it is lost. The note that counts it is an empty file, for which there mostly is room.
    """

    cause = "disk_full"


class ConsentChangedError(SpoolError):
    """`telemetry.json` changed after consent was read and before the append. Nothing was written: ask again."""

    cause = "opted_out"


class ConfigurationError(SpoolError):
    """A key, host or option that the operator gave can't be used. Events are kept; exit code 2."""

    cause = "configuration"
