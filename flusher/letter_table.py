"""Events as a table on a terminal. What they hold is never taken for markup or for a terminal's escapes."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flusher.letters import Letter, printable

__all__ = ["print_table"]


def print_table(letters: Iterable[Letter], *, dead: bool) -> int:
    """Print a row for each event; gives how many."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("when", no_wrap=True)
    table.add_column("event", overflow="fold")
    table.add_column("uuid", no_wrap=True)
    table.add_column("reason" if dead else "where", overflow="fold")
    for letter in letters:
        message = json.loads(letter.text)
        last = letter.reason if dead else letter.state
        words = (message["timestamp"][:19], message["event"], message["uuid"], last)
        table.add_row(*(Text(printable(str(word))) for word in words))
    if table.row_count:
        Console().print(table, highlight=False)
    else:
        Console().print("no dead letters" if dead else "nothing waits")
    return table.row_count
