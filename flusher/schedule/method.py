"""What every method (cron, systemd, launchd) can do, what it finds installed, and how it calls its own programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from flusher.schedule.timetable import Entry, Timetable
from spool.consent import HomeState, home_state
from spool.errors import ConfigurationError
from spool.launch.program import read_words

__all__ = [
    "Installed",
    "Method",
    "Plan",
    "call",
    "check_own",
    "files_in",
    "is_there",
    "next_by_clock",
    "put_back",
    "refusals_named",
    "stale",
]

# Each answers in milliseconds; one that waits for something is not waited for.
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Installed:
    """One schedule that is installed: its name, method, place, command and times, and what is wrong with it."""

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

    @property
    def often(self) -> str:
        """How often it runs, in words."""
        return f"every {self.every}" if self.every else "unevenly"

    @property
    def next_words(self) -> str:
        """When it runs next, by the clock of this machine."""
        return "unknown" if self.next_run is None else self.next_run.strftime("%Y-%m-%d %H:%M %Z")

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
    """What is installed for one app and home. `problem` is one line about what is wrong with it."""

    installed: tuple[Installed, ...] = ()
    problem: str | None = None

    def as_json(self) -> dict[str, object]:
        """Give it for `schedule show --json` and `status --json`."""
        return {"installed": [one.as_json() for one in self.installed], "problem": self.problem}

    def as_line(self) -> str:
        """Say it to a person."""
        if not self.installed:
            return "nothing (a host with flush=auto starts a flusher by itself)"
        line = "; ".join(f"{one.often} by {one.method}, next {one.next_words}" for one in self.installed)
        return f"{line} ({self.problem})" if self.problem else line


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
    """Say what is missing of what the command line of a schedule names; None if nothing is."""
    try:
        program, folders, arguments = read_words(command)
    except ValueError:
        return "its command line doesn't read"
    if not os.access(program, os.X_OK):
        return f"its program {program} is gone"
    for folder in folders:
        if not os.path.exists(folder):
            return f"its modules in {folder} are gone"
    home = arguments[arguments.index("--home") + 1 :][:1] if "--home" in arguments else []
    if home_too and home and not os.path.isdir(home[0]):
        return f"its home {home[0]} is gone"
    return None


# -- programs of the system ----------------------------------------------------------------------------------


class Done(NamedTuple):
    """How a program ended: its exit code, its output, and its errors as one line."""

    code: int
    out: bytes
    err: str


def is_there(program: str) -> bool:
    """Tell whether PATH has the program."""
    return shutil.which(program) is not None


def files_in(folder: Path, pattern: str) -> list[Path]:
    """Give the files of this pattern in a folder of a person's; none where it can't be looked into."""
    try:
        return sorted(path for path in map(folder.joinpath, os.listdir(folder)) if path.match(pattern))
    except OSError:
        return []


def check_own(folder: Path) -> None:
    """Raise ConfigurationError where a schedule would be written into the folder of another user, as root by sudo."""
    if home_state(folder) is HomeState.FOREIGN:
        raise ConfigurationError(
            f"{folder} belongs to another user: nothing was changed; run this as its owner, without sudo"
        )


def call(program: str, *arguments: str, given: bytes = b"", **variables: str) -> Done:
    """Run a program to its end, with `variables` set. ConfigurationError if it can't be started or doesn't end."""
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system, arguments of our own
            [program, *arguments],
            input=given,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C", **variables},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(
            f"{program} doesn't answer ({type(error).__name__}); nothing was changed: try again"
        ) from error
    return Done(done.returncode, done.stdout, " ".join(done.stderr.decode("utf-8", "replace").split()))


@contextmanager
def refusals_named(what: str) -> Iterator[None]:
    """Turn an OSError into a ConfigurationError: one line for the operator, and exit code 2."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{what} can't be changed: {error.strerror or error}; nothing was changed: mend that and try again"
        ) from error


def put_back(path: Path, before: bytes | None) -> None:
    """Restore a file's former content; with None, that there was no file."""
    if before is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(before)
