"""Delivering: whole processes that send the same events to the same server, which takes everything at once."""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
from pathlib import Path

from scripts.bench_measure import BATCH_SIZE, Bound, Row, Setting, Spent, in_turns
from scripts.flat import event, fill

__all__ = ["drain", "drained"]


def drain(setting: Setting) -> list[Row]:
    """Events per second of the flusher, against posthog-python and against nothing but posting."""
    count = 10_000 if setting.quick else 20_000
    home = setting.home("drain")
    fill(home, count - 2).close()  # `home` has captured two: the install's first run, and one
    bodies = _bodies(setting, count)
    taken = in_turns(
        3 if setting.quick else 7,
        {
            "spool": lambda: drained(setting, _copied(setting, home), count),
            "posthog-python": lambda: setting.peer("drain_posthog", setting.host, count),
            "prepared bodies": lambda: setting.peer("drain_bodies", setting.host, bodies),
        },
    )
    rate = {name: count / statistics.median(one.wall_s for one in spent) for name, spent in taken.items()}
    cpu = {name: 1e6 * statistics.median(one.cpu_s for one in spent) / count for name, spent in taken.items()}
    first, *others = taken
    targets = {"posthog-python": Bound("ratio", ">=", 2.0)}
    return [
        Row("drain, a whole process", "events/s", rate[first], name, rate[name], targets.get(name),
            f"CPU {cpu[first]:.0f} against {cpu[name]:.0f} us/event")
        for name in others
    ]  # fmt: skip


def drained(setting: Setting, home: Path, count: int) -> Spent:
    """Run the flusher on a home; SystemExit unless it delivered exactly so many."""
    spent = setting.flush(home)
    report = json.loads(spent.out)
    shutil.rmtree(home)
    if (report["delivered"], report["remaining"]) != (count, 0):
        raise SystemExit(f"the flusher was to deliver {count} events: {report}")
    return spent


def _copied(setting: Setting, home: Path) -> Path:
    """Give a copy of a home, to be drained in its place."""
    return Path(shutil.copytree(home, setting.new_folder("copy"), dirs_exist_ok=True))


def _bodies(setting: Setting, count: int) -> Path:
    """Write the requests of so many events, compressed."""
    folder = setting.new_folder("bodies")
    for start in range(0, count, BATCH_SIZE):
        events = ",".join(event() for _ in range(min(BATCH_SIZE, count - start)))
        body = f'{{"api_key":"phc_bench","batch":[{events}]}}'.encode()
        (folder / f"{start:07}.gz").write_bytes(gzip.compress(body, 6))
    return folder
