"""The same CLI with posthog-python: the same event, one for the command, shutdown at the end."""

import os
import time

import typer
from posthog import Posthog

from scripts.bench_peers.sample_event import PROPERTIES

app = typer.Typer()
posthog = Posthog("phc_bench", host=os.environ["BENCH_HOST"])


@app.command()
def work(wait: float = 0.0) -> None:
    """Capture one event; do next to nothing, or wait to be interrupted."""
    posthog.capture("work_done", distinct_id="install", properties=PROPERTIES)
    print("ready", flush=True)
    time.sleep(wait)


if __name__ == "__main__":
    try:
        app()
    finally:
        posthog.capture("command", distinct_id="install", properties={"commandPath": ["work"], "outcome": "ok"})
        posthog.shutdown()
