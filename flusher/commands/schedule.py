"""`ktx-flush schedule`: have events delivered regularly, by cron, systemd or launchd."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from flusher.commands.shared import Json, identity_of, own_home, print_json, say
from spool.consent import opted_out_by
from spool.errors import ConfigurationError

__all__ = ["schedule"]

schedule = typer.Typer(help="Have events delivered regularly: by cron, a systemd timer or a launchd agent.")


def install_command(
    context: typer.Context,
    every: Annotated[str | None, typer.Option(help="How often: 15m, 6h. As it is now, else 15m.")] = None,
    method: Annotated[str | None, typer.Option(help="cron, systemd or launchd. Else what this machine has.")] = None,
    as_json: Json = False,
) -> None:
    """Have events delivered regularly. To do it twice changes nothing; with another --every, it changes that.

    Examples:
      ktx-flush schedule install
      ktx-flush schedule install --every 6h --method cron
    """
    from flusher.schedule.method import Plan
    from flusher.schedule.planner import install

    (name, _paths), paths = context.obj, own_home(context)
    variable = opted_out_by(name, os.environ)
    if variable is not None:
        text = f"telemetry is off (decided by {variable}, which no schedule would see): nothing was scheduled"
        say({"state": "telemetry off", "reason": variable, **Plan().as_json()}, text, as_json=as_json)
        return
    state, plan = install(name, paths, every, method)
    identity = identity_of(context)
    text = f"{'scheduled' if state == 'installed' else 'scheduled already, nothing was changed'}: {plan.as_line()}"
    if not identity.enabled:
        text += f"\ntelemetry is off (decided by {identity.decided_by}): nothing is sent until it is on"
    if any(one.method == "systemd" for one in plan.installed):
        text += "\nit runs while you are logged in; to have it run always: loginctl enable-linger"
    reason = None if identity.enabled else identity.decided_by
    say({"state": state, "reason": reason, **plan.as_json()}, text, as_json=as_json)


def remove_command(context: typer.Context, as_json: Json = False) -> None:
    """Take the schedule away, and leave everything else in crontab or systemd as it is.

    Examples:
      ktx-flush schedule remove
      ktx-flush --app mycli schedule remove
    """
    from flusher.schedule.planner import remove

    name, paths = context.obj
    methods = [one.method for one in remove(name, paths)]
    text = f"not scheduled any more (it was, by {' and '.join(methods)})" if methods else "nothing was scheduled"
    say({"removed": methods}, text, as_json=as_json)


def show_command(context: typer.Context, as_json: Json = False) -> None:
    """Say what is scheduled, and when it runs next.

    Examples:
      ktx-flush schedule show
      ktx-flush schedule show --json
    """
    from flusher.commands.screen import print_plan
    from flusher.schedule.planner import look, tool

    name, paths = context.obj
    plan = look(name, paths)
    if as_json:
        print_json(plan.as_json())
    else:
        print_plan(plan, tool(name, paths, os.environ))
    if plan.problem:
        raise ConfigurationError(plan.problem)


schedule.command("install")(install_command)
schedule.command("remove")(remove_command)
schedule.command("show")(show_command)
