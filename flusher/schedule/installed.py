"""What every way to schedule a run can do, and what it finds installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from flusher.schedule.timetable import Entry, Timetable

__all__ = ["Installed", "Method", "Plan", "next_by_clock", "stale"]


@dataclass(frozen=True, slots=True)
class Installed:
    """One schedule that is there: whose, by what, where, what it runs, when, and what is wrong with it."""

    name: str
    method: str
    where: str
    command: tuple[str, ...]
    timetable: Timetable | None
    next_run: datetime | None = None
    problem: str | None = None

    @property
    def every(self) -> str | None:
        """How often it runs, where that is even."""
        return self.timetable.every if self.timetable else None

    def does(self, entry: Entry) -> bool:
        """Tell whether it runs what `entry` would, as often; the minute may be another."""
        same = self.command == entry.command and self.every == entry.timetable.every
        return same and self.problem is None

    def as_json(self) -> dict[str, object]:
        """Give it for a program to read."""
        return {
            "method": self.method,
            "every": self.every,
            "next_run": None if self.next_run is None else self.next_run.astimezone(UTC).isoformat(timespec="seconds"),
            "command": list(self.command),
            "where": self.where,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What is there for one app and home. `problem` is one line about what is wrong with it."""

    installed: tuple[Installed, ...] = ()
    problem: str | None = None

    def as_json(self) -> dict[str, object]:
        """Give it for `schedule show --json` and `status --json`."""
        return {"installed": [one.as_json() for one in self.installed], "problem": self.problem}


class Method(Protocol):
    """A way to have something run regularly."""

    name: str

    def missing(self) -> str | None:
        """Say what this machine lacks for it; None if it can be used."""
        ...

    def installed(self) -> Sequence[Installed]:
        """Give every schedule of ours, of any app and home. Raises ConfigurationError where it can't be looked at."""
        ...

    def install(self, entry: Entry) -> None:
        """Put an entry in place of the one of the same name; ConfigurationError means that nothing was changed."""
        ...

    def remove(self, name: str) -> None:
        """Take the entry away and leave all else as it is; ConfigurationError means that nothing was changed."""
        ...


def next_by_clock(timetable: Timetable | None) -> datetime | None:
    """Give the next run by this machine's clock and time zone."""
    if timetable is None or not timetable.minutes or not timetable.hours:
        return None
    return timetable.next_after(datetime.now()).astimezone()  # noqa: DTZ005 - cron goes by the clock on the wall


def stale(command: Sequence[str], *, home_too: bool = True) -> str | None:
    """Say what the command line of a schedule names that isn't there any more; None if all is there."""
    if not command:
        return "its command line doesn't read"
    if not os.access(command[0], os.X_OK):
        return f"its interpreter {command[0]} is gone"
    home = command[command.index("--home") + 1 :][:1] if "--home" in command else []
    if home_too and home and not os.path.isdir(home[0]):
        return f"its home {home[0]} is gone"
    return None
