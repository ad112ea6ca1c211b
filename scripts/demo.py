"""The main job, told with real processes: run through `scripts/demo`, which makes the environment.

A local PostHog on loopback, the example host `scripts/ktx`, and five commands: one ends well, one is
interrupted, one is killed, one fails, one runs while the server is down. Then `ktx-flush` delivers, and the
tables show what arrived and that nothing is missing. Exit code 1 if something is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.local_posthog import LocalPostHog  # noqa: E402 - found through the line above

if sys.platform == "win32":
    sys.exit("the demo kills and interrupts with POSIX signals")

console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo plays: a fresh home, a sample database, an environment that says nothing."""

    home: Path
    database: Path
    env: dict[str, str]

    def ktx(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command of the example host."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "ktx"), *arguments],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def flush(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run the flusher; give its exit code and its report."""
        command = [sys.executable, "-m", "flusher", "--home", str(self.home), *arguments, "--json"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.returncode, json.loads(done.stdout)


def prepare(folder: Path, url: str) -> Stage:
    """Make the sample database and an environment in which nothing of this machine decides."""
    database = folder / "shop.db"
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "ktx" / "sample_shop.py"), str(database)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    ignored = {"CI", "DO_NOT_TRACK", "KTX_TELEMETRY_DISABLED", "KTX_TELEMETRY_DEBUG", "KTX_TELEMETRY_KEY"}
    env = {name: value for name, value in os.environ.items() if name not in ignored}
    env |= {"KTX_HOME": str(folder / "home"), "KTX_TELEMETRY_ENDPOINT": url, "PYTHONPATH": str(ROOT)}
    return Stage(folder / "home", database, env)


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> int:
    """Let the command get into its work (it says so on stderr), then send it a signal."""
    next((line for line in process.stderr or () if line.startswith("scanned")), None)
    process.send_signal(number)
    process.communicate()
    return process.returncode


def finish(process: subprocess.Popen[str]) -> int:
    """Let the command run to its end."""
    process.communicate()
    return process.returncode


def delivered_by_itself(server: LocalPostHog) -> bool:
    """Wait for the flusher that a host starts at its end; the next one is due in five minutes only."""
    deadline = time.monotonic() + 20
    while not server.accepted and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(server.accepted)


def play(stage: Stage, server: LocalPostHog) -> list[tuple[str, str, str]]:
    """Run the five commands; give for each what it was, how it ended, and the flush after it."""
    database = str(stage.database)
    story = []
    code = finish(stage.ktx("ingest", database))
    arrived = "at once, by the flusher that it started" if delivered_by_itself(server) else "not delivered"
    story.append(("ktx ingest", f"ran to its end, exit {code}", arrived))
    code = interrupt(stage.ktx("ingest", database, "--slow", "0.3"), signal.SIGINT)
    story.append(("ktx ingest --slow", f"Ctrl-C, exit {code}", "wait in the spool"))
    code = interrupt(stage.ktx("ingest", database, "--slow", "0.3"), signal.SIGKILL)
    story.append(("ktx ingest --slow", f"kill -9, exit {code}", "wait in the spool"))
    code = finish(stage.ktx("ingest", str(stage.database) + ".missing"))
    story.append(("ktx ingest (no file)", f"failed, exit {code}", "wait in the spool"))
    server.stop()
    code = finish(stage.ktx("ingest", database))
    flushed, _report = stage.flush("run", "--max-retries", "0")
    server.start()
    story.append(("ktx ingest", f"server down, exit {code}", f"ktx-flush exits with {flushed} and keeps them"))
    return story


def show_story(story: list[tuple[str, str, str]]) -> None:
    """Print what was done to the commands."""
    table = Table(title="Five commands", title_justify="left", title_style="bold")
    for name in ("command", "what happened to it", "its events"):
        table.add_column(name)
    for row in story:
        table.add_row(*row)
    console.print(table)


def show_arrivals(events: list[dict[str, Any]], at_once: set[str]) -> None:
    """Print every event that arrived, in the order of capture, and how it got there."""
    table = Table(title="What arrived at PostHog", title_justify="left", title_style="bold")
    for name in ("#", "event", "command", "outcome", "how it got there"):
        table.add_column(name)
    for event in sorted(events, key=lambda event: int(event["properties"]["spool_sequence"])):
        properties = event["properties"]
        way = "at once" if event["uuid"] in at_once else "late"
        if "spool_recovered" in properties:
            way = "after a kill"
        table.add_row(
            str(properties["spool_sequence"]),
            event["event"],
            " ".join(properties.get("commandPath", [])),
            str(properties.get("outcome", "")),
            way,
        )
    console.print(table)


def main() -> int:
    """Play the demo; 1 if an event is missing."""
    with tempfile.TemporaryDirectory(prefix="ktx-spool-demo-") as folder, LocalPostHog() as server:
        console.print(f"[dim]a local PostHog listens at {server.url}; the home is {folder}/home[/]\n")
        stage = prepare(Path(folder), server.url)
        story = play(stage, server)
        at_once = {event["uuid"] for event in server.events()}
        code, report = stage.flush("run", "--force")
        _code, status = stage.flush("status")
        show_story(story)
        show_arrivals(server.events(), at_once)
        account = status["accounting"]
        numbers = sorted(event["properties"]["spool_sequence"] for event in server.events())
        complete = code == 0 and account["pending"] == 0 and numbers == list(range(1, len(numbers) + 1))
        console.print(f"the last ktx-flush delivered {report['delivered']} events in {report['seconds']} s")
        right = " + ".join(f"{account[name]} {name}" for name in ("delivered", "pending", "dead", "lost"))
        console.print(f"account: {account['captured']} captured = {right}")
        verdict = "[green]nothing is missing[/]" if complete else "[red]something is missing[/]"
        console.print(f"spool_sequence runs from 1 to {len(numbers)} without a gap: {verdict}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
