"""`ktx-flush list`, `show`, `retry` and `purge`: the events that wait, and the dead letters."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from flusher.commands.shared import (
    Dead,
    Json,
    Quiet,
    consent_of,
    is_off,
    is_shut,
    opened,
    own_home,
    person_reads,
    print_json,
    say,
)
from flusher.events import StoredEvent, dead, find, purge, retry, waiting
from flusher.text import counted, moment, printable
from spool.beside import aside
from spool.errors import ConfigurationError
from spool.home import Paths
from spool.queue import Queue

__all__ = ["list_command", "purge_command", "retry_command", "show_command"]

# More rows than this nobody reads on a terminal.
_MOST_ROWS = 1_000


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
    paths, name = own_home(context), "dead" if dead_ones else "events"
    if is_shut(context, {name: []}, as_json=as_json, quiet=quiet):
        return
    with opened(paths) as queue:
        events = dead(queue) if dead_ones else waiting(paths, queue)
        if as_json:
            _say_json_list(name, events)
            return
        if person_reads() and not quiet:
            from flusher.commands.screen import print_events

            print_events(islice(events, _MOST_ROWS), dead=dead_ones)
            more = sum(1 for _ in events)
            if more:
                typer.echo(f"and {more:,} more: list --json has them all")
            return
        for event in events:  # also when nothing is printed: what is damaged is said
            if not quiet:
                typer.echo(_line(event))


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
    paths = own_home(context)
    if is_shut(context, {"event": None}, as_json=as_json, quiet=quiet):
        return
    with opened(paths) as queue:
        found = find(paths, queue, uuid)
        message = json.loads(found.text)
        if as_json:
            shown = {"state": found.state, "reason": found.reason or None, "rejected_at": moment(found.died_at)}
            print_json({**shown, "event": message})
        elif not quiet:
            if person_reads():
                from flusher.commands.screen import print_event

                print_event(found)
            else:
                print_json(message)
            if found.state == "dead":
                typer.echo(f"dead letter since {moment(found.died_at)}: {printable(found.reason)}", err=True)


def _say_json_list(name: str, events: Iterator[StoredEvent]) -> None:
    """Write one object with a line for each event, without holding them all."""
    typer.echo(f'{{"{name}": [', nl=False)
    for number, event in enumerate(events):
        typer.echo(f"{',' if number else ''}\n{_line(event)}", nl=False)
    typer.echo("\n]}")


def _line(event: StoredEvent) -> str:
    if event.state != "dead":
        return event.text
    about = json.dumps({"reason": event.reason, "rejected_at": moment(event.died_at)})
    return f'{about[:-1]}, "event": {event.text}}}'


def retry_command(
    context: typer.Context,
    uuids: Annotated[list[str] | None, typer.Argument(help="Which dead letters; all of them if none is named.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Put rejected events back into the queue, for the next run.

    Examples:
      ktx-flush retry
      ktx-flush retry 0f8fad5b-d9cb-469f-a165-70867728950e
    """
    paths, now = own_home(context), consent_of(context)
    if is_off(context, {"retried": 0}, as_json=as_json, quiet=quiet):
        return
    with opened(paths, now.signature) as queue:
        count = retry(queue, uuids or [])
    say({"retried": count}, f"back in the queue: {counted(count, 'dead letter')}", as_json=as_json, quiet=quiet)


def purge_command(
    context: typer.Context,
    dead_ones: Dead = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Delete the events that wait, unsent; with --dead the rejected ones instead. They are counted as purged.

    Examples:
      ktx-flush purge
      ktx-flush purge --dead --yes
    """
    paths, now, nothing = own_home(context), consent_of(context), {"purged": 0, "left_aside": 0}
    if is_shut(context, {**nothing}, as_json=as_json, quiet=quiet):
        return
    with opened(paths, now.signature) as queue:
        if not yes and not _agreed(paths, queue, dead_ones=dead_ones):
            say({**nothing}, "nothing was deleted", as_json=as_json, quiet=quiet)
            return
        count, left = (queue.purge_dead(), 0) if dead_ones else purge(paths, queue, now.identity.install_id)
    text = f"deleted: {counted(count, 'event')}"
    if left:
        text += f"; {left:,} aside are being taken by a flusher that is at work: purge again when it has ended"
    say({"purged": count, "left_aside": left}, text, as_json=as_json, quiet=quiet)


def _agreed(paths: Paths, queue: Queue, *, dead_ones: bool) -> bool:
    """Ask the person at the terminal. ConfigurationError where there is none."""
    what = "dead letters" if dead_ones else "events that wait"
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigurationError(f"nobody can be asked here: give --yes to delete the {what}; nothing was changed")
    account = queue.account()
    count = account.dead if dead_ones else account.pending + len(aside.files(paths))
    queue.close()  # nobody else waits while somebody thinks
    try:
        return bool(typer.confirm(f"Delete {count:,} {what} in {printable(str(paths.home))}, unsent?", err=True))
    except typer.Abort:
        typer.echo(err=True)  # the question's own line ends here
        raise
