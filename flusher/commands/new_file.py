"""A file that a person named: private, whole or not there, and nothing of anybody's overwritten unasked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from spool.errors import ConfigurationError
from spool.home.files import open_own, publish

__all__ = ["new_file"]


@contextmanager
def new_file(target: str, *, replace: bool) -> Iterator[BinaryIO]:
    """Give a file to write that gets its name at the end, 0600; what fails before leaves no file.

    One that is there already is left alone unless `replace`, and whatever is no plain file always. What can't
    be written is a ConfigurationError.
    """
    path = Path(os.path.abspath(target))
    _check_free(path, replace=replace)
    draft = path.with_name(f".{path.name[:100]}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = open_own(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if replace:
                publish(draft, path, durable=True)
            else:
                _name(draft, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)
    except OSError as error:
        raise ConfigurationError(
            f"{target} can't be written: {error.strerror or error}; the events are kept: give another name"
        ) from error


def _check_free(path: Path, *, replace: bool) -> None:
    if not os.path.lexists(path):
        return
    if not replace:
        raise ConfigurationError(f"{path} is there already: give another name, or --force to replace it")
    if os.path.islink(path) or not os.path.isfile(path):
        raise ConfigurationError(f"{path} is no plain file: it is left alone; give another name")


def _name(draft: Path, path: Path) -> None:
    """Give the draft its name unless somebody else has taken it meanwhile."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: all that is left is to look again
        _check_free(path, replace=False)
        os.replace(draft, path)
