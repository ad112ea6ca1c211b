"""What doctor makes of home, files, SQLite, locks and the queue: pure judgements on what was found."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Literal, NamedTuple

from flusher.doctor.finding import Finding
from spool.errors import DiskFullError, LockBusyError, LockUnsupportedError

__all__ = [
    "FileFacts",
    "HomeFacts",
    "canary",
    "files",
    "home",
    "locks",
    "network",
    "quarantine",
    "queue",
    "queue_not_seen",
    "sqlite",
]

# Partial indexes, which diskcache makes.
_LEAST_SQLITE = (3, 8, 0)
_OTHERS, _MINE_TO_ENTER, _MINE_TO_WRITE = 0o077, 0o700, 0o600


class HomeFacts(NamedTuple):
    """The home as it stands. `mode` None: it isn't there."""

    path: str
    mode: int | None
    is_folder: bool = True
    mine: bool = True
    usable: bool = True
    read_only: bool = False


class FileFacts(NamedTuple):
    """One file or folder of the spool."""

    path: str
    kind: Literal["folder", "file", "other"]
    mode: int
    mine: bool = True
    names: int = 1


def home(facts: HomeFacts, prefix: str) -> Finding:
    """Say whether the home is there, ours, and ours alone to write."""
    path = shlex.quote(facts.path)
    if facts.mode is None:
        return Finding("home", "warn", f"{facts.path} is not there yet", "run the host CLI once: it makes its home")
    if not facts.is_folder:
        return Finding("home", "fail", f"{facts.path} is no folder", f"move it away, or set {prefix}HOME")
    if not facts.mine:
        mend = f'give it back: sudo chown -R "$(id -un)" {path}; or set {prefix}HOME to a folder of yours'
        return Finding("home", "fail", f"{facts.path} belongs to another user", mend)
    if facts.read_only:
        mend = f"mount it so that it can be written, or set {prefix}HOME to another place"
        return Finding("home", "fail", f"{facts.path} is on a read-only file system", mend)
    if not facts.usable or facts.mode & _MINE_TO_ENTER != _MINE_TO_ENTER:
        return Finding("home", "fail", f"{facts.path} can't be written (mode {facts.mode:04o})", f"chmod u+rwx {path}")
    if facts.mode & 0o022:
        what = f"others may write to {facts.path} (mode {facts.mode:04o}), and so decide on telemetry"
        return Finding("home", "warn", what, f"chmod go-w {path}")
    return Finding("home", "ok", facts.path)


def files(found: Sequence[FileFacts], folder: str) -> Finding:
    """Say whether the spool's files are plain, ours, and private; the worst of it first."""
    path = shlex.quote(folder)
    strange = [file.path for file in found if file.kind == "other" or (file.kind == "file" and file.names > 1)]
    if strange:
        what = f"no plain file or folder, or linked twice: {_first(strange)}"
        return Finding("files", "fail", what, f"move it away: mv {shlex.quote(strange[0])} somewhere else")
    foreign = [file.path for file in found if not file.mine]
    if foreign:
        mend = f'give it back to yourself: sudo chown -R "$(id -un)" {path}'
        return Finding("files", "fail", f"belongs to another user: {_first(foreign)}", mend)
    shut = [file.path for file in found if file.mode & _needed(file) != _needed(file)]
    if shut:
        what = f"can't be read or written by you: {_first(shut)}"
        return Finding("files", "fail", what, f"chmod -R u+rwX {path}")
    public = [file.path for file in found if file.mode & _OTHERS]
    if public:
        return Finding("files", "warn", f"open to other users: {_first(public)}", f"chmod -R go-rwx {path}")
    return Finding("files", "ok", f"{len(found):,}, all yours and private")


def _needed(file: FileFacts) -> int:
    return _MINE_TO_ENTER if file.kind == "folder" else _MINE_TO_WRITE


def _first(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more"


def network(kind: str | None, prefix: str, *, is_network: bool) -> Finding:
    """Say what file system the home is on."""
    if is_network:
        what = f"the home is on a network ({kind}): each event is a file, and only the flusher opens the queue"
        return Finding("file system", "warn", what, f"set {prefix}HOME to a folder on a disk of this machine")
    return Finding("file system", "ok", kind or "of an unknown type")


def sqlite(version: str, *, takes_double_quotes: bool) -> Finding:
    """Say whether this Python's SQLite can hold a queue."""
    mend = "run the host CLI and ktx-flush with another Python, such as one of python.org"
    if not takes_double_quotes:
        what = f"SQLite {version} refuses double-quoted strings, which diskcache needs: events go aside"
        return Finding("sqlite", "fail", what, mend)
    if tuple(int(part) for part in version.split(".")[:3]) < _LEAST_SQLITE:
        return Finding("sqlite", "fail", f"SQLite {version} is older than 3.8", mend)
    return Finding("sqlite", "ok", version)


def locks(error: Exception | None, path: str, prefix: str) -> Finding:
    """Say whether files can be locked here, and whether somebody sits on the queue's lock."""
    if isinstance(error, LockUnsupportedError):
        mend = f"set {prefix}HOME to a folder on a local disk: without locks nothing is delivered"
        return Finding("locks", "fail", str(error), mend)
    if isinstance(error, LockBusyError):
        mend = f"find who holds it (fuser -v {shlex.quote(path)}), and end or continue that process"
        return Finding("locks", "fail", f"{error}: a process that was stopped?", mend)
    if error is not None:
        return Finding("locks", "fail", str(error), f"look at {path}")
    return Finding("locks", "ok", "files can be locked")


def queue(damage: str | None, waiting: int, dead: int, tool: str) -> Finding:
    """Say whether the queue reads, every row of it."""
    if damage is not None:
        mend = f"run {tool} run: it moves the damaged queue to quarantine, whole, and goes on with what reads"
        return Finding("queue", "fail", f"damaged: {damage}", mend)
    return Finding("queue", "ok", f"every row reads: {waiting:,} pending, {dead:,} dead letters")


def queue_not_seen(tool: str) -> Finding:
    """Say why the queue was left alone."""
    what = "not looked at: files, locks or SQLite are not as they should be"
    return Finding("queue", "warn", what, f"mend those first, then run {tool} doctor again")


def quarantine(names: Sequence[str], folder: str) -> Finding | None:
    """Say what was found damaged or refused before; None where there is nothing."""
    if not names:
        return None
    mend = f"read the .reason files in {shlex.quote(folder)}; delete it when you need it no more"
    return Finding("quarantine", "warn", f"{len(names):,} damaged queues or refused files are kept", mend)


def canary(error: Exception | None, prefix: str) -> Finding:
    """Say whether an event goes into a queue beside the real one, and comes out again."""
    if error is None:
        return Finding("canary", "ok", "an event went into a scratch queue and came out the same")
    full = isinstance(error, DiskFullError) or getattr(error, "errno", None) == 28  # noqa: PLR2004 - ENOSPC
    mend = "free space on the disk of the home" if full else f"mend what is said here, or set {prefix}HOME elsewhere"
    return Finding("canary", "fail", f"no event can be queued: {error}", mend)
