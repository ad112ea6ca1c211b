"""`ktx-flush status`: what waits, what became of every event, and whether telemetry is on."""

from __future__ import annotations

import os

import typer

from flusher.commands.shared import Json, Quiet, complain, print_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("status")(status_command)


def status_command(context: typer.Context, quiet: Quiet = False, as_json: Json = False) -> None:
    """Say what waits, what became of every event, and whether telemetry is on.

    Examples:
      ktx-flush status
      ktx-flush status --json
    """
    from flusher.commands.screen import print_status
    from flusher.report.status import collect

    name, paths = context.obj
    status = collect(name, paths, os.environ)
    if as_json:
        print_json(status.as_json())
    elif not quiet:
        print_status(status)
    if status.problem:
        complain(status.problem)
        raise typer.Exit(1)
