"""`ktx-flush status`, `doctor` and `audit`: what became of every event, and what keeps any from being delivered."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from flusher.commands.shared import Json, Quiet, complain, print_json

__all__ = ["audit_command", "doctor_command", "status_command"]


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
        raise typer.Exit(0 if status.shut else 1)


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
