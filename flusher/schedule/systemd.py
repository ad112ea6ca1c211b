"""A systemd user timer: two unit files of ours.

Unlike cron it catches up on a run that a sleeping machine missed, and waits up to a minute more, at random. It runs
while this user is logged in, or always where lingering is on (loginctl enable-linger).
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

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

__all__ = ["Systemd", "exec_start", "read_exec_start", "service", "timer"]

_PREFIX = "ktx-flush-"
_CALENDAR = re.compile(r"OnCalendar=\*-\*-\* (\*|[\d,]+):(\*|[\d,]+):00")
_HEAD = "# Written by `ktx-flush schedule install`; `ktx-flush schedule remove` takes it away.\n"


class Systemd:
    """The units of this user's own systemd."""

    name = "systemd"

    def __init__(self) -> None:
        config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        self._folder = Path(config) / "systemd" / "user"

    def missing(self) -> str | None:
        """Say whether this user's systemd can be talked to."""
        if not is_there("systemctl"):
            return "there is no systemctl on PATH: this machine has no systemd"
        if call("systemctl", "--user", "show-environment").code:
            return "systemd does not answer for this user (no session here?)"
        return None

    def installed(self) -> list[Installed]:
        """Give the timers that bear our prefix, read from their files; a Mac has no such folder."""
        if sys.platform == "darwin" and not is_there("systemctl"):
            return []
        return [self._read(path) for path in files_in(self._folder, f"{_PREFIX}*.timer")]

    def _read(self, path: Path) -> Installed:
        name = path.stem.removeprefix(_PREFIX)
        calendar = _CALENDAR.search(_text(path))
        timetable = _timetable(calendar[1], calendar[2]) if calendar else None
        problem = None if calendar else "its timer doesn't read: somebody changed it"
        if not os.path.lexists(self._wanted(name)):
            problem = "its timer is not enabled"
        command = read_exec_start(_text(path.with_suffix(".service")))
        return Installed(name, self.name, str(path), command, timetable, _next_run(path.name, timetable), problem)

    def install(self, entry: Entry) -> None:
        """Write both units and start the timer; what fails leaves what was there before."""
        timer_file, service_file = self._files(entry.name)
        check_own(self._folder)
        before = {path: path.read_bytes() if path.exists() else None for path in (timer_file, service_file)}
        with refusals_named(str(self._folder)):
            make_folder(self._folder)
            write_atomic(service_file, service(entry).encode())
            write_atomic(timer_file, timer(entry).encode())
        try:
            _systemctl("daemon-reload")
            _systemctl("enable", timer_file.name)
            _systemctl("restart", timer_file.name)  # starts it, or has it run by its new timetable
        except ConfigurationError:
            if before[timer_file] is None:
                self.remove(entry.name)
            for path, content in before.items():
                put_back(path, content)
            call("systemctl", "--user", "daemon-reload")
            raise

    def remove(self, name: str) -> None:
        """Stop the timer and delete both units; also where systemd is not there to be told."""
        there = is_there("systemctl")
        if there:
            call("systemctl", "--user", "disable", "--now", f"{_PREFIX}{name}.timer")
        with refusals_named(str(self._folder)):
            for path in (self._wanted(name), *self._files(name)):
                path.unlink(missing_ok=True)
        if there:
            call("systemctl", "--user", "daemon-reload")

    def _files(self, name: str) -> tuple[Path, Path]:
        return self._folder / f"{_PREFIX}{name}.timer", self._folder / f"{_PREFIX}{name}.service"

    def _wanted(self, name: str) -> Path:
        """The link by which systemd knows that the timer is enabled."""
        return self._folder / "timers.target.wants" / f"{_PREFIX}{name}.timer"


def service(entry: Entry) -> str:
    """Write the unit that delivers once. 75 is a destination that can't be reached: no fault of the machine."""
    return (
        f"{_HEAD}[Unit]\nDescription=Deliver the events that {entry.app} has spooled\n\n"
        f"[Service]\nType=oneshot\nExecStart={exec_start(entry.command)}\nSuccessExitStatus=75\nNice=10\n"
    )


def timer(entry: Entry) -> str:
    """Write the unit that starts it."""
    minutes, hours = entry.timetable.fields
    return (
        f"{_HEAD}[Unit]\nDescription=Deliver the events that {entry.app} has spooled, regularly\n\n"
        f"[Timer]\nOnCalendar=*-*-* {hours}:{minutes}:00\nRandomizedDelaySec=60\nPersistent=true\n\n"
        "[Install]\nWantedBy=timers.target\n"
    )


def exec_start(command: tuple[str, ...]) -> str:
    r"""Quote a command line for ExecStart (systemd.syntax, systemd.service).

    Every word in double quotes, `\` and `"` escaped, `%` doubled, for it begins a specifier. With a `$` in it
    the prefix `:` (systemd 244) turns substitution off.
    """
    words = " ".join('"' + re.sub(r'([\\"])', r"\\\1", word).replace("%", "%%") + '"' for word in command)
    return f":{words}" if "$" in words else words


def read_exec_start(text: str) -> tuple[str, ...]:
    """Read a command line back from a service unit; empty if there is none that reads."""
    found = re.search(r"^ExecStart=:?(.*)$", text, re.MULTILINE)
    try:
        return tuple(word.replace("%%", "%") for word in shlex.split(found[1])) if found else ()
    except ValueError:
        return ()


def _timetable(hours: str, minutes: str) -> Timetable:
    def numbers(field: str, whole: int) -> list[int]:
        return list(range(whole)) if field == "*" else [int(part) for part in field.split(",") if part]

    return Timetable.of(numbers(minutes, 60), numbers(hours, 24))


def _next_run(unit: str, timetable: Timetable | None) -> datetime | None:
    """Ask systemd, which knows its random delay; else go by the clock."""
    if is_there("systemctl"):
        done = call("systemctl", "--user", "show", unit, "--property=NextElapseUSecRealtime", "--timestamp=unix")
        found = re.fullmatch(rb"NextElapseUSecRealtime=@(\d+)\s*", done.out)
        if done.code == 0 and found:
            return datetime.fromtimestamp(int(found[1]), UTC).astimezone()
    return next_by_clock(timetable)


def _systemctl(*arguments: str) -> None:
    done = call("systemctl", "--user", *arguments)
    if done.code:
        raise ConfigurationError(
            f"systemctl {arguments[0]} refuses: {done.err or done.code}; nothing was changed: mend that and try again"
        )


def _text(path: Path) -> str:
    try:
        return read_bounded(path).decode("utf-8", "replace")
    except OSError:
        return ""
