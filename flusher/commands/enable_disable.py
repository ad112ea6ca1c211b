"""`ktx-flush enable` and `ktx-flush disable`: the decision about telemetry, for this install."""

from __future__ import annotations

import typer

from flusher.commands.shared import Quiet, identity_of
from flusher.text import counted
from spool.consent import decide_for_all
from spool.consent.opt_out import wipe

__all__ = ["disable_command", "enable_command"]


def enable_command(context: typer.Context, quiet: Quiet = False) -> None:
    """Switch telemetry on for this install. It also mends a telemetry.json that doesn't read.

    Examples:
      ktx-flush enable
      ktx-flush --app mycli enable
    """
    _name, paths = context.obj
    decide_for_all(paths, enabled=True)
    identity = identity_of(context)
    if not quiet:
        typer.echo("telemetry is on" if identity.enabled else f"telemetry stays off here, by {identity.decided_by}")


def disable_command(context: typer.Context, quiet: Quiet = False) -> None:
    """Switch telemetry off for this install, and delete everything that waits.

    Examples:
      ktx-flush disable
      ktx-flush --app mycli disable
    """
    _name, paths = context.obj
    decide_for_all(paths, enabled=False)
    gone = wipe(paths)
    if not quiet:
        typer.echo(f"telemetry is off; deleted: {counted(gone, 'event')} that waited")
