"""Other people's programs (crontab, systemctl, launchctl), called with a limit and in plain English."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from spool.errors import ConfigurationError

__all__ = ["Done", "call", "is_there", "put_back", "refusals_named"]

# Each answers in milliseconds; one that waits for something is not waited for.
_TIMEOUT_S = 30.0


class Done(NamedTuple):
    """How a program ended, and what it said, its complaints as one line."""

    code: int
    out: bytes
    err: str


def is_there(program: str) -> bool:
    """Tell whether PATH has the program."""
    return shutil.which(program) is not None


def call(program: str, *arguments: str, given: bytes = b"", **variables: str) -> Done:
    """Run a program to its end, with `variables` set. ConfigurationError if it can't be started or doesn't end."""
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system, arguments of our own
            [program, *arguments],
            input=given,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C", **variables},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(
            f"{program} doesn't answer ({type(error).__name__}); nothing was changed: try again"
        ) from error
    return Done(done.returncode, done.stdout, " ".join(done.stderr.decode("utf-8", "replace").split()))


@contextmanager
def refusals_named(what: str) -> Iterator[None]:
    """Turn what the system refuses into one line: the operator's to mend, so exit code 2."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{what} can't be changed: {error.strerror or error}; nothing was changed: mend that and try again"
        ) from error


def put_back(path: Path, before: bytes | None) -> None:
    """Give a file the content that it had; None: there was none."""
    if before is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(before)
