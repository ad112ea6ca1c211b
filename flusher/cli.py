"""The command line of `ktx-flush`. Only this module and those that register commands import typer."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from flusher.commands import audit as audit_command
from flusher.commands import doctor as doctor_command
from flusher.commands import events as commands
from flusher.commands import look as look_commands
from flusher.commands import report as report_command
from flusher.commands import schedule
from flusher.commands.letters import printable
from flusher.commands.run_line import run_line
from flusher.commands.shared import Json, Quiet, counted, print_json
from flusher.context import Context, Options, Result, RunReport
from flusher.delivery.gather import BATCH_SIZE
from flusher.observer import Observer
from flusher.run import run
from spool.consent.identity import consent, decide_for_all
from spool.consent.opt_out import wipe
from spool.errors import ConfigurationError, SpoolError
from spool.home.paths import Paths, resolve_home
from spool.launch.start import GUARD
from spool.settings import VERSION, env_prefix

__all__ = ["app", "main"]

USAGE, INTERNAL = 2, 1
# A line may name a path, or hold the words of a server.
_MOST_CHARS = 2_000

app = typer.Typer(
    name="ktx-flush",
    help="Deliver the events that a command-line program has spooled, and look after its spool.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:  # noqa: FBT001 - typer's callback
    if asked:
        typer.echo(f"ktx-flush {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    app_name: Annotated[str, typer.Option("--app", help="Whose spool: ~/.APP, variables APP_*.")] = "ktx",
    home: Annotated[str | None, typer.Option(metavar="DIR", help="The home, instead of $APP_HOME or ~/.APP.")] = None,
    version: Annotated[  # noqa: ARG001, FBT002 - typer's flag, eaten by its callback
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Deliver the events that a command-line program has spooled, and look after its spool.

    With no command, it delivers: `ktx-flush` is `ktx-flush run`.
    """
    try:
        env_prefix(app_name)
        folder = resolve_home(app_name, home, os.environ)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--app") from error
    if folder is None:
        raise ConfigurationError("no home: set HOME, or give --home a folder; nothing was touched")
    context.obj = (app_name, Paths(folder))


