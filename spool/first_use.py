"""The first capture loads what captures need: the queue, with diskcache, filelock and sqlite3.

A command that only prints information, or that is opted out, loads none of it.
"""

from __future__ import annotations

from threading import get_ident

__all__ = ["loaded"]


class _Loading:
    """Whether everything is loaded, and the thread that is loading it."""

    done = False
    thread: int | None = None


def loaded() -> bool:
    """Load what a capture needs.

    False in a signal handler that interrupts the loading: the modules are only half initialised.
    """
    if _Loading.thread == get_ident():
        return False
    if not _Loading.done:
        _Loading.thread = get_ident()
        try:
            # The second one defines classes. Defined at the end of a process that Ctrl-C ends, they would make
            # Python forget that it has to end by the signal.
            from spool import capture  # noqa: F401, PLC0415 - see above
            from spool.beside import sightings  # noqa: F401, PLC0415 - see above

            _Loading.done = True
        finally:
            _Loading.thread = None
    return True
