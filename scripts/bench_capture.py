"""Putting events on disk: one process and many, against other queues and the limit; open; bytes on disk."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scripts.bench_measure import PEERS, PYTHON, Bound, Row, Setting, clean, in_turns, middle
from scripts.bench_peers.sample_event import TEXT, TEXT_BYTES
from scripts.flat import NO_LIMITS, disk_bytes, fill
from spool.home.paths import Paths
from spool.queue.queue import Queue

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
    peers = ("spool", "persist-queue", "litequeue", "raw sqlite3", "azure-cli-telemetry")
    count = 300 if setting.quick else 1_000
    taken = in_turns(
        5 if setting.quick else 9,
        {name: lambda name=name: put(setting.new_folder("capture"), name, 1, count) for name in peers},  # type: ignore[misc]
    )
    p50 = {name: statistics.median(one.p50_us for one in taken[name]) for name in peers}
    cpu = {name: 1e6 * statistics.median(one.cpu_s for one in taken[name]) for name in peers}
    targets = {"persist-queue": Bound("ratio", "<=", 0.5), "raw sqlite3": Bound("ratio", "<=", 8)}
    notes = {"azure-cli-telemetry": "a line into a log file: no lock, no transaction, no acknowledgement"}
    return [
        Row("capture p50, one process", "us", p50["spool"], name, p50[name], targets.get(name),
            f"CPU {cpu['spool']:.0f} against {cpu[name]:.0f} us; {notes.get(name, '')}".removesuffix("; "))
        for name in peers[1:]
    ]  # fmt: skip


def contended(setting: Setting) -> list[Row]:
    """p99 of a capture while 16 processes do the same, against plain diskcache."""
    taken = in_turns(
        3 if setting.quick else 7,
        {
            name: lambda name=name: put(setting.new_folder("contended"), name, 16, 100)  # type: ignore[misc]
            for name in ("spool", "diskcache")
        },
    )
    ours, its = (statistics.median(one.p99_ms for one in taken[name]) for name in taken)
    states = sum((one.states for one in taken["spool"]), Counter[str]())
    note = ", ".join(f"{count:,} {state}" for state, count in states.items())
    return [Row("capture p99, 16 processes", "ms", ours, "diskcache", its, Bound("ratio", "<=", 0.25), note)]


def opening(setting: Setting) -> list[Row]:
    """Open a queue of 1,000 events in a fresh process, its modules loaded."""
    home = setting.new_folder("open")
    fill(home, 1_000).close()
    seen = [setting.look("open", home) for _ in range(setting.rounds)]
    (wall, least), (cpu, least_cpu) = middle("wall_s", seen), middle("cpu_s", seen)
    note = f"{least}; CPU {cpu:.1f}, {least_cpu} ms"
    return [Row("open of an existing queue", "ms", wall, target=Bound("value", "<=", 3), note=note)]


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
