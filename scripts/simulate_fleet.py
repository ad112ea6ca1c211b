"""A fleet of installs through an outage of the server, with the flusher's own backoff code, second by second.

    python scripts/simulate_fleet.py [--installs 100000] [--svg fleet.svg]

Each install delivers every 15 minutes, at a second of its own. A request that fails is tried again as in a run
(in_run_wait_s), then the next attempt is stored (after_failure), and made as soon as it is due: on machines
where the host CLI is always in use, which is the worst case for the server. One batch drains an install.

"No jitter" is the same code with the middle or the end of each random span, and all installs on the same second
of the quarter of an hour; "schedule only" has the seconds of their own. Some 40 requests per install are simulated:
100,000 installs take about 15 seconds in all, and 10,000,000 some 10 minutes and 300 MB for each of the three fleets.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, log10
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flusher.delivery.backoff import after_failure, in_run_retries, in_run_wait_s

EVERY_S = 900
MAX_RETRIES = 3
BIN_S = 300
WIDTH = 60
MOST_INSTALLS = 10_000_000
MOST_ROWS = 60


class NoJitter(random.Random):
    """Draws nothing: the end of a span that begins at zero, the middle of any other."""

    def uniform(self, a: float, b: float) -> float:
        """Give the same number every time."""
        return b if a == 0.0 else (a + b) / 2


@dataclass(frozen=True)
class World:
    """What the fleet meets. Seconds from the beginning of the simulation; capacity in requests per second."""

    installs: int
    capacity: int
    outage: tuple[int, int]
    horizon_s: int
    retry_after_s: float | None


@dataclass
class Fleet:
    """The installs: when each is due, how often it failed, and what the server saw of them in each second."""

    world: World
    rng: random.Random
    phases: array[int]
    requests: array[int] = field(init=False)
    refused: int = field(init=False, default=0)
    drained_s: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Put every install where its first delivery is due."""
        self.requests = array("L", [0]) * self.world.horizon_s
        self._due: defaultdict[int, array[int]] = defaultdict(lambda: array("L"))
        self._failures, self._retries = bytearray(self.world.installs), bytearray(self.world.installs)
        self._waits = bytearray(b"\1") * self.world.installs
        self._left = self.world.installs
        for install, phase in enumerate(self.phases):
            self._due[phase].append(install)

    def run(self) -> None:
        """Live until an hour after the last install is drained, or to the horizon."""
        begin, end = self.world.outage
        for second in range(self.world.horizon_s):
            if self.drained_s is not None and second > max(self.drained_s, end) + 3600:
                del self.requests[second:]
                return
            bucket = self._due.pop(second, None)
            if bucket is None:
                continue
            self.requests[second] = len(bucket)
            served = 0 if begin <= second < end else min(len(bucket), self.world.capacity)
            self.refused += 0 if begin <= second < end else len(bucket) - served
            self._serve(bucket[:served], second)
            self._refuse(bucket[served:], second)

    def _serve(self, installs: array[int], second: int) -> None:
        for install in installs:
            self._failures[install] = self._retries[install] = 0
            self._due[second + EVERY_S - (second - self.phases[install]) % EVERY_S].append(install)
            if second >= self.world.outage[1] and self._waits[install]:
                self._waits[install] = 0
                self._left -= 1
                if self._left == 0:
                    self.drained_s = second

    def _refuse(self, installs: array[int], second: int) -> None:
        down = second < self.world.outage[1]
        retry_after_s = None if down else self.world.retry_after_s  # who is down says nothing
        for install in installs:
            retry = self._retries[install]
            if retry < in_run_retries(MAX_RETRIES, self._failures[install], force=False):
                wait_s = in_run_wait_s(retry, retry_after_s, self.rng)
                self._retries[install] = retry + 1
            else:
                failures = self._failures[install] = min(self._failures[install] + 1, 255)
                wait_s = after_failure(failures, second, self.rng, retry_after_s=retry_after_s).delay_s
                self._retries[install] = 0
            self._due[second + max(1, ceil(wait_s))].append(install)


def bins(fleet: Fleet) -> list[tuple[float, int]]:
    """Give mean and peak of the requests per second for each five minutes."""
    cuts = (fleet.requests[start : start + BIN_S] for start in range(0, len(fleet.requests), BIN_S))
    return [(sum(cut) / len(cut), max(cut)) for cut in cuts]


def _bar(value: float, most: float) -> str:
    return "█" * round(WIDTH * log10(1 + value) / log10(1 + most))


def draw(name: str, fleet: Fleet) -> None:
    """Print a bar for each five minutes: the busiest second, on a logarithmic scale."""
    world, most = fleet.world, max(fleet.requests)
    print(f"\n{name}: requests in the busiest second of each 5 minutes (logarithmic)")
    rows = bins(fleet)
    for row, (mean, peak) in enumerate(rows[:MOST_ROWS]):
        start = row * BIN_S
        mark = "down" if world.outage[0] <= start < world.outage[1] else "over" if peak > world.capacity else "    "
        print(
            f"{start // 3600:2}:{start // 60 % 60:02} {mark} {_bar(peak, most):{WIDTH}} {peak:>10,}  mean {mean:,.0f}"
        )
    if len(rows) > MOST_ROWS:
        print(f"   ... and {len(rows) - MOST_ROWS} more")


