"""A launchd agent of this user, on macOS: one property list of ours."""

from __future__ import annotations

import os
import plistlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flusher.schedule.method import (
    Installed,
    call,
    check_own,
    files_in,
    is_there,
    next_by_clock,
    put_back,
    refusals_named,
)
from flusher.schedule.timetable import Entry, Timetable
from spool.errors import ConfigurationError
from spool.home import make_folder, read_bounded, write_atomic

__all__ = ["Launchd", "plist"]

_PREFIX = "ktx-flush."


class Launchd:
    """The agents in this user's Library."""

    name = "launchd"

    def __init__(self) -> None:
        self._folder = Path(os.path.expanduser("~")) / "Library" / "LaunchAgents"

    def missing(self) -> str | None:
        """Say whether this machine has launchd."""
        return None if is_there("launchctl") else "there is no launchctl on PATH: this machine has no launchd"

    def installed(self) -> list[Installed]:
        """Give the agents that bear our prefix; on another system its folder is nobody's."""
        if sys.platform != "darwin" and not is_there("launchctl"):
            return []
        return [self._read(path) for path in files_in(self._folder, f"{_PREFIX}*.plist")]

    def _read(self, path: Path) -> Installed:
        name = path.stem.removeprefix(_PREFIX)
        try:
            fields = plistlib.loads(read_bounded(path))
            command, timetable = tuple(map(str, fields["ProgramArguments"])), _timetable(fields)
            problem = None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, plistlib.InvalidFileException):
            command, timetable, problem = (), None, "it doesn't read: somebody changed it"
        return Installed(name, self.name, str(path), command, timetable, next_by_clock(timetable), problem)

    def install(self, entry: Entry) -> None:
        """Write the agent and load it; what fails leaves what was there before."""
        path = self._folder / f"{_PREFIX}{entry.name}.plist"
        check_own(self._folder)
        before = path.read_bytes() if path.exists() else None
        with refusals_named(str(path)):
            make_folder(self._folder)
            write_atomic(path, plist(entry))
        call("launchctl", "bootout", f"{_domain()}/{path.stem}")  # one with another timetable, if there is one
        done = call("launchctl", "bootstrap", _domain(), str(path))
        if done.code:
            put_back(path, before)
            raise ConfigurationError(
                f"launchctl refuses: {done.err or done.code}; nothing was changed: mend that and try again"
            )

    def remove(self, name: str) -> None:
        """Unload the agent and delete it."""
        path = self._folder / f"{_PREFIX}{name}.plist"
        if is_there("launchctl"):
            call("launchctl", "bootout", f"{_domain()}/{path.stem}")
        with refusals_named(str(path)):
            path.unlink(missing_ok=True)


def plist(entry: Entry) -> bytes:
    """Write the agent (launchd.plist(5)); plistlib escapes what XML would take for markup."""
    fields = {
        "Label": f"{_PREFIX}{entry.name}",
        "ProgramArguments": list(entry.command),
        "StartCalendarInterval": _intervals(entry.timetable),
        "RunAtLoad": False,
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Nice": 10,
    }
    return plistlib.dumps(fields)


def _intervals(timetable: Timetable) -> list[dict[str, int]]:
    """Give one dictionary for each run; a field that is left out is every one."""
    minutes: list[dict[str, int]] = [{"Minute": minute} for minute in timetable.minutes]
    if timetable.fields[0] == "*":
        minutes = [{}]
    if timetable.fields[1] == "*":
        return minutes
    return [{"Hour": hour, **minute} for hour in timetable.hours for minute in minutes]


def _timetable(fields: Mapping[str, Any]) -> Timetable:
    runs = fields["StartCalendarInterval"]
    minutes = {minute for run in runs for minute in ([run["Minute"]] if "Minute" in run else range(60))}
    hours = {hour for run in runs for hour in ([run["Hour"]] if "Hour" in run else range(24))}
    return Timetable.of(minutes, hours)


def _domain() -> str:
    if sys.platform == "win32":
        raise ConfigurationError("there is no launchd on this system: give --method cron")
    return f"gui/{os.getuid()}"
