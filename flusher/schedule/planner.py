"""What is scheduled for one app and home, and how that changes: one schedule, by one method, or none.

Allowed while telemetry is off by `telemetry.json`: a scheduled run obeys it, and sends nothing. Where a variable of
this shell says no, nothing is scheduled: the scheduled run would not see that variable, and would send.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from flusher.context import NO_HOME
from flusher.schedule.cron import Cron
from flusher.schedule.launchd import Launchd
from flusher.schedule.method import Installed, Method, Plan
from flusher.schedule.systemd import Systemd
from flusher.schedule.timetable import Entry, Timetable, check_words, entry_name, parse_every
from flusher.text import printable
from spool.consent import read_stored
from spool.errors import ConfigurationError
from spool.home import Paths, resolve_home
from spool.launch.program import flusher_program

__all__ = ["does_not_start", "install", "look", "look_at_all", "remove", "tool"]

_METHODS = ("launchd", "systemd", "cron")
_DEFAULT_EVERY = "15m"


class Change(NamedTuple):
    """What an install came to."""

    state: Literal["installed", "unchanged"]
    plan: Plan


def look(app: str, paths: Paths) -> Plan:
    """Say what is scheduled for an app and home. Never raises: what can't be looked at is the `problem`."""
    name = entry_name(app, paths.home)
    everything, unseen = look_at_all()
    found = tuple(one for one in everything if one.name == name)
    # That cron can't be used does not matter where there is a timer.
    problems = [] if found else unseen
    if len(found) > 1:
        problems = [f"scheduled {len(found)} times ({_listed(found)}): run schedule remove, then schedule install"]
    problems += [f"{one.method}: {one.problem}" for one in found if one.problem]
    return Plan(found, "; ".join(problems) or None)


def look_at_all() -> tuple[list[Installed], list[str]]:
    """Give every schedule of ours on this account, of any app and home, and what could not be looked at."""
    found: list[Installed] = []
    problems: list[str] = []
    for method in _methods():
        try:
            found += method.installed()
        except ConfigurationError as error:
            problems.append(str(error))
    return found, problems


def install(app: str, paths: Paths, every: str | None = None, method: str | None = None) -> Change:
    """Have this interpreter deliver regularly. The same twice changes nothing.

    Without `every`: as often as now, else each 15 minutes. Without `method`: the one in use, else launchd, systemd
    or cron, the first that answers. Raises ConfigurationError, and then nothing was changed.
    """
    asked_min = parse_every(every or _DEFAULT_EVERY)
    before = look(app, paths).installed
    if len(before) > 1:
        raise ConfigurationError(
            f"scheduled {len(before)} times already ({_listed(before)}): run schedule remove first; nothing was changed"
        )
    if before and method not in (None, before[0].method):
        raise ConfigurationError(
            f"scheduled by {before[0].method} already: run schedule remove first; nothing was changed"
        )
    if before and every is None and before[0].every is not None:
        asked_min = parse_every(before[0].every)
    chosen = _chosen(method or (before[0].method if before else None))
    entry = Entry(entry_name(app, paths.home), app, _command(app, paths), Timetable.spread(asked_min, _seed(paths)))
    if before and before[0].does(entry):
        return Change("unchanged", Plan(before))
    reason = does_not_start()
    if reason is not None:
        raise ConfigurationError(f"{reason}: install ktx-spool for this Python; nothing was changed")
    chosen.install(entry)
    return Change("installed", look(app, paths))


def remove(app: str, paths: Paths) -> tuple[Installed, ...]:
    """Take away what is scheduled, by whatever method; give what that was. Raises ConfigurationError."""
    name = entry_name(app, paths.home)
    gone: dict[str, Installed] = {}
    refusals: list[str] = []
    for method in _methods():
        try:
            found = [one for one in method.installed() if one.name == name]
        except ConfigurationError as error:
            refusals.append(str(error))
            continue
        if found:
            method.remove(name)
            gone[method.name] = found[0]
    if not gone and refusals:
        raise ConfigurationError(refusals[0])
    return tuple(gone.values())


def tool(app: str, paths: Paths, env: Mapping[str, str]) -> str:
    """Give `ktx-flush` with `--app` and `--home` where it would look elsewhere without them, for a person to copy."""
    words = ["ktx-flush"] + (["--app", app] if app != "ktx" else [])
    if paths.home not in (NO_HOME, resolve_home(app, None, env)):
        words += ["--home", str(paths.home)]
    return shlex.join(words)


def _methods() -> tuple[Method, ...]:
    return Launchd(), Systemd(), Cron()


def _chosen(name: str | None) -> Method:
    """Give the method of that name, or the first that this machine has."""
    if name is not None and name not in _METHODS:
        raise ConfigurationError(f"there is no --method {name[:40]!r}: give cron, systemd or launchd")
    candidates = [method for method in _methods() if name in (None, method.name)]
    reasons = [(method, method.missing()) for method in candidates]
    usable = next((method for method, reason in reasons if reason is None), None)
    if usable is None:
        raise ConfigurationError(
            f"{'; '.join(str(reason) for _method, reason in reasons)}; nothing was changed: use another scheduler"
        )
    return usable


# Cron knows only minutes: without this, all installs that share a minute would run in its first second.
_SPREAD_S = "45"


def _seed(paths: Paths) -> str:
    """Give what the minute follows from: the install id, or the home where there is none yet (none is minted here)."""
    return read_stored(paths.identity).install_id or str(paths.home)


def _command(app: str, paths: Paths) -> tuple[str, ...]:
    """Give the command line: the program that runs now, and the home by name, for cron has no KTX_HOME."""
    arguments = ["--app", app, "--home", str(paths.home), "run", "--quiet", "--spread", _SPREAD_S]
    words = tuple(flusher_program(arguments).as_words())
    check_words(words)
    return words


def does_not_start() -> str | None:
    """Say why the flusher does not start with nothing but the environment that cron gives it; None if it does."""
    try:
        words = flusher_program(["--version"]).as_words()
    except ConfigurationError as error:
        return str(error)
    bare = {name: os.environ[name] for name in ("HOME", "SYSTEMROOT") if name in os.environ}
    try:
        done = subprocess.run(  # noqa: S603 - our own command line
            words, env={**bare, "PATH": os.defpath}, cwd=os.sep, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{words[0]} does not run ({type(error).__name__})"
    return None if done.stdout.startswith(b"ktx-flush ") else _not_found(words[0], done.stderr)


def _not_found(program: str, said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return f"{program} does not find the flusher ({printable(lines[-1]) if lines else 'no word of why'})"


def _listed(found: Iterable[Installed]) -> str:
    return " and ".join(one.method for one in found)
