"""What the code under test spooled, read from the real spool of a home, and assertions that say what was there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

from spool.home import Paths, read_bounded

__all__ = ["Captured", "Event"]

# As the contract has it: uuid, event, distinct_id, timestamp, properties.
Event = dict[str, Any]

# A process that captures holds the queue for less than a millisecond; one that was stopped, for ever.
_WAIT_S = 5.0
_MOST_SHOWN = 30
_WIDEST = 300


class Captured(Sequence[Event]):
    """The events that wait in the spool of a home, oldest first, read anew at each look.

    Also of child processes, and of a command that was killed: its event is made from its span, as the next
    run of the host or the flusher would. What a flusher has delivered meanwhile is not there any more.
    `known` gives the names that a catalogue has, if there is one: asking for another one is a mistake.
    """

    def __init__(self, home: Path, known: Callable[[], Iterable[str]] = tuple) -> None:
        self.home = home
        self._known = known

    # -- a list -----------------------------------------------------------------------------------------

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return _read(self.home)[index]

    def __len__(self) -> int:
        return len(_read(self.home))

    def __iter__(self) -> Iterator[Event]:
        return iter(_read(self.home))

    def __eq__(self, other: object) -> bool:
        return _read(self.home) == (list(other) if isinstance(other, Sequence) else other)

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __repr__(self) -> str:
        return f"<captured: {', '.join(self.names()) or 'nothing'}>"

    def names(self) -> list[str]:
        """Give the names of the events, in their order."""
        return [event["event"] for event in self]

    # -- assertions -------------------------------------------------------------------------------------

    def all(self, event: str, /, **properties: object) -> list[Event]:
        """Give the events of this name that have these properties. ValueError for a name of no event."""
        __tracebackhide__ = True
        self._check(event)
        return [found for found in self if _matches(found, event, properties)]

    def one(self, event: str, /, **properties: object) -> Event:
        """Give the one event of this name that has these properties; AssertionError unless it is exactly one."""
        __tracebackhide__ = True
        found = self.all(event, **properties)
        if len(found) != 1:
            raise AssertionError(self._told(f"expected exactly one {_wanted(event, properties)}, found {len(found)}"))
        return found[0]

    def none(self, event: str | None = None, /, **properties: object) -> None:
        """AssertionError if there is an event, or one of this name that has these properties."""
        __tracebackhide__ = True
        found = list(self) if event is None else self.all(event, **properties)
        if found:
            wanted = "event" if event is None else _wanted(event, properties)
            raise AssertionError(self._told(f"expected no {wanted}, found {len(found)}"))

    @contextmanager
    def opted_out(self) -> Iterator[None]:
        """Say no for the block, as a user does, by `DO_NOT_TRACK`; here and in child processes."""
        before = os.environ.get("DO_NOT_TRACK")
        os.environ["DO_NOT_TRACK"] = "1"
        try:
            yield
        finally:
            if before is None:
                os.environ.pop("DO_NOT_TRACK", None)
            else:
                os.environ["DO_NOT_TRACK"] = before

    def _check(self, event: str) -> None:
        """Refuse a name that the catalogue doesn't have: `none` would be true of it for ever."""
        __tracebackhide__ = True
        names = set(self._known())
        if names and event not in names:
            from spool.catalogue import OWN_EVENTS  # noqa: PLC0415 - msgspec, loaded by the catalogue
            from spool.catalogue.schema import suggestion  # noqa: PLC0415 - with it

            if event in OWN_EVENTS:
                return
            raise ValueError(f"{event}: no event of the catalogue; {suggestion(event, sorted(names))}")

    def _told(self, expectation: str) -> str:
        events = list(self)
        lines = [_line(event) for event in events[:_MOST_SHOWN]]
        if len(events) > _MOST_SHOWN:
            lines.append(f"and {len(events) - _MOST_SHOWN} more")
        if not events:
            lines = ["nothing", *_hints(self.home)]
        return "\n  ".join([f"{expectation}; captured:", *lines])


def _matches(found: Event, event: str, properties: dict[str, object]) -> bool:
    given = found["properties"]
    return found["event"] == event and all(name in given and given[name] == properties[name] for name in properties)


def _wanted(event: str, properties: dict[str, object]) -> str:
    return f"{event} with {_pairs(properties)}" if properties else event


def _pairs(properties: dict[str, Any]) -> str:
    return " ".join(f"{name}={value!r}" for name, value in properties.items())


def _line(event: Event) -> str:
    """Show an event on one line: its own fields, since those that every event has are no news."""
    from spool.event import host_facts  # noqa: PLC0415 - when something is to be told

    common = host_facts("", {}).keys()
    own = {
        name: value
        for name, value in event["properties"].items()
        if name not in common and not name.startswith(("$", "spool_"))
    }
    line = f"{event['event']}  {_pairs(own)}".rstrip()
    return line if len(line) <= _WIDEST else line[: _WIDEST - 1] + "…"


def _hints(home: Path) -> list[str]:
    """Say what may have kept the code under test from spooling anything."""
    names = ("DO_NOT_TRACK", "CI")
    ends = ("_TELEMETRY_DISABLED", "_TELEMETRY_DEBUG")
    found = sorted(name for name in os.environ if (name in names or name.endswith(ends)) and os.environ[name])
    hints = [f"{name} is set in the environment: nothing is spooled under it" for name in found]
    if not Paths(home).spool.exists():
        hints.append("no spool was opened in the test's home: no capture was reached there")
    return hints


# -- the real spool -----------------------------------------------------------------------------------------


def _read(home: Path) -> list[Event]:
    """Read what waits: in the queue, then aside. Nothing there is changed but spans of the dead."""
    from spool.beside import aside  # noqa: PLC0415 - for a test that looks
    from spool.beside.spans import recover_all  # noqa: PLC0415 - sqlite3 and all
    from spool.event import check_stored  # noqa: PLC0415 - with it
    from spool.queue import Queue  # noqa: PLC0415 - with it

    paths = Paths(home)
    if not paths.spool.is_dir():
        return []
    queue = Queue(paths, wait_s=_WAIT_S)
    try:
        recover_all(paths, queue)
        events = [json.loads(stored.text) for stored in queue.gather()]
        absorbed = queue.absorbed_names()
    finally:
        queue.close()
    beside = [path for path in aside.files(paths) if path.name not in absorbed]
    return events + [check_stored(read_bounded(path, follow=False).decode()) for path in beside]
