"""Where events go: left by the host CLI in `destination.json`, so that a bare `ktx-flush` knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from spool.errors import ConfigurationError, SpoolError
from spool.home import Paths, private_folder, read_bounded, write_atomic
from spool.settings import DEFAULT_HOST, Limits, env_prefix, is_set

__all__ = ["Destination", "check_host", "host_catalogue", "host_limits", "leave", "resolve"]


_MEND = "delete it, and run the host CLI once"


class Destination(NamedTuple):
    """A PostHog host and a project key; the key is None as long as none is known."""

    host: str
    project_key: str | None


def leave(paths: Paths, fields: Mapping[str, str | None], limits: Limits) -> None:
    """Write `destination.json` if something in it changes. A key of None leaves a known one alone.

    It also holds the limits, since the flusher expires by the host's, and the name of the host's catalogue, if that has
    one, since the flusher checks files aside against it. Where it can't be written the host goes on: `ktx-flush` will
    say what is missing.
    """
    try:
        before = json.loads(read_bounded(paths.destination))
    except (OSError, ValueError, RecursionError):
        before = None  # not there yet, or not readable: written anew
    key = fields["project_key"] or (before.get("project_key") if isinstance(before, dict) else None)
    after = {**fields, "project_key": key, "limits": limits._asdict()}
    if before == after:
        return
    try:
        private_folder(paths.spool)
        write_atomic(paths.destination, json.dumps(after, indent=2).encode() + b"\n", durable=True)
    except (OSError, SpoolError):
        return  # see above


def host_limits(paths: Paths) -> Limits:
    """Give the limits that the host left; the defaults where there are none, or invalid ones."""
    try:
        return Limits(**json.loads(read_bounded(paths.destination))["limits"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Limits()


def host_catalogue(paths: Paths) -> str | None:
    """Give the name of the catalogue that the host left; None where there is none."""
    try:
        name = json.loads(read_bounded(paths.destination))["catalogue"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def resolve(
    app: str, paths: Paths, env: Mapping[str, str], *, host: str | None = None, key: str | None = None
) -> Destination:
    """Say where to deliver: options first, then the environment, then `destination.json`.

    Raises ConfigurationError for a broken file, a host that can't be used or a personal key.
    """
    prefix = env_prefix(app)
    host = host or env.get(prefix + "TELEMETRY_ENDPOINT") or None
    key = key or env.get(prefix + "TELEMETRY_KEY") or None
    left = _read(paths) if host is None or key is None else {}
    destination = Destination(host or left.get("host") or DEFAULT_HOST, key or left.get("project_key"))
    variable = prefix + "TELEMETRY_ALLOW_HTTP"
    check_host(destination.host, None if is_set(env.get(variable)) else variable)
    if destination.project_key is not None:
        _check_key(destination.project_key)
    return destination


def _read(paths: Paths) -> dict[str, str | None]:
    try:
        fields = json.loads(read_bounded(paths.destination))
        parts = {name: fields.get(name) for name in ("host", "project_key")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigurationError(f"{paths.destination} doesn't read ({error}): {_MEND}") from error
    if not all(part is None or isinstance(part, str) for part in parts.values()):
        raise ConfigurationError(f"{paths.destination} is not what the host CLI writes: {_MEND}")
    return parts


def check_host(host: str, variable: str | None) -> None:
    """Raise ConfigurationError unless the host is https, or http on this machine's loopback.

    Any other http host is for those who set `variable`; None where it is set.
    """
    try:
        parts = urlsplit(host)
        name, _port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(
            f"the host {host!r} is no address ({error}): give one as https://us.i.posthog.com"
        ) from error
    if parts.scheme not in ("http", "https") or not name:
        raise ConfigurationError(f"the host {host!r} has no scheme: write https://{host.rsplit('://', maxsplit=1)[-1]}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError("the host has a user, query or fragment in it: give the address only")
    if parts.scheme == "http" and name not in ("localhost", "127.0.0.1", "::1") and variable is not None:
        raise ConfigurationError(f"the host {host!r} is not encrypted: write https://, or allow it by {variable}=1")


def _check_key(key: str) -> None:
    """Raise ConfigurationError for a personal key, and for what is no key."""
    if key.startswith("phx_"):
        raise ConfigurationError("the key is a personal one (phx_): give the project's own (phc_), it can only capture")
    if not key.strip() or any(character.isspace() or not character.isprintable() for character in key):
        raise ConfigurationError("the project key is empty or has a space in it: give the project's own (phc_)")
