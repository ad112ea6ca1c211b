"""Doctor's findings: for a person at the terminal, and as JSON that may be sent to somebody else."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console

from flusher.commands.letters import printable
from flusher.doctor.finding import Finding, exit_code
from spool.consent.identity import read_stored
from spool.exception.redaction import redact, whereabouts
from spool.fallback.mounts import file_system
from spool.home.paths import Paths
from spool.queue.disk import sqlite_facts
from spool.settings import VERSION

__all__ = ["as_object", "render"]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_PACKAGES = ("diskcache", "filelock", "posthog", "python-crontab", "requests", "typer")
_LONGEST = 2_000


def render(findings: Iterable[Finding]) -> None:
    """Print a line for each finding, and below it how to mend it. No line is broken: a command can be copied."""
    console = Console()
    for finding in findings:
        console.print(f"[{_COLOURS[finding.state]}]{finding.state:4}[/]  [bold]{finding.name:12}[/]", end=" ")
        _plain(console, finding.what)
        if finding.mend is not None:
            _plain(console, f"{'':19}mend: {finding.mend}")


def _plain(console: Console, text: str) -> None:
    console.print(printable(text, _LONGEST), markup=False, highlight=False, soft_wrap=True)


def as_object(findings: Sequence[Finding], app: str, paths: Paths, env: Mapping[str, str]) -> dict[str, object]:
    """Give findings and versions, without the name or home of a person and without the install id."""
    user_home, user = whereabouts(env)
    secrets = [read_stored(paths.identity).install_id or ""]

    def clean(text: str | None) -> str | None:
        # The home first: it may lie anywhere, and its name may be that of a person.
        short = None if text is None else text.replace(str(paths.home), f"~/.{app}")
        return short and redact(short, secrets=secrets, home=user_home, user=user, limit=_LONGEST)

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
