"""What a person sees: status, events, schedules, doctor's findings. Only this module and `progress` import rich.

Text from an event, a server or a file is never treated as markup or as escape sequences of a terminal.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.json import JSON
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flusher.commands.shared import person_reads
from flusher.delivery.backoff import is_due
from flusher.events import StoredEvent
from flusher.homes import is_install, shown, similar
from flusher.report.status import Status
from flusher.schedule.method import Plan
from flusher.text import counted, printable
from spool.beside.loss_reasons import LossReason
from spool.queue.account import Account

if TYPE_CHECKING:  # it loads the redaction, which doctor alone needs
    from flusher.doctor.finding import Finding

__all__ = ["print_event", "print_events", "print_findings", "print_plan", "print_status"]


# A line may name a path.
_LONGEST = 2_000


def _print_plain(console: Console, text: str) -> None:
    """Print a text as it is, on one line however long: a command in it can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


# -- status ---------------------------------------------------------------------------------------------------


def print_status(status: Status) -> None:
    """Print the status in two columns; where no terminal is, a line for each row, and nothing else."""
    state = "[green]on[/]" if status.identity.enabled else "[yellow]off[/]"
    destination = _safe(str(status.destination.get("problem") or status.destination["host"]))
    rows = [
        ("home", _safe(_home(status.home))),
        ("telemetry", f"{state} (decided by {_safe(status.identity.decided_by)})"),
        ("pending", _pending(status)),
        *_accounted(status),
        *([("last loss", _safe(_last_loss(status.last_losses)))] if status.last_losses else []),
        ("destination", destination + ("" if status.destination["project_key"] else " (no project key)")),
        ("last run", _safe(_last(status))),
        *([("last launch", f"[red]failed[/]: {_safe(status.launch_problem)}")] if status.launch_problem else []),
        ("schedule", _safe(status.schedule.as_line())),
        ("on disk", f"{status.bytes / 1024:,.0f} KiB"),
    ]
    if status.problem:
        rows.append(("problem", f"[red]{_safe(status.problem)}[/]"))
    console = Console()
    if not person_reads():
        for name, value in rows:
            typer.echo(f"{name:<14}{Text.from_markup(value).plain}")
        return
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table, highlight=False)


def _home(home: Path) -> str:
    return shown(home) + ("" if is_install(home) else f" (nothing was ever spooled there{similar(home)})")


def _accounted(status: Status) -> list[tuple[str, str]]:
    account = status.account
    losses = ", ".join(f"{count:,} {_safe(cause)}" for cause, count in sorted(account.losses.items())) or "none"
    if status.problem:
        return [("dead letters", "not known"), ("account", "not known"), ("losses", "not known")]
    return [
        ("dead letters", f"[red]{account.dead:,}[/]" if account.dead else "0"),
        ("account", _sum(account)),
        ("losses", losses),
    ]


def _safe(text: str) -> str:
    """Make a text of somebody else harmless inside rich's markup."""
    return escape(printable(text))


def _sum(account: Account) -> str:
    right = f"{account.delivered:,} delivered + {account.pending:,} pending + {account.dead:,} dead"
    return f"{account.captured:,} captured = {right} + {account.lost:,} lost"


def _last_loss(reasons: list[LossReason]) -> str:
    """Say the newest reason, and where the others are."""
    last = reasons[-1]
    more = f"; {counted(len(reasons) - 1, 'reason')} more by --json" if len(reasons) > 1 else ""
    return f"{last.at} {last.event} ({last.cause}): {last.reason}{more}"


def _pending(status: Status) -> str:
    text = "not known" if status.problem else f"{status.account.pending:,}"
    if status.aside:
        text += f", {status.aside:,} of them aside"
    if status.open_spans:
        text += f"; {status.open_spans:,} commands under way or killed"
    if status.oldest_age_s is not None:
        text += f"; the oldest for {_duration(status.oldest_age_s)}"
    return text


def _last(status: Status) -> str:
    flush = status.flush
    if flush.last_attempt is None:
        return "never"
    ahead = flush.last_attempt > time.time()
    text = f"{'by a clock ahead of this one, ' if ahead else ''}{_ago(flush.last_attempt)}: {flush.last_result}"
    if flush.reason:
        text += f", {flush.reason}"
    if flush.next_attempt:
        waits = not is_due(flush.waiting, time.time())
        text += f"; next attempt {_ago(flush.next_attempt)}" if waits else "; due again"
    return text


def _ago(moment_s: float) -> str:
    """Say a moment as a person counts, and by the clock."""
    seconds = time.time() - moment_s
    stamp = datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{_duration(seconds)} ago ({stamp})" if seconds >= 0 else f"in {_duration(-seconds)} ({stamp})"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


# -- events ---------------------------------------------------------------------------------------------------

# Least widths: all columns; all of them with a reason; without where it stands; else uuid and name alone.
_WIDE, _WIDE_WITH_REASON, _MIDDLE = 96, 110, 76


def print_events(events: Iterable[StoredEvent], *, dead: bool) -> None:
    """Print a row for each event, in as many columns as the terminal has room for."""
    console = Console()
    names = _columns(console.width, dead=dead)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=name in ("uuid", "when (UTC)"), overflow="fold")
    for event in events:
        cells = _cells(event)
        table.add_row(*(Text(printable(cells[name])) for name in names))
    if table.row_count:
        console.print(table, highlight=False)
    else:
        console.print("no dead letters" if dead else "nothing waits")


def _columns(width: int, *, dead: bool) -> list[str]:
    if dead:
        return ["when (UTC)", "event", "uuid", "reason"] if width >= _WIDE_WITH_REASON else ["uuid", "event: reason"]
    if width < _MIDDLE:
        return ["uuid", "event"]
    return ["when (UTC)", "event", "uuid", "where"] if width >= _WIDE else ["when (UTC)", "event", "uuid"]


def _cells(event: StoredEvent) -> dict[str, str]:
    message = json.loads(event.text)
    return {
        "when (UTC)": message["timestamp"][:19].replace("T", " "),
        "event": message["event"],
        "event: reason": f"{message['event']}: {event.reason}",
        "uuid": message["uuid"],
        "where": event.state,
        "reason": event.reason,
    }


def print_event(event: StoredEvent) -> None:
    """Print one event in colours, in plain ASCII as it would be sent."""
    Console().print(JSON(event.text, indent=2, ensure_ascii=True), soft_wrap=True)


# -- schedules and findings -----------------------------------------------------------------------------------


def print_plan(plan: Plan, tool: str) -> None:
    """Print each schedule as a few lines, or how to make one with this tool; the commands can be copied."""
    console = Console()
    if not plan.installed:
        _print_plain(console, f"nothing is scheduled: {printable(tool, _LONGEST)} schedule install")
    for one in plan.installed:
        rows = {
            "runs": f"{one.often}, by {one.method} ({one.where})",
            "next": one.next_words,
            "command": shlex.join(one.command),
        }
        for name, value in rows.items():
            console.print(f"[bold]{name:8}[/]", end=" ")
            _print_plain(console, printable(value, _LONGEST))


_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def print_findings(findings: Iterable[Finding]) -> None:
    """Print a line for each finding, and below it how to mend it. No line is broken: a command can be copied."""
    console = Console()
    for finding in findings:
        console.print(f"[{_COLOURS[finding.state]}]{finding.state:4}[/]  [bold]{finding.name:12}[/]", end=" ")
        _print_plain(console, printable(finding.what, _LONGEST))
        if finding.mend is not None:
            _print_plain(console, printable(f"{'':19}mend: {finding.mend}", _LONGEST))
