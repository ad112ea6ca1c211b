"""Every path of the spool, derived from the home. Nothing here creates or reads anything."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from spool.home.under_test import home_under_test
from spool.settings import env_prefix

__all__ = ["Paths", "resolve_home"]


class Paths:
    """The files below one home, as the contract names them. Each is put together once: a capture asks often."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @cached_property
    def identity(self) -> Path:
        """Identity and consent, shared with ktx itself."""
        return self.home / "telemetry.json"

    @cached_property
    def spool(self) -> Path:
        """The folder that holds everything of ours."""
        return self.home / "spool"

    @cached_property
    def queue(self) -> Path:
        """The diskcache directory; nothing else lives in it."""
        return self.spool / "queue"

    @cached_property
    def queue_staged(self) -> Path:
        """Where a queue is built before it is renamed to `queue`."""
        return self.spool / "queue.new"

    @cached_property
    def database(self) -> str:
        """SQLite's file in it."""
        return str(self.queue / "cache.db")

    @cached_property
    def log(self) -> str:
        """SQLite's log (WAL): a commit is written here first."""
        return f"{self.database}-wal"

    @cached_property
    def queue_lock(self) -> Path:
        """Held around every open, append, settle and close of the queue."""
        return self.spool / "queue.lock"

    @cached_property
    def flush_lock(self) -> Path:
        """Held by the one running flusher."""
        return self.spool / "flush.lock"

    @cached_property
    def flush_state(self) -> Path:
        """Last attempt, last result, failures in a row, next attempt."""
        return self.spool / "flush.json"

    @cached_property
    def flush_log(self) -> Path:
        """A line for each run of the flusher, the newest ones."""
        return self.spool / "flush.log"

    @cached_property
    def report_page(self) -> Path:
        """The page that `ktx-flush report` writes."""
        return self.spool / "report.html"

    @cached_property
    def destination(self) -> Path:
        """Host and project key, left by the host CLI for a bare `ktx-flush`."""
        return self.spool / "destination.json"

    @cached_property
    def emitted(self) -> Path:
        """Which events each version captured under which command: names and counts, for `ktx-flush audit`."""
        return self.spool / "emitted.json"

    @cached_property
    def losses_log(self) -> Path:
        """Why events were lost lately."""
        return self.spool / "losses.log"

    @cached_property
    def spans(self) -> Path:
        """One file per open command."""
        return self.spool / "spans"

    def span(self, uuid: str) -> Path:
        """The file of one open command."""
        return self.spans / f"{uuid}.json"

    @cached_property
    def aside(self) -> Path:
        """One file for each event that could not enter the queue in time."""
        return self.spool / "aside"

    @cached_property
    def reserve(self) -> Path:
        """Space that a flusher keeps for a full disk."""
        return self.spool / "reserve"

    @cached_property
    def wiped(self) -> Path:
        """Which opt-out was carried out here: the signature of its `telemetry.json`."""
        return self.spool / "wiped"

    @cached_property
    def launched(self) -> Path:
        """When a flusher was started last, by its time."""
        return self.spool / "launched"

    @cached_property
    def launch_errors(self) -> Path:
        """What a flusher that a host started said before it was at work, or why none could be started."""
        return self.spool / "launch.err"

    @cached_property
    def quarantine(self) -> Path:
        """Damaged queues and refused files, whole."""
        return self.spool / "quarantine"


def resolve_home(app: str, home: Path | str | None, env: Mapping[str, str]) -> Path | None:
    """Give the app's home as an absolute path, or None where none can be named.

    An explicit `home` wins, then the guard kit's, which the process of a test knows whatever `env` says. Then
    `<APP>_HOME`, then `~/.<app>` by `HOME` or the account's own entry. No `~` and no `$` inside a path is expanded: a
    folder may be called so.
    """
    chosen = home if home is not None else home_under_test(env) or env.get(env_prefix(app) + "HOME") or None
    if chosen is not None:
        try:
            return Path(os.path.abspath(chosen)) if str(chosen).strip() and "\0" not in str(chosen) else None
        except OSError:  # relative, in a working folder that was deleted
            return None
    base = env.get("HOME") if os.name == "posix" else os.path.expanduser("~")
    if not base:
        base = _account_home()
    if not base or not os.path.isabs(base):
        return None
    return Path(base) / f".{app}"


def _account_home() -> str | None:
    """Give the home folder of the account that runs this process, where the system knows one."""
    if sys.platform == "win32":
        return None
    import pwd  # noqa: PLC0415 - rarely needed

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return None
