"""What the suite's processes inherit from whoever started them, put back to what a shell gives."""

from __future__ import annotations

import signal
import sys

__all__ = ["restore_signals"]

# Python itself ignores these two; `subprocess` gives both back to the programs that it starts.
_IGNORED_BY_PYTHON = {getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)}


def restore_signals() -> None:
    """Let every signal do in this process, and in those that it starts, what it does under a plain shell.

    `nohup` ignores SIGHUP, a shell ignores SIGINT and SIGQUIT for what it puts into the background, and a parent may
    have blocked any: all of that is inherited through exec.
    """
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
