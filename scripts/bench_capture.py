"""Putting events on disk: one process, a second thread, many processes; open; bytes on disk."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scripts.bench_measure import PEERS, PYTHON, Bound, Row, Setting, clean, in_turns, middle
from scripts.bench_peers.sample_event import TEXT, TEXT_BYTES
from scripts.flat import NO_LIMITS, disk_bytes, fill
from spool.home import Paths
from spool.queue import Queue

__all__ = ["Puts", "capture", "contended", "disk", "opening", "put"]


@dataclass(frozen=True, slots=True)
class Puts:
    """What some writers saw: the time of every put, the CPU of one, the time of all, and what became of the events."""

    taken_s: list[float]
    cpu_s: float
    span_s: float
    states: Counter[str]

    @property
    def p50_us(self) -> float:
        """The middle one."""
        return 1e6 * statistics.median(self.taken_s)

    @property
    def p99_ms(self) -> float:
        """The one that only a hundredth exceeds."""
        return 1e3 * statistics.quantiles(self.taken_s, n=100)[98]


def put(folder: Path, peer: str, writers: int, count: int) -> Puts:
    """Let so many processes put `count` events each into one folder, all starting at once."""
    command = [str(PYTHON), str(PEERS / "put.py"), peer, str(folder), str(count)]
    processes = []
    for _ in range(writers):
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=clean(BENCH_HOST=""),
        )
        processes.append(process)
        assert process.stdout is not None  # noqa: S101 - it was asked for
        process.stdout.readline()  # one opens after the other: creating a queue is not what is measured
    for process in processes:
        assert process.stdin is not None  # noqa: S101 - it was asked for
        process.stdin.write("\n")
        process.stdin.flush()
    seen = [json.loads(process.communicate()[0]) for process in processes]
    states = sum((Counter(one["states"]) for one in seen), Counter[str]())
    cpu_s = sum(one["cpu_s"] for one in seen) / (writers * count)
    span_s = max(one["to"] for one in seen) - min(one["from"] for one in seen)
    return Puts([taken for one in seen for taken in one["taken_s"]], cpu_s, span_s, states)


def capture(setting: Setting) -> list[Row]:
    """p50 of a capture in one process with everything on, against what else puts an event on disk."""
    ours, thread, *peers = "spool", "spool, second thread", "floor", "persist-queue", "raw sqlite3"
    count = 300 if setting.quick else 1_000
    taken = in_turns(
        5 if setting.quick else 9,
        {
            name: lambda name=name: put(setting.new_folder("capture"), name, 1, count)  # type: ignore[misc]
            for name in (ours, thread, *peers)
        },
    )
    p50 = {name: statistics.median(one.p50_us for one in seen) for name, seen in taken.items()}
    cpu = {name: 1e6 * statistics.median(one.cpu_s for one in seen) for name, seen in taken.items()}
    targets = {"floor": Bound("ratio", "<=", 2.0)}
    return [
        *(
            Row("capture p50, one process", "us", p50[ours], name, p50[name], targets.get(name),
                f"CPU {cpu[ours]:.0f} against {cpu[name]:.0f} us")
            for name in peers
        ),
        Row("capture p50, second thread", "us", p50[thread], "main thread", p50[ours], Bound("ratio", "<=", 2.0),
            f"CPU {cpu[thread]:.0f} against {cpu[ours]:.0f} us"),
    ]  # fmt: skip


def contended(setting: Setting) -> list[Row]:
    """What 16 processes reach that capture without a pause, against the same number of appends by the floor."""
    writers, count = 16, 200 if setting.quick else 600
    taken = in_turns(
        3 if setting.quick else 5,
        {
            name: lambda name=name: put(setting.new_folder("contended"), name, writers, count)  # type: ignore[misc]
            for name in ("spool", "floor")
        },
    )
    rate = [statistics.median(writers * count / one.span_s for one in seen) for seen in taken.values()]
    p99 = [statistics.median(one.p99_ms for one in seen) for seen in taken.values()]
    p50 = [statistics.median(one.p50_us / 1000 for one in seen) for seen in taken.values()]
    states = sum((one.states for one in taken["spool"]), Counter[str]())
    note = ", ".join(f"{number:,} {state}" for state, number in states.items())
    return [
        Row("captured by 16 processes", "events/s", rate[0], "floor", rate[1], Bound("ratio", ">=", 0.5), note),
        Row("capture p99, 16 processes", "ms", p99[0], "floor", p99[1], Bound("ratio", "<=", 1.5)),
        Row("capture p50, 16 processes", "ms", p50[0], "floor", p50[1], Bound("value", "<=", 5)),
    ]


def opening(setting: Setting) -> list[Row]:
    """Open a queue of 1,000 events in a fresh process, its modules loaded, against diskcache in the same folder."""
    home = setting.new_folder("open")
    fill(home, 1_000).close()
    seen = in_turns(setting.rounds, {name: partial(setting.look, name, home) for name in ("open", "diskcache")})
    (ours, our_least), (its, its_least) = (middle("wall_s", taken) for taken in seen.values())
    (our_cpu, _), (its_cpu, _) = (middle("cpu_s", taken) for taken in seen.values())
    note = f"{our_least}, {its_least}; CPU {our_cpu:.1f} against {its_cpu:.1f} ms"
    return [Row("open of an existing queue", "ms", ours, "diskcache.Cache", its, Bound("ratio", "<=", 1.5), note)]


def disk(setting: Setting) -> list[Row]:
    """Bytes on disk per event of 420 bytes that waits, in a queue at rest."""
    folder, count = setting.new_folder("disk"), 10_000
    queue = Queue(Paths(folder), NO_LIMITS, wait_s=60.0)
    for _ in range(count // 500):
        queue.append_all([TEXT] * 500)
    full = disk_bytes(folder)
    queue.close()
    note = f"{full / count:.0f} with the log of SQLite, while a writer has it open"
    return [
        Row(f"disk per event of {TEXT_BYTES} bytes", "bytes", disk_bytes(folder) / count,
            target=Bound("value", "<=", 600), note=note)
    ]  # fmt: skip
