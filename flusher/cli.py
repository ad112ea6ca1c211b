"""The command line of `ktx-flush`: the options that all commands share, and one line for every failure."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from flusher.commands import (
    audit,
    doctor,
    enable_disable,
    export_import,
    list_show,
    report,
    retry_purge,
    run,
    schedule,
    status,
)
from flusher.commands.shared import complain
from spool.errors import ConfigurationError, SpoolError
from spool.home import Paths, resolve_home
from spool.settings import VERSION, env_prefix

__all__ = ["app", "main"]

_USAGE, _INTERNAL = 2, 1
# In the order of the help.
_COMMANDS = (
    run,
    status,
    enable_disable,
    list_show,
    retry_purge,
    export_import,
    report,
    schedule,
    doctor,
    audit,
)

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
        code = _fail(_USAGE, str(error))
    except (SpoolError, OSError) as error:
        code = _fail(_INTERNAL, f"{error}; nothing is lost")
    except (typer.Abort, KeyboardInterrupt):
        code = _fail(_INTERNAL, "stopped; nothing is lost")
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        code = _usage(error)
    sys.exit(code)


def _usage(error: Exception) -> int:
    """Say in one line what the command line got wrong, or what went wrong inside."""
    words = getattr(error, "format_message", None)  # click's own errors, whichever click typer brings
    if words is None:
        return _fail(_INTERNAL, f"internal error ({type(error).__name__}: {error}); nothing is lost")
    return _fail(_USAGE, f"{' '.join(words().split()).rstrip('.')} (see ktx-flush --help)")


def _fail(code: int, line: str) -> int:
    complain(line)
    return code


for command in _COMMANDS:
    command.register(app)
