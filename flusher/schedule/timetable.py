"""When a schedule runs, and what it runs: pure. Each method (cron, systemd, launchd) writes it in its own format.

A schedule is one that cron can express: every so many minutes that divide an hour, or hours that divide a day.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from spool.errors import ConfigurationError

__all__ = ["Entry", "Timetable", "check_words", "entry_name", "parse_every"]

_MINUTES, _HOURS = tuple(range(60)), tuple(range(24))
_DAY_MIN = 24 * 60


class Timetable(NamedTuple):
    """The minutes and hours of every day at which it runs, local time."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]

    @classmethod
    def spread(cls, every_min: int, seed: str) -> Timetable:
        """Give the timetable of one install: `seed` decides the minute, so that a fleet is spread out."""
        offset = int.from_bytes(hashlib.sha256(seed.encode("utf-8", "surrogateescape")).digest()[:8]) % every_min
        if every_min < 60:  # noqa: PLR2004 - minutes of an hour
            return cls(_MINUTES[offset::every_min], _HOURS)
        return cls((offset % 60,), _HOURS[offset // 60 :: every_min // 60])

    @classmethod
    def of(cls, minutes: Iterable[int], hours: Iterable[int]) -> Timetable:
        """Give the timetable that an entry which is there describes."""
        return cls(tuple(sorted(set(minutes))), tuple(sorted(set(hours))))

    @property
    def every(self) -> str | None:
        """How often, as `--every` takes it; None for an entry that somebody made uneven."""
        if self.hours == _HOURS and _even(self.minutes, 60):
            return "1h" if len(self.minutes) == 1 else f"{60 // len(self.minutes)}m"
        if len(self.minutes) == 1 and _even(self.hours, 24):
            return f"{24 // len(self.hours)}h"
        return None

    @property
    def fields(self) -> tuple[str, str]:
        """Minutes and hours as cron writes them: `7,22,37,52` and `*`."""
        return _field(self.minutes, _MINUTES), _field(self.hours, _HOURS)

    def next_after(self, now: datetime) -> datetime:
        """Give the first run after `now`; both are times of the clock on the wall, without a zone."""
        minute = now.replace(second=0, microsecond=0)
        for ahead in range(1, _DAY_MIN + 1):
            moment = minute + timedelta(minutes=ahead)
            if moment.minute in self.minutes and moment.hour in self.hours:
                return moment
        raise ValueError("a timetable without an hour or a minute")


def _even(values: tuple[int, ...], whole: int) -> bool:
    if not values or whole % len(values):
        return False
    step = whole // len(values)
    return values == tuple(range(values[0], whole, step)) and values[0] < step


def _field(values: tuple[int, ...], whole: tuple[int, ...]) -> str:
    return "*" if values == whole else ",".join(map(str, values))


def parse_every(text: str) -> int:
    """Read `15m` or `6h` as minutes; ConfigurationError says what can't be expressed, and what can."""
    found = re.fullmatch(r"([0-9]{1,4})([mh])", text)
    if found is None:
        raise ConfigurationError(f"--every {text[:40]!r} doesn't read: give minutes or hours, as 15m or 6h")
    every_min = int(found[1]) * (60 if found[2] == "h" else 1)
    if every_min == 0 or (60 % every_min and (every_min % 60 or _DAY_MIN % every_min)):
        raise ConfigurationError(
            f"--every {text}: cron can't express it; give minutes that divide an hour (1m, 2m, 3m, 4m, 5m, 6m, 10m, "
            "12m, 15m, 20m, 30m) or hours that divide a day (1h, 2h, 3h, 4h, 6h, 8h, 12h, 24h)"
        )
    return every_min


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be installed: a name unique for app and home, the command line, and when it runs."""

    name: str
    app: str
    command: tuple[str, ...]
    timetable: Timetable


def entry_name(app: str, home: Path) -> str:
    """Name the schedule of one app and home, without the home's own name."""
    return f"{app}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"


def check_words(command: Iterable[str]) -> None:
    """Raise ConfigurationError for a word that no schedule can hold: a control character, or no text."""
    for word in command:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"{word!r} can't stand in a schedule: it is no text (UTF-8); use a path that is"
            ) from None
        if any(ord(character) < 0x20 or ord(character) == 0x7F for character in word):  # noqa: PLR2004 - ASCII's
            raise ConfigurationError(
                f"{word!r} can't stand in a schedule: it has a control character in it; use a path without"
            )
