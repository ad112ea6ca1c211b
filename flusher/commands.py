"""The commands that look at events and move them: list, show, retry, purge, export, import, audit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import typer

from flusher.exchange import STANDARD, export_events, import_events, keeping_all
from flusher.letter_table import print_table
from flusher.letters import Letter, dead, find, printable, purge, retry, waiting
from spool.errors import ConfigurationError
from spool.identity import consent
from spool.paths import Paths
from spool.queue import Queue

__all__ = ["register"]

# The flusher's commands may wait longer for the queue than a host does, but not for ever.
_WAIT_S = 5.0
# More rows than this nobody reads on a terminal.
_MOST_ROWS = 1_000
_REJECTED = 3

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
Dead = Annotated[bool, typer.Option("--dead", help="The rejected events instead of those that wait.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for name, command in (
        ("list", list_command),
        ("show", show_command),
        ("retry", retry_command),
        ("purge", purge_command),
        ("export", export_command),
        ("import", import_command),
        ("audit", audit_command),
    ):
        app.command(name)(command)


def list_command(context: typer.Context, dead_ones: Dead = False, as_json: Json = False) -> None:  # noqa: FBT002 - typer's flags
    """List the events that wait, exactly as they would be sent; a line of JSON each where there is no terminal.

    Examples:  ktx-flush list   ktx-flush list --dead   ktx-flush list --json
    """
    _name, paths = context.obj
    with _opened(Queue(paths, wait_s=_WAIT_S)) as queue:
        letters = dead(queue) if dead_ones else waiting(paths, queue)
        if as_json:
            _say_json_list("dead" if dead_ones else "events", letters)
        elif sys.stdout is not None and sys.stdout.isatty():
            print_table(islice(letters, _MOST_ROWS), dead=dead_ones)
            more = sum(1 for _ in letters)
            if more:
                typer.echo(f"and {more:,} more: ktx-flush list --json has them all")
        else:
            for letter in letters:
                typer.echo(_line(letter))


def show_command(
    context: typer.Context,
    uuid: Annotated[str, typer.Argument(help="Which event.", show_default=False)],
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Show one event exactly as it would be sent; of a dead letter also, on stderr, why it was rejected.

    Examples:  ktx-flush show 0f8fad5b-d9cb-469f-a165-70867728950e
    """
    _name, paths = context.obj
    with _opened(Queue(paths, wait_s=_WAIT_S)) as queue:
        letter = find(paths, queue, uuid)
        event = json.loads(letter.text)
        if as_json:
            shown = {"state": letter.state, "reason": letter.reason or None, "rejected_at": _moment(letter)}
            _print_json({**shown, "event": event})
            return
        _print_json(event)
        if letter.state == "dead":
            typer.echo(f"dead letter since {_moment(letter)}: {printable(letter.reason)}", err=True)


