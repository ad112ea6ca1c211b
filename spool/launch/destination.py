"""Where events go: left by the host CLI in `destination.json`, so that a bare `ktx-flush` knows it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from spool.errors import ConfigurationError, SpoolError
from spool.home import Paths, read_state, write_state
from spool.settings import DEFAULT_HOST, Limits, env_prefix, is_set, stripped

__all__ = ["Destination", "check_host", "host_catalogue", "host_limits", "leave", "resolve"]


_MEND = "delete it, and run the host CLI once"
_GIVE = "give one as https://us.i.posthog.com"
# Of a name in DNS.
_LONGEST_NAME = 253


class Destination(NamedTuple):
    """A PostHog host and a project key; the key is None as long as none is known.

    `host_from` says who named the host, in words for the person who has to change it.
    """

    host: str
    project_key: str | None
    host_from: str = "the host CLI"


def leave(paths: Paths, fields: Mapping[str, str | None], limits: Limits) -> None:
    """Write `destination.json` if something in it changes. A key of None leaves a known one alone.

    It also holds the limits, since the flusher expires by the host's, and the name of the host's catalogue, if that has
    one, since the flusher checks files aside against it. Where it can't be written the host goes on: `ktx-flush` will
    say what is missing.
    """
    before = read_state(paths.destination)  # None: not there yet, or not readable, so written anew
    key = fields["project_key"] or (before or {}).get("project_key")
    after = {**fields, "project_key": key, "limits": limits._asdict()}
    if before == after:
        return
    try:
        write_state(paths, paths.destination, json.dumps(after, indent=2).encode() + b"\n", durable=True)
    except (OSError, SpoolError):
        return  # see above


def host_limits(paths: Paths) -> Limits:
    """Give the limits that the host left; the defaults where there are none, or invalid ones."""
    try:
        return Limits(**(read_state(paths.destination) or {})["limits"])
    except (ValueError, TypeError, KeyError):
        return Limits()


def host_catalogue(paths: Paths) -> str | None:
    """Give the name of the catalogue that the host left; None where there is none."""
    name = (read_state(paths.destination) or {}).get("catalogue")
    return name if isinstance(name, str) else None


def resolve(
    app: str, paths: Paths, env: Mapping[str, str], *, host: str | None = None, key: str | None = None
) -> Destination:
    """Say where to deliver: options first, then the environment, then `destination.json`.

    Raises ConfigurationError for a broken file, a host that can't be used or a personal key.
    """
    prefix = env_prefix(app)
    key = stripped(key) or stripped(env.get(prefix + "TELEMETRY_KEY"))
    variable = prefix + "TELEMETRY_ENDPOINT"
    named = [("--host", stripped(host)), (variable, stripped(env.get(variable)))]
    left = _read(paths) if key is None or not any(value for _, value in named) else {}
    named += [(str(paths.destination), stripped(left.get("host"))), ("the default", DEFAULT_HOST)]
    host_from, host = next((source, value) for source, value in named if value)
    variable = prefix + "TELEMETRY_ALLOW_HTTP"
    check_host(host, None if is_set(env.get(variable)) else variable, host_from)
    destination = Destination(host, key or stripped(left.get("project_key")), host_from)
    if destination.project_key is not None:
        _check_key(destination.project_key)
    return destination


def _read(paths: Paths) -> dict[str, str | None]:
    fields = read_state(paths.destination)
    if fields is None:
        if not os.path.lexists(paths.destination):
            return {}
        raise ConfigurationError(f"{paths.destination} doesn't read: {_MEND}")
    parts = {name: fields.get(name) for name in ("host", "project_key")}
    if not all(part is None or isinstance(part, str) for part in parts.values()):
        raise ConfigurationError(f"{paths.destination} is not what the host CLI writes: {_MEND}")
    return parts


def check_host(host: str, variable: str | None, host_from: str = "the host CLI") -> None:
    """Raise ConfigurationError unless the host is https, or http on this machine's loopback.

    Any other http host is for those who set `variable`; None where it is set. `host_from` is as in `Destination`.
    """
    shown = f"the host ({host_from})" if "@" in host else f"the host {host!r} ({host_from})"  # no password
    try:
        parts = urlsplit(host)
        name, _port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"{shown} is no address: {_GIVE}") from error
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(f"{shown} has a user, query or fragment in it: give the address only")
    if parts.scheme not in ("http", "https") or not name:
        if "@" in host:
            raise ConfigurationError(f"{shown} has no scheme: write https:// before it")
        raise ConfigurationError(f"{shown} has no scheme: write https://{host.rsplit('://', maxsplit=1)[-1]}")
    if not host.isprintable() or not _is_name(name):
        raise ConfigurationError(f"{shown} is no address, for its name can't exist: {_GIVE}")
    if parts.scheme == "http" and name not in ("localhost", "127.0.0.1", "::1") and variable is not None:
        raise ConfigurationError(f"{shown} is not encrypted: write https://, or allow it by {variable}=1")


def _is_name(name: str) -> bool:
    """Tell whether this can be the name of a host, or its IP address."""
    if ":" in name:  # IPv6: urlsplit has checked it
        return True
    try:
        written = name.encode("idna").decode("ascii").removesuffix(".")
    except UnicodeError:  # a part that is empty, or too long
        return False
    return len(written) <= _LONGEST_NAME and all(re.fullmatch(r"[\w-]+", part, re.ASCII) for part in written.split("."))


def _check_key(key: str) -> None:
    """Raise ConfigurationError for a personal key, and for what is no key."""
    if key.startswith("phx_"):
        raise ConfigurationError("the key is a personal one (phx_): give the project's own (phc_), it can only capture")
    if not key.strip() or any(character.isspace() or not character.isprintable() for character in key):
        raise ConfigurationError("the project key is empty or has a space in it: give the project's own (phc_)")
