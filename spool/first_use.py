"""The first capture loads what captures need. A command that only prints, or that is opted out, loads none of it."""

from __future__ import annotations

from types import ModuleType

from spool.interrupts import exit_hooks_held

__all__ = ["load"]


class _First:
    """The module that tells how an event is captured, once it is loaded."""

    capture: ModuleType | None = None


def load() -> ModuleType:
    """Give `spool.capture`, loaded at the first call and kept: at the end of the interpreter nothing can be imported.

    Called with signals held: a handler that captured meanwhile would meet modules that are only half there.
    """
    if _First.capture is None:
        # `sightings` is loaded now: if its classes were defined after a Ctrl-C, Python would no longer die of SIGINT.
        with exit_hooks_held(unless=_logs):
            from spool import capture  # noqa: PLC0415 - see above
            from spool.beside import sightings  # noqa: F401, PLC0415 - see above

        _First.capture = capture
    return _First.capture


def _logs() -> bool:
    """Tell whether the host uses logging, which comes with filelock: its exit hook waits for the host's handlers."""
    import logging  # noqa: PLC0415 - loaded with the rest

    loggers = [logging.root, *logging.Logger.manager.loggerDict.values()]
    return any(getattr(logger, "handlers", None) for logger in loggers)
