"""A program that was started with a mark in its environment is a flusher: its own work never begins.

So a frozen app delivers, which brings its own Python and no `ktx-flush`. A person may set the mark as well, to use any
command of `ktx-flush` by such an app: `KTX_SPOOL_RUN="status --json" ./app`. Any other program starts the flusher that
it would start by itself.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from contextlib import suppress
from typing import NoReturn

from spool.launch.program import flusher_program
from spool.settings import MARK

__all__ = ["become_flusher"]


def become_flusher() -> NoReturn:
    """Be `ktx-flush` with the arguments of the mark, and end this process with its exit code.

    Nothing of the host's runs afterwards, neither what would catch an exception nor its exit hooks.
    """
    code: object = 1
    try:
        arguments = shlex.split(os.environ.pop(MARK))
        if not getattr(sys, "frozen", False) and sys.platform != "win32":
            words = flusher_program(arguments).words
            os.execv(words[0], words)  # noqa: S606 - an absolute path, arguments of our own
        sys.argv = ["ktx-flush", *arguments]
        importlib.import_module("flusher.__main__").main()  # the delivery side: this process is its own from here on
    except SystemExit as end:
        code = end.code
    except BaseException as error:  # noqa: BLE001 - the process ends here, whatever it was
        with suppress(Exception):
            sys.stderr.write(f"ktx-flush: this program can't deliver: {type(error).__name__}: {error}\n")
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
