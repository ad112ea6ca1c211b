"""`ktx-flush audit`: which events went silent."""

from __future__ import annotations

import typer

from flusher.commands.shared import Json, print_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("audit")(audit_command)


def audit_command(context: typer.Context, as_json: Json = False) -> None:
    """Name the events that an earlier version captured on this install and the present one doesn't.

    Compared are runs of the same command that ended alike. The exit code is 0 whatever was found.

    Examples:
      ktx-flush audit
      ktx-flush --app mycli audit --json
    """
    from flusher.report.audit import audit, told
    from spool.beside.sightings import read

    _name, paths = context.obj
    found = audit(read(paths))
    if as_json:
        print_json(found.as_json())
    else:
        typer.echo("\n".join(told(found)))
