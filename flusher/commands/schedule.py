"""`ktx-flush schedule`: have events delivered regularly, by cron, systemd or launchd."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from spool.consent.identity import consent
from spool.consent.rule import opted_out_by
from spool.errors import ConfigurationError

if TYPE_CHECKING:
    from flusher.schedule.installed import Plan

__all__ = ["register"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]

schedule = typer.Typer(help="Have events delivered regularly: by cron, a systemd timer or a launchd agent.")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    schedule.command("install")(install_command)
    schedule.command("remove")(remove_command)
    schedule.command("show")(show_command)
    app.add_typer(schedule, name="schedule")


def install_command(
    context: typer.Context,
    every: Annotated[str | None, typer.Option(help="How often: 15m, 6h. As it is now, else 15m.")] = None,
    method: Annotated[str | None, typer.Option(help="cron, systemd or launchd. Else what this machine has.")] = None,
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Have events delivered regularly. To do it twice changes nothing; with another --every, it changes that.

    Examples:
      ktx-flush schedule install
      ktx-flush schedule install --every 6h --method cron
    """
    from flusher.schedule.installed import Plan  # noqa: PLC0415 - for these commands only
    from flusher.schedule.planner import install  # noqa: PLC0415 - for these commands only

    name, paths = context.obj
    variable = opted_out_by(name, os.environ)
    if variable is not None:
        text = f"telemetry is off (decided by {variable}, which no schedule would see): nothing was scheduled"
        _say({"state": "telemetry off", "reason": variable, **Plan().as_json()}, text, as_json=as_json)
        return
    state, plan = install(name, paths, every, method)
    identity = consent(name, paths, os.environ).identity
    text = f"{'scheduled' if state == 'installed' else 'scheduled already, nothing was changed'}: {_line(plan)}"
    if not identity.enabled:
        text += f"\ntelemetry is off (decided by {identity.decided_by}): nothing is sent until it is on"
    if any(one.method == "systemd" for one in plan.installed):
        text += "\nit runs while you are logged in; to have it run always: loginctl enable-linger"
    reason = None if identity.enabled else identity.decided_by
    _say({"state": state, "reason": reason, **plan.as_json()}, text, as_json=as_json)


def remove_command(context: typer.Context, as_json: Json = False) -> None:  # noqa: FBT002 - typer's flag
    """Take the schedule away, and leave everything else in crontab or systemd as it is.

    Examples:
      ktx-flush schedule remove
      ktx-flush --app mycli schedule remove
    """
    from flusher.schedule.planner import remove  # noqa: PLC0415 - for these commands only

    name, paths = context.obj
    methods = [one.method for one in remove(name, paths)]
    text = f"not scheduled any more (it was, by {' and '.join(methods)})" if methods else "nothing was scheduled"
    _say({"removed": methods}, text, as_json=as_json)


def show_command(context: typer.Context, as_json: Json = False) -> None:  # noqa: FBT002 - typer's flag
    """Say what is scheduled, and when it runs next.

    Examples:
      ktx-flush schedule show
      ktx-flush schedule show --json
    """
    from flusher.commands.tool import tool  # noqa: PLC0415 - with it
    from flusher.schedule.planner import look  # noqa: PLC0415 - for these commands only
    from flusher.schedule.table import render_plan  # noqa: PLC0415 - with it

    name, paths = context.obj
    plan = look(name, paths)
    if as_json:
        typer.echo(json.dumps(plan.as_json(), indent=2))
    else:
        render_plan(plan, tool(name, paths, os.environ))
    if plan.problem:
        raise ConfigurationError(plan.problem)


def _line(plan: Plan) -> str:
    from flusher.schedule.table import plan_line  # noqa: PLC0415 - for these commands only

    return plan_line(plan)


def _say(fields: dict[str, object], text: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(fields, indent=2) if as_json else text)
