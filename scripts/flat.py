"""Does the queue stay flat? The same operations on a backlog of 1,000 events and on one of --events.

Prints a table; exit code 1 if an operation takes more than twice as long on the large backlog.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flusher.context import BATCH_SIZE  # noqa: E402 - found through the line above
from flusher.delivery.gather import batches, text_size  # noqa: E402 - as above
from spool.home import Paths  # noqa: E402 - see above
from spool.queue import Queue  # noqa: E402 - see above
from spool.settings import Limits  # noqa: E402 - see above

SMALL = 1_000
LARGEST_RATIO = 2.0
ROUNDS = 101
NO_LIMITS = Limits(max_events=2**40, max_bytes=2**50)


def event() -> str:
    """Make the text of an event of ordinary size, as a host would."""
    fields = {"tableCount": 12, "columnCount": 140, "outcome": "ok", "durationMs": 4711, "note": "x" * 300}
    return json.dumps(
        {
            "uuid": str(uuid.uuid4()),
            "event": "scan_completed",
            "distinct_id": "00000000-0000-4000-8000-000000000000",
            "timestamp": "2026-01-01T00:00:00.000000Z",
            "properties": {**fields, "$lib": "ktx-spool", "$ignore_sent_at": True},
        },
        separators=(",", ":"),
    )


def fill(folder: Path, count: int) -> Queue:
    """Make a queue with so many events."""
    queue = Queue(Paths(folder), NO_LIMITS, wait_s=60.0)
    for start in range(0, count, 2_000):
        queue.append_all(event() for _ in range(min(2_000, count - start)))
    return queue


def first_batch(queue: Queue) -> None:
    """Read what one request would carry."""
    assert len(next(batches(queue.gather(), text_size))) == BATCH_SIZE  # noqa: S101 - a measurement of nothing is worth nothing


OPERATIONS: dict[str, Callable[[Queue], object]] = {
    "append": lambda queue: queue.append(event()),
    "account": lambda queue: queue.account(),
    "first batch of 500": first_batch,
}


def measure(small: Queue, large: Queue) -> float:
    """Time each operation on both, in turns, so that a busy machine hits both; give the worst ratio."""
    worst = 0.0
    for name, operation in OPERATIONS.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for queue, taken in zip((small, large), times, strict=True):
                started = time.perf_counter()
                operation(queue)
                taken.append(1000 * (time.perf_counter() - started))
        one, other = map(statistics.median, times)
        worst = max(worst, other / one)
        print(f"{name:20} {one:9.3f} ms {other:9.3f} ms   ratio {other / one:.2f}")
    return worst


def disk_bytes(folder: Path) -> int:
    """Add up what the files of a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def memory_bytes() -> int:
    """Give what this process has in memory now (Linux; 0 elsewhere)."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def drain(queue: Queue) -> tuple[int, float, int]:
    """Settle everything in batches; give how many, the seconds, and by how much the memory grew meanwhile."""
    started, before, peak, settled = time.perf_counter(), memory_bytes(), 0, 0
    for batch in batches(queue.gather(), text_size):
        settled += queue.settle(batch)
        peak = max(peak, memory_bytes())
    return settled, time.perf_counter() - started, max(0, peak - before)


def main() -> int:
    """Build both backlogs, measure, drain, print."""
    parser = argparse.ArgumentParser(prog="scripts/flat.py", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="the large backlog (default: 1,000,000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ktx-spool-flat-") as name:
        folders = {SMALL: Path(name) / "small", options.events: Path(name) / "large"}
        small, large = (fill(folder, count) for count, folder in folders.items())
        print(f"{'median of ' + str(ROUNDS):20} {SMALL:12,} {options.events:12,} events")
        worst = measure(small, large)
        for queue, (count, folder) in zip((small, large), folders.items(), strict=True):
            full = disk_bytes(folder)
            settled, seconds, grown = drain(queue)
            queue.close()
            print(
                f"{count:,} events: {full / count:.0f} bytes of disk per event; {settled:,} settled in {seconds:.1f} s,"
                f" memory grew by {grown / 2**20:.1f} MiB; {disk_bytes(folder):,} bytes of disk after drain and close"
            )
    return 1 if worst > LARGEST_RATIO else 0


if __name__ == "__main__":
    sys.exit(main())
