"""The first capture loads what captures need: the queue, with diskcache, filelock and sqlite3.

A command that only prints information, or that is opted out, loads none of it.
"""

from __future__ import annotations

from threading import get_ident
from types import ModuleType

__all__ = ["load"]


class _First:
    """The module that tells how an event is captured, once it is loaded; and the thread that is loading it."""

    capture: ModuleType | None = None
    thread: int | None = None


def load() -> ModuleType | None:
    """Give `spool.capture`, loaded at the first call and kept: at the end of the interpreter nothing can be imported.

    None in a signal handler that interrupts the loading: the modules are only half initialised.
    """
    if _First.thread == get_ident():
        return None
    if _First.capture is None:
        _First.thread = get_ident()
        try:
            # The second one defines classes. Defined at the end of a process that Ctrl-C ends, they would make
            # Python forget that it has to end by the signal.
            from spool import capture  # noqa: PLC0415 - see above
            from spool.beside import sightings  # noqa: F401, PLC0415 - see above

            _First.capture = capture
        finally:
            _First.thread = None
    return _First.capture