@app.command("run")
def run_command(  # noqa: PLR0913 - the options of the contract
    context: typer.Context,
    max_seconds: Annotated[float | None, typer.Option(min=0.0, help="End the run after so long.")] = None,
    max_events: Annotated[int | None, typer.Option(min=1, help="Deliver at most so many events.")] = None,
    max_retries: Annotated[int, typer.Option(min=0, help="Retries of one request; none after a failed run.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, max=10_000, help="Events in one request.")] = BATCH_SIZE,
    force: Annotated[bool, typer.Option("--force", help="Don't wait for the stored next attempt.")] = False,  # noqa: FBT002 - typer's flag
    host: Annotated[str | None, typer.Option(help="PostHog's address, for this run.")] = None,
    key: Annotated[str | None, typer.Option(help="The project key, for this run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; say what waits.")] = False,  # noqa: FBT002 - typer's flag
    spread: Annotated[
        float, typer.Option(min=0.0, max=3600.0, help="Wait a random part of so many seconds first.")
    ] = 0,
    detached: Annotated[bool, typer.Option("--detached", hidden=True)] = False,  # noqa: FBT002 - typer's flag
    quiet: Quiet = False,  # noqa: FBT002 - typer's flag
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Deliver what waits: one pass, until the spool is empty or something says stop.

    Examples:
      ktx-flush
      ktx-flush run --json
      ktx-flush run --force --max-seconds 60
    """
    name, paths = context.obj
    if detached:
        _stand_back(paths)
    work = Context(
        app=name,
        paths=paths,
        options=Options(max_seconds, max_events, max_retries, batch_size, force, host, key, dry_run),
        started_by=_starter(detached=detached),
        observer=Observer() if quiet or as_json else _watcher(),
    )
    _stop_on_signals(work)
    work.stop.wait(work.rng.uniform(0.0, spread))
    report = run(work)
    if as_json:
        print_json(report.as_json())
    elif not quiet and report.result not in (Result.FAILED, Result.MISCONFIGURED):
        typer.echo(run_line(report))
    if report.result.exit_code:
        _say(report.result.exit_code, f"{report.reason}{_fate(report)}")
    raise typer.Exit(report.result.exit_code)


@app.command("status")
def status_command(
    context: typer.Context,
    quiet: Quiet = False,  # noqa: FBT002 - typer's flag
    as_json: Json = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Say what waits, what became of every event, and whether telemetry is on.

    Examples:
      ktx-flush status
      ktx-flush status --json
    """
    from flusher.commands.render import render_status  # noqa: PLC0415 - rich, which a run by cron doesn't need
    from flusher.report.status import collect  # noqa: PLC0415 - with it

    name, paths = context.obj
    status = collect(name, paths, os.environ)
    if as_json:
        print_json(status.as_json())
    elif not quiet:
        render_status(status)
    if status.problem:
        _say(INTERNAL, status.problem)
        raise typer.Exit(INTERNAL)


@app.command("enable")
def enable_command(context: typer.Context, quiet: Quiet = False) -> None:  # noqa: FBT002 - typer's flag
    """Switch telemetry on for this install. It also mends a telemetry.json that doesn't read.

    Examples:
      ktx-flush enable
      ktx-flush --app mycli enable
    """
    name, paths = context.obj
    decide_for_all(paths, enabled=True)
    identity = consent(name, paths, os.environ).identity
    if not quiet:
        typer.echo("telemetry is on" if identity.enabled else f"telemetry stays off here, by {identity.decided_by}")


@app.command("disable")
def disable_command(context: typer.Context, quiet: Quiet = False) -> None:  # noqa: FBT002 - typer's flag
    """Switch telemetry off for this install, and delete everything that waits.

    Examples:
      ktx-flush disable
      ktx-flush --app mycli disable
    """
    _name, paths = context.obj
    decide_for_all(paths, enabled=False)
    gone = wipe(paths)
    if not quiet:
        typer.echo(f"telemetry is off; deleted: {counted(gone, 'event')} that waited")


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


def _watcher() -> Observer:
    """Give a progress bar on a terminal, and nobody where one of the streams is none."""
    streams = (sys.stdout, sys.stderr)
    if os.environ.get("TERM") == "dumb" or not all(stream is not None and stream.isatty() for stream in streams):
        return Observer()
    from flusher.commands.progress import Bar  # noqa: PLC0415 - more of rich, for a person who watches

    return Bar()


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
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)


def with_default_command(arguments: list[str]) -> list[str]:
    """Insert `run` where no command is named: `--app x --force` is `--app x run --force`."""
    position = 0
    while position < len(arguments):
        word = arguments[position]
        if word in ("--app", "--home"):
            position += 2
        elif word.startswith(("--app=", "--home=")):
            position += 1
        elif word in ("-h", "--help", "--version") or word.startswith(("--install-completion", "--show-completion")):
            return arguments
        else:
            return arguments if not word.startswith("-") else [*arguments[:position], "run", *arguments[position:]]
    return [*arguments, "run"]


def main() -> None:
    """Run the command line: one clear line for every failure, and an exit code of the contract."""
    try:
        code = app(with_default_command(sys.argv[1:]), prog_name="ktx-flush", standalone_mode=False)
    except ConfigurationError as error:
        code = _say(USAGE, str(error))
    except (SpoolError, OSError) as error:
        code = _say(INTERNAL, f"{error}; nothing is lost")
    except (typer.Abort, KeyboardInterrupt):
        code = _say(INTERNAL, "stopped; nothing is lost")
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        code = _usage(error)
    sys.exit(code)


def _usage(error: Exception) -> int:
    """Say in one line what the command line got wrong, or what went wrong inside."""
    words = getattr(error, "format_message", None)  # click's own errors, whichever click typer brings
    if words is None:
        return _say(INTERNAL, f"internal error ({type(error).__name__}: {error}); nothing is lost")
    return _say(USAGE, f"{' '.join(words().split()).rstrip('.')} (see ktx-flush --help)")


def _say(code: int, line: str) -> int:
    if sys.stderr is not None:  # closed, as some supervisors do
        sys.stderr.write(f"ktx-flush: {printable(line, _MOST_CHARS)}\n")
    return code


for module in (look_commands, commands, report_command, schedule, doctor_command, audit_command):
    module.register(app)
