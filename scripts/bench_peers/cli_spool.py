"""The same CLI with spool: span, signals, one event, a flusher when one is due."""

import os
import time

import typer

from scripts.bench_peers.sample_event import PROPERTIES
from spool import Telemetry

app = typer.Typer()
telemetry = Telemetry("bench", "1.0.0", "phc_bench", host=os.environ["BENCH_HOST"])


@app.command()
def work(wait: float = 0.0) -> None:
    """Capture one event; do next to nothing, or wait to be interrupted."""
    telemetry.capture("work_done", PROPERTIES)
    print("ready", flush=True)
    time.sleep(wait)


if __name__ == "__main__":
    telemetry.main(app)