def table(fleets: dict[str, Fleet]) -> None:
    """Print what the fleets did, side by side."""
    world = next(iter(fleets.values())).world
    print(
        f"{world.installs:,} installs, capacity {world.capacity:,}/s, outage of {world.outage[1] - world.outage[0]} s"
    )
    print(f"{'':38}" + "".join(f"{name:>16}" for name in fleets))
    begin, end = world.outage
    rows: dict[str, Callable[[Fleet], str]] = {
        "requests per second before (mean)": lambda fleet: f"{sum(fleet.requests[:begin]) / begin:,.0f}",
        "busiest second in the outage": lambda fleet: f"{max(fleet.requests[begin:end]):,}",
        "busiest second after it": lambda fleet: f"{max(fleet.requests[end:]):,}",
        "seconds over capacity after it": lambda fleet: f"{sum(n > world.capacity for n in fleet.requests[end:]):,}",
        "requests refused outside the outage": lambda fleet: f"{fleet.refused:,}",
        "last install drained after": lambda fleet: (
            f"not in {world.horizon_s // 3600} h"
            if fleet.drained_s is None
            else f"{(fleet.drained_s - end) / 60:,.0f} min"
        ),
    }
    for label, value in rows.items():
        print(f"{label:38}" + "".join(f"{value(fleet):>16}" for fleet in fleets.values()))


def svg(fleets: dict[str, Fleet]) -> str:
    """Draw the busiest second of each five minutes, one line per fleet, on a logarithmic scale."""
    most = max(max(fleet.requests) for fleet in fleets.values())
    shown = min(MOST_ROWS, max(len(bins(fleet)) for fleet in fleets.values()))

    def place(row: float, value: float) -> str:
        return f"{60 + row * 720 / shown:.1f},{260 - 220 * log10(1 + value) / log10(1 + most):.1f}"

    world = next(iter(fleets.values())).world
    line = place(0, world.capacity), place(shown, world.capacity)
    left, right = (60 + second / BIN_S * 720 / shown for second in world.outage)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 300" font-family="sans-serif" font-size="12">',
        '<rect width="800" height="300" fill="white"/>',
        f'<rect x="{left:.0f}" y="40" width="{right - left:.0f}" height="220" fill="#eee"/>',
        f'<text x="{left + 4:.0f}" y="54">server down</text>',
        f'<polyline points="{line[0]} {line[1]}" stroke="#999" stroke-dasharray="4"/>',
        f'<text x="640" y="{float(line[0].split(",")[1]) - 4:.0f}">capacity {world.capacity:,}/s</text>',
    ]
    for number, (name, fleet) in enumerate(fleets.items()):
        colour = ("#1565c0", "#2e7d32", "#c62828")[number]
        points = " ".join(place(row, peak) for row, (_, peak) in enumerate(bins(fleet)[:shown]))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{60 + 200 * number}" y="24" fill="{colour}">{name}: up to {max(fleet.requests):,}/s</text>'
        )
    parts += [
        f'<text x="{60 + hour * 720 * 12 / shown:.0f}" y="278">{hour} h</text>' for hour in range(shown // 12 + 1)
    ]
    parts += [
        f'<text x="10" y="{place(0, 10**power).split(",")[1]}">{10**power:,}</text>' for power in range(len(str(most)))
    ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Simulate the fleets, print the table and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--installs", type=int, default=100_000)
    parser.add_argument("--capacity", type=int, help="requests per second (default: three times what is usual)")
    parser.add_argument("--outage", type=int, default=3600, help="seconds")
    parser.add_argument("--retry-after", type=float, help="what an overloaded server asks for, in seconds")
    parser.add_argument("--hours", type=int, default=6, help="the horizon")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--svg", type=Path, help="draw them into this file as well")
    options = parser.parse_args()
    begin = 2 * EVERY_S
    if (
        not 1 <= options.installs <= MOST_INSTALLS
        or options.outage < 1
        or options.hours * 3600 <= begin + options.outage
    ):
        parser.error("1 to 10,000,000 installs, and a horizon beyond the outage")
    capacity = options.capacity or max(1, 3 * options.installs // EVERY_S)
    outage = (begin, begin + options.outage)
    world = World(options.installs, capacity, outage, options.hours * 3600, options.retry_after)
    rng = random.Random(options.seed)
    spread = array("H", (int(rng.random() * EVERY_S) for _ in range(options.installs)))
    together = array("H", [0]) * options.installs
    fleets = {
        "with jitter": Fleet(world, rng, spread),
        "schedule only": Fleet(world, NoJitter(), spread),
        "no jitter": Fleet(world, NoJitter(), together),
    }
    for name, fleet in fleets.items():
        started = time.monotonic()
        fleet.run()
        print(
            f"{name}: {sum(fleet.requests):,} requests simulated in {time.monotonic() - started:.1f} s", file=sys.stderr
        )
    table(fleets)
    for name, fleet in fleets.items():
        draw(name, fleet)
    if options.svg:
        options.svg.write_text(svg(fleets), encoding="utf-8")


if __name__ == "__main__":
    main()
