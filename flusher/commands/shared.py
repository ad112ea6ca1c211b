"""What the commands have in common: options, the open queue, files that a person names, how they say what they did."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import typer

from flusher.context import open_queue
from flusher.text import printable
from spool.consent import Consent, HomeState, Identity, consent, home_state
from spool.errors import ConfigurationError
from spool.home import Paths, Signature, open_own, publish
from spool.queue import UNASKED, Queue

__all__ = [
    "Dead",
    "Json",
    "Quiet",
    "complain",
    "consent_of",
    "identity_of",
    "is_off",
    "is_shut",
    "new_file",
    "opened",
    "own_home",
    "person_reads",
    "print_json",
    "say",
]

# A line may name a path, or hold the words of a server.
_MOST_CHARS = 2_000

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Dead = Annotated[bool, typer.Option("--dead", help="The rejected events instead of those that wait.")]


def identity_of(context: typer.Context) -> Identity:
    """Give the identity as it stands now, for the app and home of the command line."""
    return consent_of(context).identity


def consent_of(context: typer.Context) -> Consent:
    """Give consent as it stands now, with the signature of the file that it was read from."""
    name, paths = context.obj
    return consent(name, paths, os.environ)


def own_home(context: typer.Context) -> Paths:
    """Give the files of the home, for a command that opens or writes something there; it looks at the owner first.

    ConfigurationError in the home of another user: root would leave files there that the owner can't write.
    """
    _name, paths = context.obj
    if home_state(paths.home) is HomeState.FOREIGN:
        raise ConfigurationError(f"{paths.home} belongs to another user: run this as its owner; nothing was touched")
    return cast("Paths", paths)


@contextmanager
def opened(paths: Paths, consent: Signature | None = UNASKED) -> Iterator[Queue]:
    """Give the queue for a block. Who adds events names the consent, as for the class."""
    queue = open_queue(paths, consent=consent)
    try:
        yield queue
    finally:
        queue.close()


# -- what a command says --------------------------------------------------------------------------------------


def person_reads() -> bool:
    """Tell whether what is printed goes to a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def print_json(value: Any) -> None:
    """Print one JSON value, in plain ASCII."""
    typer.echo(json.dumps(value, indent=2))


def say(fields: dict[str, object], text: str, *, as_json: bool, quiet: bool = False) -> None:
    """Say what a command did: the fields with `as_json`, else the text, or nothing with `quiet`."""
    if as_json:
        print_json(fields)
    elif not quiet:
        typer.echo(text)


def complain(line: str) -> None:
    """Write one line to stderr, made harmless for a terminal."""
    if sys.stderr is not None:  # closed, as some supervisors do
        with suppress(OSError):  # its reader has gone
            sys.stderr.write(f"ktx-flush: {printable(line, _MOST_CHARS)}\n")


def is_off(context: typer.Context, fields: dict[str, object], *, as_json: bool, quiet: bool, err: bool = False) -> bool:
    """Tell whether telemetry is off, and if so say that nothing was done: on stderr with `err`."""
    identity = identity_of(context)
    if not identity.enabled:
        text = f"telemetry is off (decided by {identity.decided_by}): nothing was done"
        if err:
            complain(text)
        else:
            fields = {**fields, "result": "telemetry off", "reason": identity.decided_by}
            say(fields, text, as_json=as_json, quiet=quiet)
    return not identity.enabled


def is_shut(context: typer.Context, fields: dict[str, object], *, as_json: bool, quiet: bool) -> bool:
    """Tell whether the home can't be looked into, and if so say which rule makes that of telemetry."""
    _name, paths = context.obj
    shut = home_state(paths.home) is HomeState.UNUSABLE
    return shut and is_off(context, fields, as_json=as_json, quiet=quiet)


# -- a file that a person named -------------------------------------------------------------------------------


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