def retry_command(
    context: typer.Context,
    uuids: Annotated[list[str] | None, typer.Argument(help="Which dead letters; all of them if none is named.")] = None,
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Put rejected events back into the queue, for the next run.

    Examples:  ktx-flush retry   ktx-flush retry 0f8fad5b-d9cb-469f-a165-70867728950e
    """
    _name, paths = context.obj
    if _is_off(context, {"retried": 0}, as_json=as_json):
        return
    with _opened(keeping_all(paths, _WAIT_S)) as queue:
        count = retry(queue, uuids or [])
    _report({"retried": count}, f"{count:,} dead letters are back in the queue", as_json=as_json)


def purge_command(
    context: typer.Context,
    dead_ones: Dead = False,  # noqa: FBT002 - typer's flag
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,  # noqa: FBT002 - typer's flag
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Delete the events that wait, unsent; with --dead the rejected ones instead. They are counted as purged.

    Examples:  ktx-flush purge   ktx-flush purge --dead --yes
    """
    name, paths = context.obj
    if not yes:
        what = "dead letters" if dead_ones else "events that wait"
        if sys.stdin is None or not sys.stdin.isatty():
            raise ConfigurationError(f"nobody can be asked here: give --yes to delete the {what}; nothing was changed")
        if not typer.confirm(f"Delete all {what} of {paths.home}, unsent?", err=True):
            _report({"purged": 0, "left_aside": 0}, "nothing was deleted", as_json=as_json)
            return
    identity = consent(name, paths, os.environ).identity
    with _opened(keeping_all(paths, _WAIT_S)) as queue:
        count, left = (queue.purge_dead(), 0) if dead_ones else purge(paths, queue, identity.install_id)
    text = f"{count:,} events were deleted"
    if left:
        text += f"; {left:,} aside are being taken by a flusher that is at work: purge again when it has ended"
    _report({"purged": count, "left_aside": left}, text, as_json=as_json)


def export_command(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Where to: a new file, or - for stdout.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,  # noqa: FBT002 - typer's flag
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Write the events that wait as NDJSON, for another machine to import and deliver. They stay here as well.

    Examples:  ktx-flush export events.ndjson   ktx-flush export - | ssh gateway ktx-flush import -
    """
    _name, paths = context.obj
    if as_json and file == STANDARD:
        raise ConfigurationError("--json and the events can't share stdout: export to a file")
    if _is_off(context, {"exported": 0}, as_json=as_json, err=file == STANDARD):
        return
    with _opened(Queue(paths, wait_s=_WAIT_S)) as queue:
        count = export_events(paths, queue, file, replace=force)
    if file != STANDARD:
        _report({"exported": count}, f"{count:,} events were exported; they wait here as well", as_json=as_json)


def import_command(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Where from: a file, or - for stdin.", show_default=False)],
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Add the events of an NDJSON file to what waits here, each once; lines that are no event are named.

    Examples:  ktx-flush import events.ndjson   ktx-flush import - < events.ndjson
    """
    name, paths = context.obj
    if _is_off(context, {"imported": 0, "known": 0, "refused": 0}, as_json=as_json):
        return

    def switched_off() -> str:
        identity = consent(name, paths, os.environ).identity
        return "" if identity.enabled else identity.decided_by

    def refuse(number: int, reason: str) -> None:
        typer.echo(f"ktx-flush: line {number}: {reason}", err=True)

    with _opened(keeping_all(paths, _WAIT_S)) as queue:
        done = import_events(paths, queue, file, refuse=refuse, switched_off=switched_off)
        _warn_of_limits(queue, paths)
    text = f"{done.imported:,} events were imported, {done.known:,} were here already, {done.refused:,} lines refused"
    if done.off:
        text += f"; then telemetry was switched off, by {done.off}"
    fields: dict[str, object] = {"imported": done.imported, "known": done.known, "refused": done.refused}
    _report(fields, text, as_json=as_json)
    if done.refused:
        raise typer.Exit(_REJECTED)


def audit_command(context: typer.Context, as_json: Json = False) -> None:  # noqa: FBT002 - typer's flag
    """Name the events that an earlier version captured on this install and the present one doesn't.

    Compared are runs of the same command that ended alike. The exit code is 0 whatever was found.

    Examples:  ktx-flush audit   ktx-flush --app mycli audit --json
    """
    from flusher.audit import audit, told  # noqa: PLC0415 - for this command only
    from spool.emitted import read  # noqa: PLC0415 - with it

    _name, paths = context.obj
    found = audit(read(paths))
    if as_json:
        _print_json(found.as_json())
    else:
        typer.echo("\n".join(told(found)))


def _warn_of_limits(queue: Queue, paths: Paths) -> None:
    """Say that a capture would drop the oldest events, while there is time to deliver them."""
    from spool.destination import host_limits  # noqa: PLC0415 - for this command only

    pending, most = queue.account().pending, host_limits(paths).max_events
    if pending > most:
        typer.echo(f"ktx-flush: {pending:,} events wait and the host keeps {most:,}: deliver before it runs", err=True)


# -- what they share ------------------------------------------------------------------------------------


@contextmanager
def _opened(queue: Queue) -> Iterator[Queue]:
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


def _is_off(context: typer.Context, fields: dict[str, object], *, as_json: bool, err: bool = False) -> bool:
    name, paths = context.obj
    identity = consent(name, paths, os.environ).identity
    if not identity.enabled:
        text = f"telemetry is off (decided by {identity.decided_by}): nothing was done"
        if err:
            typer.echo(f"ktx-flush: {text}", err=True)
        else:
            _report({**fields, "result": "telemetry off", "reason": identity.decided_by}, text, as_json=as_json)
    return not identity.enabled


def _report(fields: dict[str, object], text: str, *, as_json: bool) -> None:
    if as_json:
        _print_json(fields)
    else:
        typer.echo(text)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def _say_json_list(name: str, letters: Iterator[Letter]) -> None:
    """Write one object with a line for each event, without holding them all."""
    typer.echo(f'{{"{name}": [', nl=False)
    for number, letter in enumerate(letters):
        typer.echo(f"{',' if number else ''}\n{_line(letter)}", nl=False)
    typer.echo("\n]}")


def _line(letter: Letter) -> str:
    if letter.state != "dead":
        return letter.text
    about = json.dumps({"reason": letter.reason, "rejected_at": _moment(letter)})
    return f'{about[:-1]}, "event": {letter.text}}}'


def _moment(letter: Letter) -> str | None:
    if letter.died_at is None:
        return None
    return datetime.fromtimestamp(letter.died_at, UTC).isoformat(timespec="seconds")
