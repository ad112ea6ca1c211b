"""A progress bar on stderr, for drains that take their time."""

from __future__ import annotations

import threading

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flusher.context import Observer
from flusher.text import printable

__all__ = ["Bar"]

# What is over sooner needs no bar: it would only flash.
_SHORT_S = 0.5


class _Rate(ProgressColumn):
    """Events in a second, as soon as there is something to go by."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s", style="progress.data.speed")


class Bar(Observer):
    """How much of a drain is done, at what rate, and how long the rest will take. For a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("left", style="progress.remaining"),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("delivering", total=None)
        self._timer = threading.Timer(_SHORT_S, self._appear)
        self._timer.daemon = True

    def begins(self, waiting: int) -> None:
        """Wait a moment before the bar appears."""
        self._progress.update(self._task, total=waiting)
        self._timer.start()

    def _appear(self) -> None:
        self._progress.start()
        self._progress.console.show_cursor(True)  # a second Ctrl-C ends us with no time to bring it back

    def settled(self, events: int) -> None:
        """Move on."""
        self._progress.update(self._task, advance=events)

    def waits(self, seconds: float, reason: str) -> None:
        """Say why nothing moves."""
        line = Text(f"{printable(reason)}: again in {seconds:.0f} s", style="yellow")
        self._progress.console.print(line)

    def ends(self) -> None:
        """Remove the bar: the line that says what was done takes its place."""
        self._timer.cancel()
        self._timer.join()
        if self._progress.live.is_started:
            self._progress.stop()
