"""The same CLI with the floor: it appends two texts as long as the events of the others."""

import os
import time

import typer

from scripts.bench_peers.floor import Floor
from scripts.bench_peers.sample_event import TEXT

app = typer.Typer()
floor = Floor(os.environ["BENCH_HOME"])


@app.command()
def work(wait: float = 0.0) -> None:
    """Append one event; do next to nothing, or wait to be interrupted."""
    floor.append(TEXT)
    print("ready", flush=True)
    time.sleep(wait)


if __name__ == "__main__":
    try:
        app()
    finally:
        floor.append(TEXT)
