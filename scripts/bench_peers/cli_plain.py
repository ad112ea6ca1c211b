"""A Typer CLI without telemetry: what the others add to."""

import time

import typer

app = typer.Typer()


@app.command()
def work(wait: float = 0.0) -> None:
    """Do next to nothing, or wait to be interrupted."""
    print("ready", flush=True)
    time.sleep(wait)


if __name__ == "__main__":
    app()
