"""The commands that move events: retry, purge, export, import."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from flusher.commands.exchange import STANDARD, export_events, import_events, keeping_all
from flusher.commands.letters import printable, purge, retry
from flusher.commands.shared import WAIT_S, Dead, Json, Quiet, counted, opened, say
from spool.consent.identity import consent
from spool.errors import ConfigurationError
from spool.fallback import aside
from spool.home.paths import Paths
from spool.queue.queue import Queue

__all__ = ["register"]

_REJECTED = 3


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for name, command in (
        ("retry", retry_command),
        ("purge", purge_command),
        ("export", export_command),
        ("import", import_command),
    ):
        app.command(name)(command)


def retry_command(
    context: typer.Context,
    uuids: Annotated[list[str] | None, typer.Argument(help="Which dead letters; all of them if none is named.")] = None,
    quiet: Quiet = False,  # noqa: FBT002 - typer's flag
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Put rejected events back into the queue, for the next run.

    Examples:
      ktx-flush retry
      ktx-flush retry 0f8fad5b-d9cb-469f-a165-70867728950e
    """
    _name, paths = context.obj
    if _is_off(context, {"retried": 0}, as_json=as_json, quiet=quiet):
        return
    with opened(keeping_all(paths, WAIT_S)) as queue:
        count = retry(queue, uuids or [])
    say({"retried": count}, f"back in the queue: {counted(count, 'dead letter')}", as_json=as_json, quiet=quiet)


def purge_command(
    context: typer.Context,
    dead_ones: Dead = False,  # noqa: FBT002 - typer's flag
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,  # noqa: FBT002 - typer's flag
    quiet: Quiet = False,  # noqa: FBT002 - typer's flag
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Delete the events that wait, unsent; with --dead the rejected ones instead. They are counted as purged.

    Examples:
      ktx-flush purge
      ktx-flush purge --dead --yes
    """
    name, paths = context.obj
    identity = consent(name, paths, os.environ).identity
    with opened(keeping_all(paths, WAIT_S)) as queue:
        if not yes and not _agreed(paths, queue, dead_ones=dead_ones):
            say({"purged": 0, "left_aside": 0}, "nothing was deleted", as_json=as_json, quiet=quiet)
            return
        count, left = (queue.purge_dead(), 0) if dead_ones else purge(paths, queue, identity.install_id)
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


def export_command(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Where to: a new file, or - for stdout.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,  # noqa: FBT002 - typer's flag
    quiet: Quiet = False,  # noqa: FBT002 - typer's flag
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Write the events that wait as NDJSON, for another machine to import and deliver. They stay here as well.

    Examples:
      ktx-flush export events.ndjson
      ktx-flush export - | ssh gateway ktx-flush import -
    """
    _name, paths = context.obj
    if as_json and file == STANDARD:
        raise ConfigurationError("--json and the events can't share stdout: export to a file")
    if _is_off(context, {"exported": 0}, as_json=as_json, quiet=quiet, err=file == STANDARD):
        return
    with opened(Queue(paths, wait_s=WAIT_S)) as queue:
        count = export_events(paths, queue, file, replace=force)
    if file != STANDARD:
        text = f"exported: {counted(count, 'event')}; what was exported waits here as well"
        say({"exported": count}, text, as_json=as_json, quiet=quiet)


def import_command(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Where from: a file, or - for stdin.", show_default=False)],
    quiet: Quiet = False,  # noqa: FBT002 - typer's flag
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Add the events of an NDJSON file to what waits here, each once; lines that are no event are named.

    Examples:
      ktx-flush import events.ndjson
      ktx-flush import - < events.ndjson
    """
    name, paths = context.obj
    if _is_off(context, {"imported": 0, "known": 0, "refused": 0}, as_json=as_json, quiet=quiet):
        return

    def switched_off() -> str:
        identity = consent(name, paths, os.environ).identity
        return "" if identity.enabled else identity.decided_by

    def refuse(number: int, reason: str) -> None:
        typer.echo(f"ktx-flush: line {number}: {reason}", err=True)

    with opened(keeping_all(paths, WAIT_S)) as queue:
        done = import_events(paths, queue, file, refuse=refuse, switched_off=switched_off)
        _warn_of_limits(queue, paths)
    text = f"imported: {counted(done.imported, 'event')}, {done.known:,} here already, {done.refused:,} refused"
    if done.off:
        text += f"; then telemetry was switched off, by {done.off}"
    fields: dict[str, object] = {"imported": done.imported, "known": done.known, "refused": done.refused}
    say(fields, text, as_json=as_json, quiet=quiet)
    if done.refused:
        raise typer.Exit(_REJECTED)


def _warn_of_limits(queue: Queue, paths: Paths) -> None:
    """Say that a capture would drop the oldest events, while there is time to deliver them."""
    from spool.launch.destination import host_limits  # noqa: PLC0415 - for this command only

    pending, most = queue.account().pending, host_limits(paths).max_events
    if pending > most:
        typer.echo(f"ktx-flush: {pending:,} events wait and the host keeps {most:,}: deliver before it runs", err=True)


def _is_off(
    context: typer.Context, fields: dict[str, object], *, as_json: bool, quiet: bool, err: bool = False
) -> bool:
    name, paths = context.obj
    identity = consent(name, paths, os.environ).identity
    if not identity.enabled:
        text = f"telemetry is off (decided by {identity.decided_by}): nothing was done"
        if err:
            typer.echo(f"ktx-flush: {text}", err=True)
        else:
            say(
                {**fields, "result": "telemetry off", "reason": identity.decided_by}, text, as_json=as_json, quiet=quiet
            )
    return not identity.enabled
