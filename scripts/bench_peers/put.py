"""Put COUNT events on disk with one peer, when a line comes on stdin; print how long each took.

`put.py PEER FOLDER COUNT`. Says "open" when it is ready. Each peer as its own documentation calls it; what is
timed is the call after which the event is on disk.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

from scripts.bench_peers.sample_event import PROPERTIES, TEXT

Put = Callable[[], object]


def spool(folder: str) -> Put:
    """With everything that a host has on: consent, a command under way, the default limits."""
    from spool import Telemetry

    telemetry = Telemetry("bench", "1.0.0", "phc_bench", home=folder, flush="never")
    telemetry.command(["work"]).__enter__()
    return lambda: telemetry.capture("work_done", PROPERTIES).state


def persist_queue(folder: str) -> Put:
    """The acknowledged queue: what a durable sender would take."""
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue(folder, auto_commit=True)
    return lambda: queue.put(TEXT)


def raw_sqlite(folder: str) -> Put:
    """The limit: one INSERT, committed; no lock of our own, no consent, no limits."""
    connection = sqlite3.connect(folder + "/raw.db", isolation_level=None, timeout=60)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, text TEXT)")
    return lambda: connection.execute("INSERT INTO events (text) VALUES (?)", (TEXT,))


def floor(folder: str) -> Put:
    """The lock by filelock, the append by diskcache, and nothing else."""
    from scripts.bench_peers.floor import Floor

    queue = Floor(folder)
    return lambda: queue.append(TEXT)


THREAD = "spool, second thread"
PEERS = {
    "spool": spool,
    THREAD: spool,
    "floor": floor,
    "persist-queue": persist_queue,
    "raw sqlite3": raw_sqlite,
}


def main(peer: str, folder: str, count: str) -> None:
    """Open, warm up with one, wait for the start, put the others."""
    put = PEERS[peer](folder)
    put()
    print("open", flush=True)
    sys.stdin.readline()
    if peer == THREAD:
        thread = threading.Thread(target=measure, args=(put, int(count)))
        thread.start()
        thread.join()
    else:
        measure(put, int(count))


def measure(put: Put, count: int) -> None:
    """Put so many and print what was seen."""
    taken: list[float] = []
    states: Counter[str] = Counter()
    first, cpu = time.monotonic(), time.process_time()
    for _ in range(count):
        started = time.perf_counter()
        state = put()
        taken.append(time.perf_counter() - started)
        states[state if isinstance(state, str) else "put"] += 1
    cpu, last = time.process_time() - cpu, time.monotonic()
    print(json.dumps({"taken_s": taken, "cpu_s": cpu, "states": states, "from": first, "to": last}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
