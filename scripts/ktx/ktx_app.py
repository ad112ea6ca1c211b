"""The example host: a small Typer program, instrumented the way a real one should be.

Two rules make its events trustworthy. Every target passes through one function, `ingest_target`, so no path
out can forget its event. And arguments are checked inside that function, not by Typer (`exists=True` would
refuse a missing file before anybody could report it).
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from ktx_render import as_json, as_text, printable
from ktx_scan import NO_SCAN, Fault, Scan, ScanError, Table, preflight, scan
from ktx_telemetry import VERSION, telemetry

app = typer.Typer(
    name="ktx",
    help="Learn the shape of a database.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # rich would print local variables, the user's data among them
)

mcp_commands = typer.Typer(help="Serve agents by the Model Context Protocol.", no_args_is_help=True)
app.add_typer(mcp_commands, name="mcp")

BAD_INPUT = {Fault.MISSING, Fault.DIRECTORY, Fault.NOT_A_FILE, Fault.NOT_A_DATABASE}

# What telemetry says about a failure: fixed texts, so that no path, name or value of the user's can slip in.
ERROR_DETAIL = {
    Fault.MISSING: "the database file does not exist",
    Fault.DIRECTORY: "the database path is a directory",
    Fault.NOT_A_FILE: "the database path is not a regular file",
    Fault.NOT_A_DATABASE: "the file is not a SQLite database or is encrypted",
    Fault.LOCKED: "the database stayed locked by another process",
    Fault.DAMAGED: "the database file is damaged",
    Fault.UNREADABLE: "the database can not be read",
}


class Driver(StrEnum):
    """The kinds of database that can be ingested."""

    SQLITE = "sqlite"


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to ingest. `pause_s` seconds pass after each table, for those who want to interrupt it."""

    driver: Driver
    path: Path
    pause_s: float = 0.0


Emit = Callable[[Scan, dict[str, Any]], None]


def ingest_target(target: Target) -> Scan:
    """Ingest one target: the chokepoint, the only way in.

    Exactly one `ingest_completed` is captured when this returns or raises: on success, when the preflight
    refuses, on any failure. Only an interrupt passes without it: that is the `command` event's to tell.
    Raises ScanError as `scan` does.
    """

    def work() -> Scan:
        preflight(target.path)
        return scan_database(target)

    def emit(found: Scan, outcome: dict[str, Any]) -> None:
        telemetry().capture(
            "ingest_completed",
            {
                "driver": target.driver.value,
                "isDemoConnection": False,
                "schemaCount": found.schema_count,
                "tableCount": found.table_count,
                "columnCount": found.column_count,
                "rowsBucket": found.rows_bucket,
                **outcome,
            },
        )

    return _reported(work, emit)


def scan_database(target: Target) -> Scan:
    """Scan a database that passed the preflight. Exactly one `scan_completed`, as in `ingest_target`."""

    def work() -> Scan:
        return scan(target.path, target.pause_s, on_table=_progress if target.pause_s else _silence)

    def emit(found: Scan, outcome: dict[str, Any]) -> None:
        telemetry().capture(
            "scan_completed",
            {
                "driver": target.driver.value,
                "tableCount": found.table_count,
                "columnCount": found.column_count,
                "inferredFkCount": found.inferred_fk_count,
                "declaredFkCount": found.declared_fk_count,
                **outcome,
            },
        )

    return _reported(work, emit)


def _reported(work: Callable[[], Scan], emit: Emit) -> Scan:
    """Run `work` and call `emit` once, with what was found and how it ended; its error goes on unchanged."""
    started_s = time.monotonic()
    try:
        found = work()
    except Exception as error:
        emit(NO_SCAN, _ended(started_s, "error") | _blamed(error))
        raise
    emit(found, _ended(started_s, "ok"))
    return found


def _ended(started_s: float, outcome: str) -> dict[str, Any]:
    return {"durationMs": (time.monotonic() - started_s) * 1000, "outcome": outcome}


def _blamed(error: Exception) -> dict[str, Any]:
    if isinstance(error, ScanError):
        return {"errorClass": error.error_class.value, "errorDetail": ERROR_DETAIL[error.error_class]}
    return {"errorClass": type(error).__name__}


@app.command()
def ingest(
    database: Annotated[Path, typer.Argument(metavar="DB", help="The database file.")],
    *,
    slow: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Pause after each table.")] = 0.0,
    machine: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    driver: Annotated[Driver, typer.Option(help="The kind of database.")] = Driver.SQLITE,
) -> None:
    """Count the tables, columns, rows and foreign keys of DB. It is not changed."""
    try:
        found = ingest_target(Target(driver, database, slow))
    except ScanError as error:
        typer.echo(f"ktx: {printable(str(error))}", err=True)
        raise typer.Exit(2 if error.error_class in BAD_INPUT else 1) from error
    typer.echo(as_json(found) if machine else as_text(found))


@app.command()
def status() -> None:
    """Say whether telemetry is on, and why."""
    identity, paths = telemetry().identity, telemetry().paths
    typer.echo(f"version    {VERSION}")
    typer.echo(f"telemetry  {'on' if identity.enabled else 'off'} (decided by: {identity.decided_by})")
    typer.echo(f"home       {paths.home if paths else 'none can be named'}")


@mcp_commands.command()
def stdio() -> None:
    """Serve MCP on stdin and stdout, until they are closed."""
    try:
        from ktx_mcp import serve  # noqa: PLC0415 - the SDK takes long to load; no other command pays for it
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] != "mcp":
            raise
        typer.echo("ktx: this command needs the MCP SDK: pip install 'mcp>=2.3'", err=True)
        raise typer.Exit(1) from error
    serve()


@app.command()
def daemon(
    *,
    listen: Annotated[
        Path | None, typer.Option("--socket", metavar="FILE", help="Where to listen; daemon.sock in the home.")
    ] = None,
) -> None:
    """Serve requests on a Unix socket, until one says stop."""
    paths = telemetry().paths
    if listen is None and paths is not None:
        listen = paths.home / "daemon.sock"
    if listen is None:
        typer.echo("ktx: there is no home to listen in: say --socket FILE", err=True)
        raise typer.Exit(2)
    if sys.platform == "win32":
        typer.echo("ktx: this command needs Unix sockets, which Windows hasn't", err=True)
        raise typer.Exit(1)
    else:  # noqa: RET506 - mypy passes over a branch for another system, not over what follows one
        from ktx_daemon import DaemonError, serve  # noqa: PLC0415 - see above

        try:
            serve(listen)
        except DaemonError as error:
            typer.echo(f"ktx: {printable(str(error))}", err=True)
            raise typer.Exit(1) from error


def main() -> None:
    """Run the program: the process entry."""
    telemetry().main(app)


def _progress(table: Table) -> None:
    typer.echo(f"scanned {printable(table.name)}", err=True)


def _silence(_: Table) -> None:
    pass
