"""What a part of spool costs inside a host's process: `look.py import|off|open|diskcache|launch [HOME]`, in JSON."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import typer  # noqa: F401 - the host has it loaded before

from scripts.bench_peers.sample_event import PROPERTIES, TEXT


def importing() -> dict[str, float]:
    """Count the modules and the CPU of `from spool import Telemetry`."""
    before, cpu = set(sys.modules), time.process_time()
    from spool import Telemetry  # noqa: F401 - it is what is measured

    spent = time.process_time() - cpu
    return {"modules": len(set(sys.modules) - before), "cpu_s": spent}


def off(home: str) -> dict[str, float]:
    """Time a whole command with one event under an opt-out, the import aside."""
    from spool import Telemetry

    cpu = time.process_time()
    telemetry = Telemetry("bench", "1.0.0", "phc_bench", home=home)
    with telemetry.signals(), telemetry.command(["work"], {"json": True}):
        receipt = telemetry.capture("work_done", PROPERTIES)
    telemetry.close()
    spent = time.process_time() - cpu
    assert receipt.state == "disabled"  # noqa: S101 - else it is something else that was measured
    return {"cpu_s": spent}


def opening(home: str) -> dict[str, float]:
    """Time the open of an existing queue: what the first look into it takes more than the ones after."""
    from spool.home import Paths
    from spool.queue import Queue

    with TemporaryDirectory() as other:  # loads the modules
        queue = Queue(Paths(Path(other)))
        queue.append(TEXT)
        queue.account()
        queue.close()
    queue = Queue(Paths(Path(home)))
    walls, cpus = [], []
    for _ in range(6):
        started, cpu = time.perf_counter(), time.process_time()
        pending = queue.account().pending
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - cpu)
        assert pending > 0  # noqa: S101 - an empty queue is another thing
    queue.close()
    return {"wall_s": walls[0] - median(walls[1:]), "cpu_s": cpus[0] - median(cpus[1:])}


def opening_by_diskcache(home: str) -> dict[str, float]:
    """Time the open of the same folder by a plain diskcache."""
    from diskcache import Cache

    with TemporaryDirectory() as other:  # as in `opening`
        Cache(other).close()
    started, cpu = time.perf_counter(), time.process_time()
    cache = Cache(Path(home, "spool", "queue"))
    spent, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert len(cache) > 0  # noqa: S101 - an empty queue is another thing
    cache.close()
    return {"wall_s": spent, "cpu_s": cpu}


def launch(home: str) -> dict[str, float]:
    """Time what a host does to start a flusher that is due, after a capture."""
    from spool import Telemetry
    from spool.home import Paths
    from spool.launch.start import launch_if_due

    telemetry = Telemetry("bench", "1.0.0", "phc_bench", os.environ["BENCH_HOST"], home, flush="never")
    telemetry.capture("work_done", PROPERTIES)
    paths = Paths(Path(home))
    (paths.spool / "launched").unlink(missing_ok=True)
    started, cpu = time.perf_counter(), time.process_time()
    launch_if_due("bench", paths, 0.0, 0.0)
    spent, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert (paths.spool / "launched").exists()  # noqa: S101 - else none was started
    return {"wall_s": spent, "cpu_s": cpu}


LOOKS: dict[str, Callable[..., dict[str, float]]] = {
    "import": importing,
    "off": off,
    "open": opening,
    "diskcache": opening_by_diskcache,
    "launch": launch,
}

if __name__ == "__main__":
    figures = LOOKS[sys.argv[1]](*sys.argv[2:])
    import json  # only now: a host need not have it loaded

    print(json.dumps(figures))
    sys.stdout.flush()
    os._exit(0)  # a flusher that is started at the end would be one more than was measured
