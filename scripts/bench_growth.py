"""The same figures as the backlog and the number of writers grow. What is steep with the backlog is a defect."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scripts.bench_capture import put
from scripts.bench_drain import drained
from scripts.bench_measure import Bound, Row, Setting
from scripts.flat import OPERATIONS, disk_bytes, fill
from spool.queue import Queue

__all__ = ["Curve", "backlog", "curves"]

WRITERS = (1, 4, 16, 64)
SMALL, ROUNDS = 10_000, 101
# Twice as long on a thousand times the backlog: no search tree explains more.
STEEP = 2.0


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure at each size. `steep` where it grows more than it may."""

    name: str
    unit: str
    sizes: tuple[int, ...]
    values: tuple[float, ...]
    steep: bool

    def as_json(self) -> dict[str, Any]:
        """Give the curve for a program to read."""
        return asdict(self)


def sizes(setting: Setting) -> tuple[int, ...]:
    """Give the backlogs to measure."""
    return (1_000, 10_000, 100_000) if setting.quick else (1_000, 10_000, 100_000, 1_000_000)


def backlog(setting: Setting) -> list[Row]:
    """Rate and peak memory of the flusher at the largest backlog against 10,000 events."""
    largest = sizes(setting)[-1]
    large, small = _at_backlog(setting, largest), _at_backlog(setting, SMALL)
    name = f"at {SMALL:,}"
    return [
        Row(f"drain rate at {largest:,}", "events/s", large["drain"], name, small["drain"], Bound("ratio", ">=", 0.9)),
        Row(f"peak memory at {largest:,}", "MiB", large["peak memory"], name, small["peak memory"],
            Bound("ratio", "<=", 1.1)),
        Row(f"peak memory at {largest:,}", "MiB", large["peak memory"], target=Bound("value", "<=", 80)),
    ]  # fmt: skip


def curves(setting: Setting) -> list[Curve]:
    """Measure all sizes; `backlog` and this share what they measure."""
    waiting = {size: _at_backlog(setting, size) for size in sizes(setting)}
    writing = {writers: _at_writers(setting, writers) for writers in WRITERS}
    return [
        *(_curve(name, unit, waiting, bound) for name, unit, bound in _WAITING),
        *(_curve(name, unit, writing, _any) for name, unit in _WRITING),
    ]


def _flat(first: float, last: float) -> bool:
    return last > STEEP * first


def _rising(first: float, last: float) -> bool:
    return last < first / STEEP


def _any(_first: float, _last: float) -> bool:
    return False


_Steep = Callable[[float, float], bool]
_WAITING: tuple[tuple[str, str, _Steep], ...] = (
    ("append", "ms", _flat),
    ("account", "ms", _flat),
    ("first batch of 500", "ms", _flat),
    ("open", "ms", _flat),
    ("disk", "bytes/event", _flat),
    ("drain", "events/s", _rising),
    ("peak memory", "MiB", _flat),
)
# Writers wait for each other, and no system has a file lock with a deadline: what that may cost, the floor says, with
# targets at 16 writers (bench_capture.py).
_WRITING = (
    ("capture p50", "us"),
    ("floor p50", "us"),
    ("capture p99", "ms"),
    ("floor p99", "ms"),
    ("CPU of a capture", "us"),
    ("captured by all", "events/s"),
    ("floor by all", "events/s"),
)


def _curve(name: str, unit: str, measured: Mapping[int, Mapping[str, float]], steep: _Steep) -> Curve:
    values = tuple(figures[name] for figures in measured.values())
    return Curve(name, unit, tuple(measured), values, steep(values[0], values[-1]))


def _at_backlog(setting: Setting, size: int) -> dict[str, float]:
    """Measure on a backlog of a size: the operations of `flat.py`, then a drain by the real flusher."""
    if size in setting.backlogs:
        return setting.backlogs[size]
    figures = setting.backlogs[size] = {}
    home = setting.home("backlog")
    queue = fill(home, size - 2)
    for name, operation in OPERATIONS.items():
        figures[name] = 1000 * statistics.median(_seconds(operation, queue) for _ in range(ROUNDS))
    queue.close()
    pending = size + ROUNDS  # those that `append` added
    figures["disk"] = disk_bytes(home / "spool" / "queue") / pending
    figures["open"] = 1000 * statistics.median(setting.look("open", home)["wall_s"] for _ in range(7))
    spent = drained(setting, home, pending)
    figures["drain"] = pending / spent.wall_s
    figures["peak memory"] = spent.peak_bytes / 2**20
    return figures


def _seconds(operation: Callable[[Queue], object], queue: Queue) -> float:
    started = time.perf_counter()
    operation(queue)
    return time.perf_counter() - started


def _at_writers(setting: Setting, writers: int) -> dict[str, float]:
    """Let so many processes capture at once; the same number of appends by the floor."""
    count = max(25, 800 // writers)
    ours = put(setting.new_folder("writers"), "spool", writers, count)
    its = put(setting.new_folder("writers"), "floor", writers, count)
    return {
        "capture p50": ours.p50_us,
        "floor p50": its.p50_us,
        "capture p99": ours.p99_ms,
        "floor p99": its.p99_ms,
        "CPU of a capture": 1e6 * ours.cpu_s,
        "captured by all": writers * count / ours.span_s,
        "floor by all": writers * count / its.span_s,
    }
