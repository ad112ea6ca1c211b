"""`ktx-flush export` and `ktx-flush import`: events as NDJSON, for machines that never see the network."""

from __future__ import annotations

import sys
from typing import Annotated, BinaryIO

import typer

from flusher.commands.shared import (
    Json,
    Quiet,
    complain,
    consent_of,
    identity_of,
    is_off,
    new_file,
    opened,
    own_home,
    say,
)
from flusher.exchange import export_events, import_events
from flusher.text import counted, printable
from spool.errors import ConfigurationError
from spool.home import Paths
from spool.launch.destination import host_limits
from spool.queue import Queue

__all__ = ["export_command", "import_command"]

_STANDARD = "-"
_REJECTED = 3


def export_command(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Where to: a new file, or - for stdout.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the events that wait as NDJSON, for another machine to import and deliver. They stay here as well.

    Examples:
      ktx-flush export events.ndjson
      ktx-flush export - | ssh gateway ktx-flush import -
    """
    paths = own_home(context)
    if as_json and file == _STANDARD:
        raise ConfigurationError("--json and the events can't share stdout: export to a file")
    if is_off(context, {"exported": 0}, as_json=as_json, quiet=quiet, err=file == _STANDARD):
        return
    with opened(paths) as queue:
        if file == _STANDARD:
            count = export_events(paths, queue, _standard("stdout"))
        else:
            with new_file(file, replace=force) as target:
                count = export_events(paths, queue, target)
                if not (identity := identity_of(context)).enabled:
                    raise ConfigurationError(
                        f"telemetry was switched off meanwhile, by {identity.decided_by}: no file was written;"
                        " run enable first to export"
                    )
    if file != _STANDARD:
        text = f"exported: {counted(count, 'event')}; what was exported waits here as well"
        say({"exported": count}, text, as_json=as_json, quiet=quiet)


def import_command(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Where from: a file, or - for stdin.", show_default=False)],
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add the events of an NDJSON file to what waits here, each once; lines that are no event are named.

    Examples:
      ktx-flush import events.ndjson
      ktx-flush import - < events.ndjson
    """
    paths = own_home(context)
    if is_off(context, {"imported": 0, "known": 0, "refused": 0}, as_json=as_json, quiet=quiet):
        return

    def refuse(number: int, reason: str) -> None:
        complain(f"line {number}: {reason}")

    with opened(paths) as queue:
        with _source(file) as source:
            done = import_events(paths, queue, source, refuse=refuse, ask=lambda: consent_of(context))
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
    pending, most = queue.account().pending, host_limits(paths).max_events
    if pending > most:
        complain(f"{pending:,} events wait and the host keeps {most:,}: deliver before it runs")


def _source(file: str) -> BinaryIO:
    if file == _STANDARD:
        return _standard("stdin")
    try:
        return open(file, "rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"{printable(file)} can't be read: {reason}; nothing was imported: give another file"
        ) from error


def _standard(name: str) -> BinaryIO:
    stream = getattr(sys, name)
    if stream is None:
        raise ConfigurationError(f"{name} is closed: give a file; the events are kept")
    buffer: BinaryIO = stream.buffer
    return buffer
