"""What a person sees of a spool. JSON is made where the facts are."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flusher.commands.letters import printable
from flusher.commands.shared import person_reads
from flusher.report.status import Status
from flusher.schedule.table import plan_line
from spool.queue.account import Account

__all__ = ["print_rows", "render_status", "safe"]


def render_status(status: Status) -> None:
    """Print the status in two columns."""
    state = "[green]on[/]" if status.identity.enabled else "[yellow]off[/]"
    account = status.account
    rows = [
        ("telemetry", f"{state} (decided by {safe(status.identity.decided_by)})"),
        ("pending", _pending(status)),
        ("dead letters", f"[red]{account.dead:,}[/]" if account.dead else "0"),
        (
            "account",
            _sum(account),
        ),
        (
            "losses",
            ", ".join(f"{count:,} {safe(cause)}" for cause, count in sorted(account.losses.items())) or "none",
        ),
        (
            "destination",
            safe(str(status.destination.get("problem") or status.destination["host"]))
            + ("" if status.destination["project_key"] else " (no project key)"),
        ),
        ("last run", safe(_last(status))),
        ("schedule", safe(plan_line(status.schedule))),
        ("on disk", f"{status.bytes / 1024:,.0f} KiB"),
    ]
    if status.problem:
        rows.append(("problem", f"[red]{safe(status.problem)}[/]"))
    print_rows(rows)


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Print names and values, the values in rich's markup. Where no terminal is, a line each, and nothing else."""
    console = Console()
    if not person_reads():
        for name, value in rows:
            typer.echo(f"{name:<14}{Text.from_markup(value).plain}")
        return
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table, highlight=False)


def safe(text: str) -> str:
    """Make a text of somebody else harmless inside rich's markup."""
    return escape(printable(text))


def _sum(account: Account) -> str:
    right = f"{account.delivered:,} delivered + {account.pending:,} pending + {account.dead:,} dead"
    return f"{account.captured:,} captured = {right} + {account.lost:,} lost"


def _pending(status: Status) -> str:
    text = f"{status.account.pending:,}"
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
    text = f"{_ago(flush.last_attempt)}: {flush.last_result}"
    if flush.reason:
        text += f", {flush.reason}"
    if flush.next_attempt:
        text += f"; next attempt {_ago(flush.next_attempt)}" if flush.next_attempt > time.time() else "; due again"
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
