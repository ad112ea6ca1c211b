"""What doctor found about one thing, and how to mend it; all findings as JSON that may be sent to others."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from spool.consent import read_stored
from spool.exception.redaction import redact, whereabouts
from spool.home import Paths, file_system
from spool.queue import sqlite_facts
from spool.settings import VERSION

__all__ = ["Finding", "State", "as_object", "exit_code"]

State = Literal["ok", "warn", "fail"]

# Failures of the destination or the network, which nothing on this machine can fix: events wait meanwhile.
_DESTINATION = {"server", "delivery", "flusher"}
_CONFIGURATION, _UNREACHABLE = 2, 75
_LONGEST = 2_000
_PACKAGES = ("diskcache", "filelock", "posthog", "python-crontab", "requests", "typer")


@dataclass(frozen=True, slots=True)
class Finding:
    """`mend` is a sentence that names the action; None where the state is ok."""

    name: str
    state: State
    what: str
    mend: str | None = None

    def as_json(self) -> dict[str, object]:
        """Give it for a program to read."""
        return asdict(self)


def exit_code(findings: Iterable[Finding]) -> int:
    """Give 0 where nothing fails, 75 where only the destination does, else 2."""
    failed = {finding.name for finding in findings if finding.state == "fail"}
    if not failed:
        return 0
    return _UNREACHABLE if failed <= _DESTINATION else _CONFIGURATION


def as_object(findings: Sequence[Finding], app: str, paths: Paths, env: Mapping[str, str]) -> dict[str, object]:
    """Give findings and versions, without the name or home of a person and without the install id."""
    person = whereabouts(env)._asdict()
    secrets = [read_stored(paths.identity).install_id or ""]

    def clean(text: str | None) -> str | None:
        # The home first: it may be anywhere, and its name may be that of a person.
        short = None if text is None else text.replace(str(paths.home), f"~/.{app}")
        return short and redact(short, secrets=secrets, limit=_LONGEST, **person)

    return {
        "exit_code": exit_code(findings),
        "findings": [
            {**finding.as_json(), "what": clean(finding.what), "mend": clean(finding.mend)} for finding in findings
        ],
        "versions": _versions(paths),
    }


def _versions(paths: Paths) -> dict[str, Any]:
    return {
        "ktx_spool": VERSION,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite_facts()[0],
        "platform": f"{sys.platform} {platform.machine()}",
        "os": _system(),
        "file_system": file_system(paths.home),
        "packages": {name: _package(name) for name in _PACKAGES},
    }


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
