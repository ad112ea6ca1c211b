"""Show what arrives of a command: thirteen ways to end by six kinds of hosts, with real processes.

    .venv/bin/python scripts/ways_to_end.py [HOST...]

A cell is the exit code that the parent sees, with telemetry and without, and the one `command` event. Exit code 1
if there is a cell whose command has none or two, or whose process ends otherwise than without telemetry.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.forks import Ended, run_forked
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import SILENT, flush_json
from tests.support.ways import ENDS, HEAD, HOSTS, LOADED, host_code

Cell = tuple[Ended, Ended, list[dict[str, Any]]]


def play(host: str) -> dict[str, Cell]:
    """End a host in each way, with telemetry and without; give both ends and the events that arrived."""
    cases = {}
    for way, end in ENDS.items():
        for name, off in ((way, "0"), (f"{way}, off", "1")):
            code = host_code(host, end.statement, way).removeprefix(HEAD)
            cases[name] = f"os.environ['DO_NOT_TRACK'] = '{off}'\n{code}"
    with tempfile.TemporaryDirectory() as folder, LocalPostHog() as server:
        home = Path(folder) / "home"
        ended = run_forked(f"{HEAD}{LOADED.get(host, '')}t.capture('x')\n", cases, home, server.url)
        flush_json(home)
        events = [event["properties"] for event in server.accepted if event["event"] == "command"]
    told = {way: [event for event in events if event["commandPath"] == ["ktx", way]] for way in ENDS}
    return {way: (ended[way], ended[f"{way}, off"], told[way]) for way in ENDS}


def shown(cell: Cell) -> str:
    """Write a cell in a few words; what is wrong with it stands in capitals."""
    on, off, events = cell
    code = str(on.code) if on.code == off.code else f"{on.code} INSTEAD OF {off.code}"
    if len(events) != 1:
        return f"{code}: {len(events)} EVENTS"
    (event,) = events
    parts = (event["outcome"], event.get("errorClass", ""), "(killed)" if "spool_recovered" in event else "")
    return f"{code}: {' '.join(filter(None, parts))}"


def main(hosts: list[str]) -> int:
    """Play all hosts, or those that are named, and print the table."""
    for name in SILENT:
        os.environ.pop(name, None)
    table = Table("way to end", *hosts, title="exit code: outcome of the one event", title_justify="left")
    cells = {host: {way: shown(cell) for way, cell in play(host).items()} for host in hosts}
    for way in ENDS:
        table.add_row(way, *(cells[host][way] for host in hosts))
    Console(highlight=False, width=150).print(table)
    right = sum(
        text == text.replace("INSTEAD", "").replace("EVENTS", "") for host in cells.values() for text in host.values()
    )
    total = len(ENDS) * len(hosts)
    print(f"{right} of {total} cells: one event, and the exit code is that without telemetry")
    return 0 if right == total else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(HOSTS)))
