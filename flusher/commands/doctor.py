"""`ktx-flush doctor`: its findings as text, or as one JSON object that names no person."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from flusher.commands.shared import print_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("doctor")(doctor_command)


def doctor_command(
    context: typer.Context,
    send: Annotated[bool, typer.Option("--send", help="Also send one event, spool_canary, to PostHog.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object, and nothing else; it names neither you nor the install."),
    ] = False,
) -> None:
    """Look at all that delivery needs, and say how to mend what is wrong. Nothing is changed.

    0: all is well, or may stay as it is; 2: something here is to be mended; 75: only the destination fails.

    Examples:
      ktx-flush doctor
      ktx-flush doctor --send
      ktx-flush doctor --json
    """
    from flusher.commands.screen import print_findings
    from flusher.doctor.examine import examine
    from flusher.doctor.finding import as_object, exit_code

    name, paths = context.obj
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the scratch folder is removed on this way out, too
    findings = examine(name, paths, os.environ, send=send)
    if as_json:
        print_json(as_object(findings, name, paths, os.environ))
    else:
        print_findings(findings)
    raise typer.Exit(exit_code(findings))
