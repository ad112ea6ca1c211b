"""`ktx-flush run`: deliver what waits. It is what runs where no command is named."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from flusher.commands.shared import Json, Quiet, complain, print_json
from flusher.context import BATCH_SIZE, Context, Observer, Options, Result, RunReport
from flusher.run import run
from flusher.text import counted, printable
from spool.home import Paths
from spool.settings import GUARD

__all__ = ["run_command"]

_MOST_SAID = 1_000


def run_command(  # noqa: PLR0913 - the options of the contract
    context: typer.Context,
    max_seconds: Annotated[float | None, typer.Option(min=0.0, help="End the run after so long.")] = None,
    max_events: Annotated[int | None, typer.Option(min=1, help="Deliver at most so many events.")] = None,
    max_retries: Annotated[int, typer.Option(min=0, help="Retries of one request; none after a failed run.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, max=10_000, help="Events in one request.")] = BATCH_SIZE,
    force: Annotated[bool, typer.Option("--force", help="Don't wait for the stored next attempt.")] = False,
    host: Annotated[str | None, typer.Option(help="PostHog's address, for this run.")] = None,
    key: Annotated[str | None, typer.Option(help="The project key, for this run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; say what waits.")] = False,
    spread: Annotated[
        float, typer.Option(min=0.0, max=3600.0, help="Wait a random part of so many seconds first.")
    ] = 0,
    wait: Annotated[float, typer.Option(min=0.0, help="Wait so many seconds for a flusher that is at work.")] = 0,
    detached: Annotated[bool, typer.Option("--detached", hidden=True)] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Deliver what waits: one pass, until the spool is empty or something says stop.

    Examples:
      ktx-flush
      ktx-flush run --json
      ktx-flush run --force --max-seconds 60
    """
    name, paths = context.obj
    if GUARD in os.environ:
        _say_no_more(paths)
    if detached:
        _stand_back(paths)
    work = Context(
        app=name,
        paths=paths,
        options=Options(max_seconds, max_events, max_retries, batch_size, force, host, key, dry_run, wait),
        started_by=_starter(detached=detached),
        observer=Observer() if quiet or as_json else _observer(),
    )
    _stop_on_signals(work)
    work.stop.wait(work.rng.uniform(0.0, spread))
    report = run(work)
    with suppress(BrokenPipeError):  # who called may read no more: what was done is done, and the exit code tells it
        if as_json:
            print_json(report.as_json())
        elif not quiet and report.result not in (Result.FAILED, Result.MISCONFIGURED):
            typer.echo(_line(report))
    if report.result.exit_code:
        complain(f"{report.reason}{_fate(report)}")
    raise typer.Exit(report.result.exit_code)


def _line(report: RunReport) -> str:
    """Say in one line what the run did, for a person or a log."""
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
    line = f"{', '.join(parts)} ({counted(report.requests, 'request')}, {report.seconds:.1f} s)"
    if report.result is Result.NOTHING and report.reason:  # a dry run: what remains is not nothing
        line = f"{printable(report.reason)}: {line}"
    elif report.result is not Result.DELIVERED:
        why = f" ({printable(report.reason)})" if report.reason and not report.result.exit_code else ""
        line = f"{report.result.value}{why}: {line}"
    line += f"; {printable(report.set_aside, _MOST_SAID)}" if report.set_aside else ""
    return f"{line}; next attempt {report.next_attempt}" if report.next_attempt else line


def _fate(report: RunReport) -> str:
    """Say what a run that failed means for the events, where its reason doesn't."""
    if report.result in (Result.MISCONFIGURED, Result.UNREACHABLE, Result.REFUSED):
        return "; the events are kept"
    return ""


def _starter(*, detached: bool) -> str:
    """Tell who started this run, as far as it can be known."""
    if detached:
        return "host"
    if GUARD in os.environ:
        return "waiting host"
    return "person" if sys.stderr is not None and sys.stderr.isatty() else "script"


def _observer() -> Observer:
    """Give a progress bar on a terminal, and nobody where one of the streams is none."""
    streams = (sys.stdout, sys.stderr)
    if os.environ.get("TERM") == "dumb" or not all(stream is not None and stream.isatty() for stream in streams):
        return Observer()
    from flusher.commands.progress import Bar

    return Bar()


def _say_no_more(paths: Paths) -> None:
    """Tell the host that this flusher is at work: from now on `flush.json` says what becomes of it."""
    with suppress(OSError):
        os.unlink(paths.launch_errors)
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)


def _stand_back(paths: Paths) -> None:
    """Hold no working folder of the person's, and leave the processor to others."""
    with suppress(OSError):  # no spool: there is nothing to flush
        os.chdir(paths.spool)
    if hasattr(os, "nice"):
        os.nice(max(0, 10 - os.nice(0)))  # whoever started it may have done so already


def _stop_on_signals(work: Context) -> None:
    """End the run between two batches; a second signal ends it as it would any program."""

    def stop(number: int, _frame: Any) -> None:
        work.stop.set()
        signal.signal(number, signal.SIG_DFL)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        with suppress(AttributeError, ValueError):  # not on Windows; not in a thread, as where a host makes Telemetry
            signal.signal(getattr(signal, name), stop)
