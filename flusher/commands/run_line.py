"""A run as one line, for a person or a log."""

from __future__ import annotations

from flusher.commands.letters import printable
from flusher.context import Result, RunReport

__all__ = ["run_line"]


def run_line(report: RunReport) -> str:
    """Say in one line what the run did."""
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
    requests = f"{report.requests:,} request{'' if report.requests == 1 else 's'}"
    line = f"{', '.join(parts)} ({requests}, {report.seconds:.1f} s)"
    if report.result is Result.NOTHING and report.reason:  # a dry run: what remains is not nothing
        line = f"{printable(report.reason)}: {line}"
    elif report.result is not Result.DELIVERED:
        why = f" ({printable(report.reason)})" if report.reason and not report.result.exit_code else ""
        line = f"{report.result.value}{why}: {line}"
    return f"{line}; next attempt {report.next_attempt}" if report.next_attempt else line
