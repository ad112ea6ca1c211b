"""What a person sees: reports as text. JSON is made where the facts are."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flusher.context import RunReport
from flusher.report import Status
from flusher.schedule_table import plan_line
from spool.ledger import Account

__all__ = ["render_run", "render_status"]


def render_run(report: RunReport) -> None:
    """Print one line that says what the run did."""
    parts = [f"{report.delivered:,} delivered"]
    for count, what in (
        (report.absorbed, "absorbed from aside"),
        (report.recovered_spans, "killed commands recovered"),
        (report.expired, "expired"),
        (report.rejected, "rejected"),
        (report.remaining, "remaining"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    line = f"{report.result.value}: {', '.join(parts)} ({report.requests} requests, {report.seconds:.1f} s)"
    Console().print(line, highlight=False)


def render_status(status: Status) -> None:
    """Print the status as a table of two columns."""
    console = Console()
    table = Table.grid(padding=(0, 2))
    state = "[green]on[/]" if status.identity.enabled else "[yellow]off[/]"
    account = status.account
    rows = [
        ("telemetry", f"{state} (decided by {escape(status.identity.decided_by)})"),
        ("pending", _pending(status)),
        ("dead letters", f"{account.dead:,}"),
        (
            "account",
            _sum(account),
        ),
        (
            "losses",
            ", ".join(f"{count:,} {escape(cause)}" for cause, count in sorted(account.losses.items())) or "none",
        ),
        (
            "destination",
            escape(str(status.destination.get("problem") or status.destination["host"]))
            + ("" if status.destination["project_key"] else " (no project key)"),
        ),
        ("last run", escape(_last(status))),
        ("schedule", escape(plan_line(status.schedule))),
        ("on disk", f"{status.bytes / 1024:,.0f} KiB"),
    ]
    for name, value in rows:
        table.add_row(f"[bold]{name}[/]", value)
    if status.problem:
        table.add_row("[bold red]problem[/]", escape(status.problem))
    console.print(table, highlight=False)


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
    flush = status.as_json()
    if flush["last_attempt"] is None:
        return "never"
    text = f"{flush['last_attempt']}: {flush['last_result']}"
    if flush["reason"]:
        text += f", {flush['reason']}"
    if flush["next_attempt"]:
        text += f"; next attempt {flush['next_attempt']}"
    return text


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
