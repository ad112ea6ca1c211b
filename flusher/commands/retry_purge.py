"""`ktx-flush retry` and `ktx-flush purge`: rejected events back to the queue, what waits or was rejected away."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flusher.commands.shared import Dead, Json, Quiet, identity_of, is_off, opened, say
from flusher.letters import purge, retry
from flusher.text import counted, printable
from spool.beside import aside
from spool.errors import ConfigurationError
from spool.home import Paths
from spool.queue import Queue

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("retry")(retry_command)
    app.command("purge")(purge_command)


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
    _name, paths = context.obj
    if is_off(context, {"retried": 0}, as_json=as_json, quiet=quiet):
        return
    with opened(paths) as queue:
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
    _name, paths = context.obj
    with opened(paths) as queue:
        if not yes and not _agreed(paths, queue, dead_ones=dead_ones):
            say({"purged": 0, "left_aside": 0}, "nothing was deleted", as_json=as_json, quiet=quiet)
            return
        count, left = (queue.purge_dead(), 0) if dead_ones else purge(paths, queue, identity_of(context).install_id)
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
