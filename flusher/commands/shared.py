"""What the commands have in common: --json, --quiet, the open queue, and how they say what they did."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from spool.queue.queue import Queue

__all__ = ["WAIT_S", "Dead", "Json", "Quiet", "counted", "opened", "person_reads", "print_json", "say"]

# The flusher's commands may wait longer for the queue than a host does, but not for ever.
WAIT_S = 5.0

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Dead = Annotated[bool, typer.Option("--dead", help="The rejected events instead of those that wait.")]


@contextmanager
def opened(queue: Queue) -> Iterator[Queue]:
    """Close the queue at the end. A reader that went away (`| head`) has seen enough."""
    try:
        yield queue
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains at its own end
        raise typer.Exit from error
    finally:
        queue.close()


def person_reads() -> bool:
    """Tell whether what is printed goes to a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def counted(count: int, noun: str) -> str:
    """Give a number with its noun, which takes an s: "1 event", "2,000 events"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_json(value: Any) -> None:
    """Print one JSON value, in plain ASCII."""
    typer.echo(json.dumps(value, indent=2))


def say(fields: dict[str, object], text: str, *, as_json: bool, quiet: bool) -> None:
    """Say what a command did: the fields for a program, the text for a person, nothing where that was asked for."""
    if as_json:
        print_json(fields)
    elif not quiet:
        typer.echo(text)
