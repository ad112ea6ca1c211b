"""A real program, without telemetry or with it as its author would embed it: `program.py NAME WAY ARGUMENT...`.

The telemetry is one event from within its work, and one for the command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from scripts.bench_peers.sample_event import PROPERTIES

# Where the console script of each begins: the first two are Click groups, httpie reads its command line by argparse.
ENTRIES = {
    "sqlite-utils": ("sqlite_utils.cli", "cli"),
    "flask": ("flask.cli", "cli"),
    "httpie": ("httpie.__main__", "main"),
}


def plain(entry: Any) -> object:
    """Run it as its console script does."""
    return entry()


def spool(entry: Any) -> object:
    """With the span and the signals of an entry, and a flusher when one is due."""
    from spool import Telemetry

    telemetry = Telemetry("bench", "1.0.0", "phc_bench", host=os.environ["BENCH_HOST"])
    work = reporting(entry, lambda: telemetry.capture("work_done", PROPERTIES))
    if work is entry:
        telemetry.main(entry)
    with telemetry.signals(), telemetry.command(sys.argv[:1]):
        return work()


def posthog(entry: Any) -> object:
    """With a client that is shut down at the end."""
    from posthog import Posthog

    client = Posthog("phc_bench", host=os.environ["BENCH_HOST"])
    work = reporting(entry, lambda: client.capture("work_done", distinct_id="install", properties=PROPERTIES))
    try:
        return work()
    finally:
        client.capture("command", distinct_id="install", properties={"commandPath": sys.argv[:1], "outcome": "ok"})
        client.shutdown()


def reporting(entry: Any, capture: Callable[[], object]) -> Callable[[], object]:
    """Let a Click group capture when a command of it has run; give another program with a capture at its end."""
    if hasattr(entry, "result_callback"):
        entry.result_callback()(lambda *_result, **_options: capture())
        called: Callable[[], object] = entry
        return called

    def work() -> object:
        code: object = entry()
        capture()
        return code

    return work


WAYS: dict[str, Callable[[Any], object]] = {"plain": plain, "spool": spool, "posthog-python": posthog}

if __name__ == "__main__":
    name, way, *arguments = sys.argv[1:]
    sys.argv = [name, *arguments]
    module, attribute = ENTRIES[name]
    sys.exit(WAYS[way](getattr(import_module(module), attribute)))  # type: ignore[arg-type]  # an exit code, or none
