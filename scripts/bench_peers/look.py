"""What a part of spool costs inside a host's process: `look.py import|off|open|launch [HOME]`, in JSON."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import typer  # noqa: F401 - the host has it loaded before

from scripts.bench_peers.sample_event import PROPERTIES


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
    """Time the first look into an existing queue, the modules loaded: its open, and one SELECT."""
    from pathlib import Path

    from spool.home.paths import Paths
    from spool.queue.queue import Queue

    queue = Queue(Paths(Path(home)))
    started, cpu = time.perf_counter(), time.process_time()
    pending = queue.account().pending
    spent, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert pending > 0  # noqa: S101 - an empty queue is another thing
    started = time.perf_counter()
    queue.account()
    again = time.perf_counter() - started
    queue.close()
    return {"wall_s": spent - again, "cpu_s": cpu}


def launch(home: str) -> dict[str, float]:
    """Time what a host does to start a flusher that is due."""
    from pathlib import Path

    from spool.home.paths import Paths
    from spool.launch.start import launch_if_due
    from spool.queue import lock  # noqa: F401 - the capture before has it loaded

    paths = Paths(Path(home))
    (paths.spool / "launched").unlink(missing_ok=True)
    started, cpu = time.perf_counter(), time.process_time()
    launch_if_due("bench", paths, 0.0, 0.0)
    spent, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert (paths.spool / "launched").exists()  # noqa: S101 - else none was started
    return {"wall_s": spent, "cpu_s": cpu}


LOOKS: dict[str, Callable[..., dict[str, float]]] = {"import": importing, "off": off, "open": opening, "launch": launch}

if __name__ == "__main__":
    figures = LOOKS[sys.argv[1]](*sys.argv[2:])
    import json  # only now: a host need not have it loaded

    print(json.dumps(figures))
    sys.stdout.flush()
    os._exit(0)  # a flusher that is started at the end would be one more than was measured
