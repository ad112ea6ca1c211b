"""`ktx-flush list` and `ktx-flush show`: events, exactly as they would be sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from flusher.commands.shared import Dead, Json, Quiet, opened, person_reads, print_json
from flusher.letters import Letter, dead, find, waiting
from flusher.text import moment, printable

__all__ = ["register"]

# More rows than this nobody reads on a terminal.
_MOST_ROWS = 1_000


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("list")(list_command)
    app.command("show")(show_command)


def list_command(
    context: typer.Context,
    dead_ones: Dead = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """List the events that wait, exactly as they would be sent; a line of JSON each where there is no terminal.

    Examples:
      ktx-flush list
      ktx-flush list --dead
      ktx-flush list --json
    """
    _name, paths = context.obj
    with opened(paths) as queue:
        letters = dead(queue) if dead_ones else waiting(paths, queue)
        if as_json:
            _say_json_list("dead" if dead_ones else "events", letters)
            return
        if person_reads() and not quiet:
            from flusher.commands.screen import print_letters

            print_letters(islice(letters, _MOST_ROWS), dead=dead_ones)
            more = sum(1 for _ in letters)
            if more:
                typer.echo(f"and {more:,} more: list --json has them all")
            return
        for letter in letters:  # also when nothing is printed: what is damaged is said
            if not quiet:
                typer.echo(_line(letter))


def show_command(
    context: typer.Context,
    uuid: Annotated[str, typer.Argument(help="Which event.", show_default=False)],
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show one event exactly as it would be sent; of a dead letter also, on stderr, why it was rejected.

    Examples:
      ktx-flush show 0f8fad5b-d9cb-469f-a165-70867728950e
      ktx-flush show 0f8fad5b-d9cb-469f-a165-70867728950e --json
    """
    _name, paths = context.obj
    with opened(paths) as queue:
        letter = find(paths, queue, uuid)
        event = json.loads(letter.text)
        if as_json:
            shown = {"state": letter.state, "reason": letter.reason or None, "rejected_at": moment(letter.died_at)}
            print_json({**shown, "event": event})
        elif not quiet:
            if person_reads():
                from flusher.commands.screen import print_event

                print_event(letter)
            else:
                print_json(event)
            if letter.state == "dead":
                typer.echo(f"dead letter since {moment(letter.died_at)}: {printable(letter.reason)}", err=True)


def _say_json_list(name: str, letters: Iterator[Letter]) -> None:
    """Write one object with a line for each event, without holding them all."""
    typer.echo(f'{{"{name}": [', nl=False)
    for number, letter in enumerate(letters):
        typer.echo(f"{',' if number else ''}\n{_line(letter)}", nl=False)
    typer.echo("\n]}")


def _line(letter: Letter) -> str:
    if letter.state != "dead":
        return letter.text
    about = json.dumps({"reason": letter.reason, "rejected_at": moment(letter.died_at)})
    return f'{about[:-1]}, "event": {letter.text}}}'
