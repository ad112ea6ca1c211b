"""The ledger of what was captured here, by version and command: `ktx-flush audit` finds events that went silent.

A command adds its sighting when it ends, a process that captures without a command when it closes; a capture itself
only remembers a name. So a killed process leaves no sighting: its events are delivered all the same, and an audit needs
only a tendency. For the same reason nothing is locked: of two sightings at once, one may be lost.

Runs are counted up to `ENOUGH`: from then on a host that captures what it always did reads one small file, and writes
it once a day. The file holds names and counts, no event, and an opt-out deletes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from spool.consent import consent
from spool.home import Paths, read_state, write_state

__all__ = ["ENOUGH", "Ran", "Sighting", "Version", "add", "note", "read"]

FORMAT = 1
# Enough to tell an event of one run in twenty from one that is gone.
ENOUGH = 20
# More than any install sees of each; a host that makes up names can't make the file grow beyond this.
_VERSIONS, _COMMANDS, _NAMES, _LONGEST = 8, 64, 256, 200
_MAX_BYTES = 256 * 1024


class Sighting(NamedTuple):
    """What one run captured: under a command ("" where there is none), which ended with this outcome."""

    version: str
    catalogue: tuple[str, ...]
    command: str
    outcome: str
    events: frozenset[str]


class Ran(NamedTuple):
    """The runs of a command that ended alike: how many, and in how many of them each event was captured."""

    runs: int
    events: dict[str, int]


class Version(NamedTuple):
    """A version of the host: the days (UTC) on which it was seen first and last, and its commands by outcome."""

    version: str
    first: str
    last: str
    catalogue: list[str]
    commands: dict[str, dict[str, Ran]]


def add(versions: list[Version], seen: Sighting, today: str) -> bool:
    """Add a sighting; the version that ran last stands last. True if that changed anything. Pure."""
    entry = next((one for one in versions if one.version == seen.version), None)
    newest = entry is not None and entry is versions[-1]
    if entry is None:
        entry = Version(seen.version, today, today, [], {})
    else:
        versions.remove(entry)
    after = entry._replace(last=today, catalogue=list(seen.catalogue[:_NAMES]))
    versions.append(after)
    del versions[:-_VERSIONS]
    changed = not newest or after != entry
    if seen.command not in after.commands and len(after.commands) >= _COMMANDS:
        return changed
    outcomes = after.commands.setdefault(seen.command, {})
    before = outcomes.get(seen.outcome, Ran(0, {}))
    outcomes[seen.outcome] = _counted(before, seen.events)
    return changed or outcomes[seen.outcome] != before


def _counted(ran: Ran, seen: Iterable[str]) -> Ran:
    counts, events = ran.runs < ENOUGH, dict(ran.events)
    for name in sorted(seen):
        if name in events:
            events[name] += counts
        elif len(events) < _NAMES and len(name) <= _LONGEST:
            events[name] = 1
    return Ran(ran.runs + counts, events)


# -- the file -----------------------------------------------------------------------------------------------


def note(app: str, paths: Paths, seen: Sighting, today: str) -> None:
    """Store a sighting, if it is news and telemetry is on. Raises OSError or UnsafePathError.

    Consent is read again after the file is written, so that an opt-out meanwhile leaves no file.
    """
    too_long = max(len(seen.version), len(seen.command), len(seen.outcome)) > _LONGEST
    if too_long or not consent(app, paths, os.environ).identity.enabled:
        return
    versions = read(paths)
    if not add(versions, seen, today):
        return
    data = _encode(versions)
    while len(data) > _MAX_BYTES and len(versions) > 1:
        del versions[0]
        data = _encode(versions)
    if len(data) <= _MAX_BYTES:
        write_state(paths, paths.emitted, data)
        if not consent(app, paths, os.environ).identity.enabled:
            with suppress(FileNotFoundError):
                os.unlink(paths.emitted)


def _encode(versions: list[Version]) -> bytes:
    fields = {"format": FORMAT, "versions": [{**one._asdict(), "commands": _commands(one)} for one in versions]}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _commands(version: Version) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        command: {outcome: ran._asdict() for outcome, ran in outcomes.items()}
        for command, outcomes in version.commands.items()
    }


def read(paths: Paths) -> list[Version]:
    """Give the versions, the present one last; none where the file can't be read or is no ledger."""
    fields = read_state(paths.emitted, _MAX_BYTES)
    if fields is None or fields.get("format") != FORMAT:
        return []
    try:
        return [_version(one) for one in fields["versions"]]
    except (TypeError, KeyError, AttributeError):
        return []


def _version(fields: dict[str, Any]) -> Version:
    commands = {
        _text(command): {_text(outcome): _ran(ran) for outcome, ran in outcomes.items()}
        for command, outcomes in fields["commands"].items()
    }
    catalogue = [_text(name) for name in fields["catalogue"]]
    return Version(_text(fields["version"]), _text(fields["first"]), _text(fields["last"]), catalogue, commands)


def _ran(fields: dict[str, Any]) -> Ran:
    return Ran(_number(fields["runs"]), {_text(name): _number(count) for name, count in fields["events"].items()})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("no count")
    return value
