"""What spool costs, against what one would take instead and against the floor: ratios, all in one run.

The floor is filelock and diskcache with nothing around them (bench_peers/floor.py).

The peers are installed into `.bench/venv`. Whole processes run in turns, and the median counts; CPU time stands
beside wall time, which another program's load stretches. Exit code 1 if a target is missed or a curve is steep.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import bench_capture, bench_chart, bench_drain, bench_growth, bench_hosts  # noqa: E402 - found just now
from scripts.bench_measure import Row, Setting, machine, prepare, setting  # noqa: E402 - see above

ROWS: dict[str, Callable[[Setting], list[Row]]] = {
    "command": bench_hosts.command,
    "programs": bench_hosts.programs,
    "import": bench_hosts.importing,
    "off": bench_hosts.off,
    "capture": bench_capture.capture,
    "contended": bench_capture.contended,
    "open": bench_capture.opening,
    "interrupt": bench_hosts.interrupt,
    "drain": bench_drain.drain,
    "backlog": bench_growth.backlog,
    "disk": bench_capture.disk,
    "launch": bench_hosts.launch,
}
GROWTH = "growth"
# Measured in this process, so without the peers.
ALONE = {"disk"}


def measure(chosen: list[str], *, quick: bool) -> tuple[list[Row], list[bench_growth.Curve]]:
    """Take the chosen figures, telling on stderr which one is under way."""
    rows: list[Row] = []
    curves: list[bench_growth.Curve] = []
    with setting(quick=quick) as place:
        for name in chosen:
            print(f"{name} ...", file=sys.stderr)
            if name == GROWTH:
                curves = bench_growth.curves(place)
            else:
                rows += ROWS[name](place)
    return rows, curves


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench.py", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and 100,000 events at most, not 1,000,000")
    parser.add_argument("--only", action="append", choices=[*ROWS, GROWTH], help="this figure; may be given again")
    parser.add_argument("--svg", type=Path, help="draw the curves of growth into this file")
    return parser.parse_args()


def main() -> int:
    """Measure, print, draw."""
    asked = options()
    chosen = asked.only or [*ROWS, GROWTH]
    if not ALONE.issuperset(chosen):
        prepare()
    before = machine()
    rows, curves = measure(chosen, quick=asked.quick)
    where = {**before, "load": [before["load"], machine()["load"]]}
    missed = [row.figure for row in rows if row.met is False] + [curve.name for curve in curves if curve.steep]
    if asked.svg and curves:
        asked.svg.write_text(bench_chart.drawing(curves), encoding="utf-8")
    if asked.json:
        told = {"machine": where, "rows": [row.as_json() for row in rows]}
        print(json.dumps({**told, "growth": [curve.as_json() for curve in curves], "missed": missed}))
        return 1 if missed else 0
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(", ".join(f"{name} {value}" for name, value in where.items()))
    if rows:
        console.print(bench_chart.table(rows))
    if curves:
        console.print(bench_chart.curve_table(curves))
    console.print(f"missed: {', '.join(missed)}" if missed else "every target is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
