"""What the environment says to one app's process: where its home is, and what is switched on or off by variables."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from spool.consent.rule import is_set, off_variables, opted_out_by
from spool.home.paths import Paths, resolve_home
from spool.settings import TESTING, env_prefix

__all__ = ["Environment", "World"]


class World(NamedTuple):
    """The environment at one moment; a capture looks once.

    `paths` are the files of the home, None where no home can be named. With `debug` events are shown and neither
    stored nor sent. `off_by` is the variable that switches this process off; debug mode shows events all the same.
    """

    paths: Paths | None
    debug: bool
    off_by: str | None


class Environment:
    """One app's view of `os.environ`. A host may change its variables between captures."""

    def __init__(self, app: str, home: Path | str | None) -> None:
        self._app = app
        self._home = home
        prefix = env_prefix(app)
        self._debug, self._strict = prefix + "TELEMETRY_DEBUG", prefix + "TELEMETRY_STRICT"
        self._home_variables = (TESTING, prefix + "HOME", "HOME")
        self._names = (self._debug, *off_variables(app), *self._home_variables)
        self._environ, self._read = os.environ, _reading(self._names)
        self._seen: dict[tuple[object, ...], World] = {}
        self._homes: dict[tuple[str | None, ...], Paths] = {}
        _ = self.paths  # a relative home is one below the working folder of now, wherever the host goes later

    def look(self) -> World:
        """Read what a capture has to know; work it out again when one of the variables has changed."""
        if os.environ is not self._environ:  # somebody has put another in its place, as tests do
            self._environ, self._read = os.environ, _reading(self._names)
        world = self._seen.get(values := tuple(map(*self._read)))
        if world is None:
            debug = is_set(os.environ.get(self._debug))
            world = World(self.paths, debug, None if debug else opted_out_by(self._app, os.environ))
            # The last one: few hosts go back and forth. Where no home could be named, one may come without a variable.
            self._seen = {values: world} if world.paths is not None else {}
        return world

    @property
    def paths(self) -> Paths | None:
        """The files of this host's home, or None where no home can be named."""
        named = tuple(map(os.environ.get, self._home_variables))
        known = self._homes.get(named)
        if known is None:
            home = resolve_home(self._app, None if named[0] else self._home, os.environ)
            if home is None:
                return None
            known = self._homes[named] = Paths(home)
        return known

    @property
    def strict(self) -> bool:
        """Whether programming mistakes raise."""
        return is_set(os.environ.get(self._strict)) or bool(os.environ.get(TESTING))

    def forget(self, home: Path) -> None:
        """Forget a home that is about to go."""
        self._homes = {named: paths for named, paths in self._homes.items() if paths.home != home}
        self._seen = {}


def _reading(names: tuple[str, ...]) -> tuple[Callable[[Any], object], tuple[object, ...]]:
    """Give what reads a variable, and its arguments for these: `os.environ.get` with the names, or what is behind it.

    `os.environ.get` encodes, decodes and raises inside: 1 us for each variable, of seven that a capture looks at. The
    dictionary behind it is taken where it is the one that CPython has had since 3.2.
    """
    behind, encode = getattr(os.environ, "_data", None), getattr(os.environ, "encodekey", None)
    if not isinstance(behind, dict) or encode is None or {encode(name) for name in os.environ} != set(behind):
        return os.environ.get, names
    return behind.get, tuple(map(encode, names))
