"""Events on a terminal. What they hold is never taken for markup or for a terminal's escapes."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rich.console import Console
from rich.json import JSON
from rich.table import Table
from rich.text import Text

from flusher.commands.letters import Letter, printable

__all__ = ["print_event", "print_table"]

# Least widths: all columns; all of them with a reason; without where it stands; else uuid and name alone.
_WIDE, _WIDE_WITH_REASON, _MIDDLE = 96, 110, 76


def print_table(letters: Iterable[Letter], *, dead: bool) -> int:
    """Print a row for each event, in as many columns as the terminal has room for; gives how many."""
    console = Console()
    names = _columns(console.width, dead=dead)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=name in ("uuid", "when (UTC)"), overflow="fold")
    for letter in letters:
        cells = _cells(letter)
        table.add_row(*(Text(printable(cells[name])) for name in names))
    if table.row_count:
        console.print(table, highlight=False)
    else:
        console.print("no dead letters" if dead else "nothing waits")
    return table.row_count


def _columns(width: int, *, dead: bool) -> list[str]:
    if dead:
        return ["when (UTC)", "event", "uuid", "reason"] if width >= _WIDE_WITH_REASON else ["uuid", "event: reason"]
    if width < _MIDDLE:
        return ["uuid", "event"]
    return ["when (UTC)", "event", "uuid", "where"] if width >= _WIDE else ["when (UTC)", "event", "uuid"]


def _cells(letter: Letter) -> dict[str, str]:
    message = json.loads(letter.text)
    return {
        "when (UTC)": message["timestamp"][:19].replace("T", " "),
        "event": message["event"],
        "event: reason": f"{message['event']}: {letter.reason}",
        "uuid": message["uuid"],
        "where": letter.state,
        "reason": letter.reason,
    }


def print_event(letter: Letter) -> None:
    """Print one event in colours, in plain ASCII as it would be sent."""
    Console().print(JSON(letter.text, indent=2, ensure_ascii=True), soft_wrap=True)
