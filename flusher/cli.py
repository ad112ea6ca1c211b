"""The command line of `ktx-flush`: the options that all commands share, and one line for every failure."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from flusher.commands.enable_disable import disable_command, enable_command
from flusher.commands.events import list_command, purge_command, retry_command, show_command
from flusher.commands.export_import import export_command, import_command
from flusher.commands.health import audit_command, doctor_command, status_command
from flusher.commands.report import report_command
from flusher.commands.run import run_command
from flusher.commands.schedule import schedule
from flusher.commands.shared import complain
from flusher.context import NO_HOME
from flusher.text import error_words
from spool.errors import ConfigurationError, SpoolError
from spool.home import Paths, resolve_home
from spool.settings import VERSION, env_prefix

__all__ = ["app", "main"]

_USAGE, _INTERNAL = 2, 1
# The longest option has room in a box of the help from 64 columns on.
_BOXES_WIDTH = 64
# In the order of the help.
_COMMANDS: dict[str, Callable[..., None]] = {
    "run": run_command,
    "status": status_command,
    "enable": enable_command,
    "disable": disable_command,
    "list": list_command,
    "show": show_command,
    "retry": retry_command,
    "purge": purge_command,
    "export": export_command,
    "import": import_command,
    "report": report_command,
    "doctor": doctor_command,
    "audit": audit_command,
}

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
    if folder is None and home is not None:
        raise ConfigurationError("--home names no folder: give it one; nothing was touched")
    context.obj = (app_name, Paths(folder or NO_HOME))


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


def _fit_help(group: typer.Typer) -> None:
    """Have a narrow terminal's help as plain text, with an example to a line: in boxes, names of options are cut."""
    group.rich_markup_mode = None
    for command in group.registered_commands:
        text = inspect.cleandoc(command.help or getattr(command.callback, "__doc__", None) or "")
        command.help = text.replace("\n\nExamples:", "\n\n\b\nExamples:")  # the mark of a paragraph that is not filled
        command.short_help = text.partition("\n\n")[0]  # or it would be cut in the list of commands
    for other in group.registered_groups:
        if other.typer_instance is not None:
            _fit_help(other.typer_instance)
            other.short_help = other.typer_instance.info.help


def main() -> None:
    """Run the command line: one clear line for every failure, and an exit code of the contract."""
    if shutil.get_terminal_size().columns < _BOXES_WIDTH:
        _fit_help(app)
    try:
        code = app(with_default_command(sys.argv[1:]), prog_name="ktx-flush", standalone_mode=False)
    except ConfigurationError as error:
        code = _fail(_USAGE, str(error))
    except (SystemExit, BrokenPipeError):  # typer's end, and ours, where the reader of stdout has gone (`| head`)
        code = 0  # it has what it wanted
    except (SpoolError, OSError) as error:
        code = _fail(_INTERNAL, f"{error_words(error)}; nothing is lost")
    except (typer.Abort, KeyboardInterrupt):
        code = _fail(_INTERNAL, "stopped; nothing is lost")
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        code = _usage(error)
    _end_output()
    sys.exit(code)


def _end_output() -> None:
    """Print what is left; where its reader has gone it goes nowhere, or Python would complain at its own end."""
    try:
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _usage(error: Exception) -> int:
    """Say in one line what the command line got wrong, or what went wrong inside."""
    words = getattr(error, "format_message", None)  # click's own errors, whichever click typer brings
    if words is None:
        return _fail(_INTERNAL, f"internal error ({type(error).__name__}: {error}); nothing is lost")
    said = " ".join(words().split()).rstrip(".")
    for option in ("--app", "--home"):
        if f"No such option: {option}" in said:
            said = f"{option} belongs before the command: ktx-flush {option} ... {_command_named()}".rstrip()
    return _fail(_USAGE, f"{said} (see ktx-flush --help)")


def _command_named() -> str:
    return next((word for word in sys.argv[1:] if word in _COMMANDS or word == "schedule"), "")


def _fail(code: int, line: str) -> int:
    complain(line)
    return code


for name, command in _COMMANDS.items():
    app.command(name)(command)
app.add_typer(schedule, name="schedule")
