"""A schedule as text, for a person."""

from __future__ import annotations

import shlex
from datetime import datetime

from rich.console import Console

from flusher.commands.letters import printable
from flusher.schedule.installed import Installed, Plan

__all__ = ["plan_line", "render_plan"]


def plan_line(plan: Plan) -> str:
    """Say in one line what is scheduled."""
    if not plan.installed:
        return "nothing (a host with flush=auto starts a flusher by itself)"
    line = "; ".join(f"{_often(one)} by {one.method}, next {_moment(one.next_run)}" for one in plan.installed)
    return f"{line} ({plan.problem})" if plan.problem else line


def render_plan(plan: Plan, tool: str) -> None:
    """Print each schedule as a few lines, or how to make one with this tool; the commands can be copied."""
    console = Console()
    if not plan.installed:
        line = f"nothing is scheduled: {printable(tool, 2_000)} schedule install"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for one in plan.installed:
        rows = {
            "runs": f"{_often(one)}, by {one.method} ({one.where})",
            "next": _moment(one.next_run),
            "command": shlex.join(one.command),
        }
        for name, value in rows.items():
            console.print(f"[bold]{name:8}[/]", end=" ")
            console.print(printable(value, 2_000), markup=False, highlight=False, soft_wrap=True)


def _often(one: Installed) -> str:
    return f"every {one.every}" if one.every else "unevenly"


def _moment(moment: datetime | None) -> str:
    return "unknown" if moment is None else moment.strftime("%Y-%m-%d %H:%M %Z")
