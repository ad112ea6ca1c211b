"""`ktx-flush report`: a page for a person, to read in a browser."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flusher.commands.shared import (
    Json,
    Quiet,
    complain,
    consent_of,
    identity_of,
    is_shut,
    new_file,
    opened,
    own_home,
    say,
)
from flusher.text import printable
from spool.errors import ConfigurationError, UnsafePathError
from spool.home import Paths, read_bounded, write_state

if TYPE_CHECKING:
    from flusher.report.facts import Facts

__all__ = ["report_command"]

_LARGEST_PAGE_BYTES = 100_000_000


def report_command(  # noqa: PLR0913 - the options of the contract
    context: typer.Context,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    output: Annotated[str | None, typer.Option(help="Where to; report.html in the spool by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no report.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a page that shows what waits and what was sent, and each waiting event as it would leave this machine.

    It is one file that loads nothing, and nothing is sent to make it.
    In the spool only you can read it, and the command disable deletes it.
    A browser that may not read hidden folders needs --output.

    Examples:
      ktx-flush report --open
      ktx-flush report --output telemetry.html
    """
    from flusher.report.facts import gather_facts

    (name, _paths), paths, before = context.obj, own_home(context), identity_of(context)
    if is_shut(context, {"page": None}, as_json=as_json, quiet=quiet):
        return
    with opened(paths) as queue:
        facts = gather_facts(name, paths, os.environ, queue)
    page = _render(facts)
    path = _write_into_spool(paths, page) if output is None else _write(output, page, force=force)
    if before.enabled and output is None and consent_of(context).refused:  # the opt-out may not have seen the page
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise ConfigurationError("telemetry was switched off meanwhile: there is no page; run report again to see that")
    shown = show and _show(path)
    text = f"{printable(str(path))}: {facts.waiting.total:,} events wait, {facts.dead.total:,} dead letters"
    fields = {"page": str(path), "waiting": facts.waiting.total, "dead": facts.dead.total, "opened": shown}
    left_out = {"waiting_left_out": facts.waiting.left_out, "dead_left_out": facts.dead.left_out}
    say({**fields, **left_out}, text, as_json=as_json, quiet=quiet)


def _render(facts: Facts) -> bytes:
    try:
        from flusher.report.page import render
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the report needs {error.name}, which is not installed: pip install 'ktx-spool[report]'"
        ) from error
    return render(facts)


def _write_into_spool(paths: Paths, page: bytes) -> Path:
    if not os.path.isdir(paths.spool):
        raise ConfigurationError(
            f"there is no spool in {paths.home}, so nothing to show: give --output FILE for an empty page"
        )
    try:
        write_state(paths, paths.report_page, page)
    except (OSError, UnsafePathError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{paths.report_page} can't be written: {why}; give --output FILE") from error
    return paths.report_page


def _write(output: str, page: bytes, *, force: bool) -> Path:
    path = Path(os.path.abspath(output))
    with new_file(output, replace=force or _is_report(path)) as file:
        file.write(page)
    return path


def _is_report(path: Path) -> bool:
    """Tell an earlier report, which a newer one may replace, from a file of somebody's own."""
    from flusher.report.page import MARK

    try:
        return read_bounded(path, _LARGEST_PAGE_BYTES, follow=False).startswith(MARK)
    except OSError:
        return False


def _show(path: Path) -> bool:
    import webbrowser

    shown = webbrowser.open(path.as_uri())
    if not shown:
        complain(f"no browser could be started here: open {printable(str(path))} yourself")
    return shown
