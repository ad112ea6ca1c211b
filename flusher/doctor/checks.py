"""How doctor judges what it found: pure functions, each of which gives a finding.

First of consent, destination, server, schedule and the last runs; then of home, files, SQLite, locks and the queue.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from flusher.context import Result
from flusher.delivery.state import FlushState
from flusher.delivery.verdict import Action, Answer, judge, moment_of
from flusher.doctor.finding import Finding
from flusher.schedule.method import Installed
from flusher.text import error_words
from spool.beside.loss_reasons import LossReason
from spool.consent import Identity
from spool.errors import DiskFullError, LockBusyError, LockUnsupportedError

__all__ = [
    "FileFacts",
    "HomeFacts",
    "canary",
    "clock",
    "connection",
    "consent",
    "delivery",
    "files",
    "flusher",
    "home",
    "host",
    "key",
    "locks",
    "network",
    "no_home",
    "quarantine",
    "queue",
    "queue_not_seen",
    "schedule",
    "server",
    "sqlite",
]

_DAY_S = 24 * 3600.0
# What PostHog's capture service answers to a batch that holds no event and no key.
_REFUSALS_OF_NOTHING = (400, 401)
# Partial indexes, which diskcache makes.
_LEAST_SQLITE = (3, 8, 0)
_OTHERS, _MINE_TO_ENTER, _MINE_TO_WRITE = 0o077, 0o700, 0o600


# -- where events go ------------------------------------------------------------------------------------------


def consent(identity: Identity, prefix: str, home: str, tool: str, *, debug: bool) -> Finding:
    """Say whether telemetry is on, and which rule decided."""
    rule = identity.decided_by
    if identity.enabled and debug:
        what = f"on, but {prefix}TELEMETRY_DEBUG is set: events are written to stderr, none is stored or sent"
        return Finding("telemetry", "warn", what, f"unset {prefix}TELEMETRY_DEBUG")
    if identity.enabled:
        return Finding("telemetry", "ok", f"on (decided by {rule})")
    what = f"off (decided by {rule}): no event is taken, and doctor made no request and tried no queue"
    match rule:
        case "telemetry.json":
            return Finding("telemetry", "warn", what, f"to switch it on, run {tool} enable")
        case "unreadable telemetry.json":
            return Finding("telemetry", "fail", what, f"run {tool} enable (or disable): it writes the file anew")
        case "home not usable":
            mend = f"set HOME or {prefix}HOME to a folder that you may enter and write to"
            return Finding("telemetry", "fail", what, mend)
        case "home belongs to another user":
            mend = (
                f"run this as the owner of {shlex.quote(home)}, without sudo; if it is yours, keep others from writing"
                f" to it: chmod go-w {shlex.quote(home)}"
            )
            return Finding("telemetry", "fail", what, mend)
    return Finding("telemetry", "warn", what, f"to switch it on, unset {rule}")


def key(value: str | None, problem: str | None, prefix: str) -> Finding:
    """Say whether there is a project key of the right form; no more than its first characters are shown."""
    mend = f"run the host CLI once with its project key (phc_), or set {prefix}TELEMETRY_KEY to it"
    if problem is not None:
        return Finding("key", "fail", problem, mend)
    if value is None:
        return Finding("key", "fail", "no project key is known: events wait", mend)
    if not value.startswith("phc_"):
        return Finding("key", "warn", f"{_shown_key(value)} does not look like a project key (phc_)", mend)
    return Finding("key", "ok", _shown_key(value))


def _shown_key(value: str) -> str:
    """Give the first 8 characters of a key."""
    return value if len(value) <= 8 else f"{value[:8]}..."  # noqa: PLR2004 - enough to tell two projects apart


def host(value: str | None, problem: str | None, prefix: str, *, encrypted: bool) -> Finding:
    """Say whether the host is an address that events may go to."""
    if value is None or problem is not None:
        mend = f"set {prefix}TELEMETRY_ENDPOINT to an address that begins with https://, or mend it in the host CLI"
        return Finding("host", "fail", problem or "no host is known", mend)
    if not encrypted:
        what = (
            f"{value} is not encrypted, and {prefix}TELEMETRY_ALLOW_HTTP allows it: who is on the way can read events"
        )
        return Finding("host", "warn", what, f"unset {prefix}TELEMETRY_ALLOW_HTTP, and give an address with https://")
    return Finding("host", "ok", value)


def connection(problem: str) -> Finding:
    """Say what is wrong with host, proxy or CA bundle as the environment names them.

    The text after the colon says how to mend it.
    """
    what, _, mend = problem.rpartition(": ")
    return Finding("connection", "fail", what, mend)


def server(address: str, answer: Answer, now: datetime) -> Finding:
    """Judge the answer to an empty batch: PostHog refuses it in a way of its own."""
    if answer.status in _REFUSALS_OF_NOTHING and not answer.body.lstrip().startswith("<"):
        return Finding("server", "ok", f"{address} answers as PostHog does")
    verdict = judge(answer, now)
    if verdict.action is Action.ACKNOWLEDGE:
        return Finding("server", "ok", f"{address} answers as PostHog does")
    if answer.status is None:
        mend = "look at the network, the proxy variables and a firewall; events wait until the host is reached"
        return Finding("server", "fail", f"{address} is not reached: {verdict.reason}", mend)
    if verdict.action is Action.RETRY:
        return Finding("server", "fail", f"{address}: {verdict.reason}", "wait: events are kept, and tried again")
    mend = "give the host CLI the address of PostHog's capture service, or log in to the network that is in the way"
    if verdict.action is Action.SPLIT:
        return Finding("server", "fail", f"{address} is not PostHog ({answer.status})", mend)
    return Finding("server", "fail", f"{address} is not PostHog: {verdict.reason}", mend)


def clock(date: str | None, now: datetime) -> Finding | None:
    """Compare this machine's clock with the server's; None where the server tells no time."""
    there = moment_of(date)
    if there is None:
        return None
    off = abs(there - now)
    if off <= timedelta(days=1):
        return Finding("clock", "ok", "agrees with the server's, to within a day")
    side = "ahead of" if now > there else "behind"
    what = f"{off.total_seconds() / _DAY_S:.1f} days {side} the server's ({there:%Y-%m-%d %H:%M} UTC)"
    how = "sudo sntp -sS time.apple.com" if sys.platform == "darwin" else "timedatectl set-ntp true"
    mend = f"set the clock of this machine ({how}), or events get a wrong time"
    return Finding("clock", "fail", what, mend)


def delivery(answer: Answer | None, now: datetime, tool: str) -> Finding:
    """Judge the answer to the canary that was sent."""
    if answer is None:
        return Finding("delivery", "fail", "the canary was not answered in time", "try again; events wait meanwhile")
    verdict = judge(answer, now)
    if verdict.action is Action.ACKNOWLEDGE:
        return Finding("delivery", "ok", "PostHog has acknowledged one spool_canary event")
    mend = f"mend what is said here, then run {tool} doctor --send again; events wait meanwhile"
    return Finding("delivery", "fail", f"the canary was not taken: {verdict.reason}", mend)


def schedule(
    found: Sequence[tuple[Installed, str | None]], own: str, tool: str, *, daemon: bool | None
) -> list[Finding]:
    """Judge every schedule of ours, each with what is missing of what it names; `own` is the schedule of this home.

    `daemon` is whether a cron daemon runs, None where that can't be told.
    """
    mine = [one for one, _gone in found if one.name == own]
    if not mine:
        findings = [Finding("schedule", "ok", "none: a host with flush=auto starts a flusher by itself")]
    elif len(mine) > 1:
        what = f"scheduled {len(mine)} times at once, by {' and '.join(one.method for one in mine)}"
        findings = [Finding("schedule", "fail", what, f"run {tool} schedule remove, then {tool} schedule install")]
    elif mine[0].problem:
        what = f"by {mine[0].method}: {mine[0].problem}"
        findings = [Finding("schedule", "fail", what, f"run {tool} schedule install")]
    else:
        findings = [Finding("schedule", "ok", f"every {mine[0].every or '(uneven)'} by {mine[0].method}")]
    for one, gone in found:
        if gone is not None:
            findings = [finding for finding in findings if one.name != own or finding.state != "ok"]
            findings.append(_stale(one, own, gone, tool))
    if daemon is False and any(one.method == "cron" for one in mine):
        mend = "start the cron daemon (systemctl enable --now cron), or use another --method"
        findings.append(Finding("schedule", "warn", "no cron daemon seems to run", mend))
    return findings


def _stale(one: Installed, own: str, gone: str, tool: str) -> Finding:
    if one.name == own:
        return Finding("schedule", "fail", f"stale, by {one.method}: {gone}", f"run {tool} schedule install again")
    mend = f"take it out by hand: {one.where}"
    return Finding("schedule", "warn", f"one of another home is stale, by {one.method}: {gone}", mend)


# How a run ends that a person has to mend something for.
_FAULTS = {one.value for one in (Result.REFUSED, Result.FAILED, Result.MISCONFIGURED, Result.NO_KEY)}


def launch(problem: str | None, here: str | None) -> Finding:
    """Say whether a flusher starts by itself: what the last host met, and whether it does in this installation."""
    if problem is not None:
        mend = "mend what is said here, in the Python that runs the host CLI; until then have ktx-flush run by cron"
        return Finding("launch", "fail", f"the flusher that the host CLI starts does not come up: {problem}", mend)
    if here is not None:
        return Finding("launch", "fail", here, "install ktx-spool anew for this Python")
    return Finding("launch", "ok", "a flusher starts by itself in this installation")


def flusher(state: FlushState, waiting: int, oldest_age_s: float | None, now: float, tool: str) -> Finding:
    """Say whether events have waited for more than a day while no run succeeded."""
    success = state.last_success
    if success is not None and success > now:
        success = None  # a clock that was ahead: nothing is known of it
    ago = "never" if success is None else f"{(now - success) / 3600:.1f} h ago"
    failed = state.failures or state.last_result in _FAULTS
    last = f"; the last attempt: {state.last_result}, {state.reason}" if failed else ""
    what = f"{waiting:,} events wait; last success: {ago}{last}"
    overdue = (oldest_age_s or 0.0) > _DAY_S and (success is None or now - success > _DAY_S)
    if not overdue and waiting and (state.failures or state.last_result in _FAULTS):
        mend = f"mend what the last attempt said, then run {tool} run --force; events wait meanwhile"
        return Finding("flusher", "fail" if state.last_result in _FAULTS else "warn", what, mend)
    if not overdue:
        return Finding("flusher", "ok", what)
    mend = f"run {tool} run --force and read what it says; to have it run by itself: {tool} schedule install"
    return Finding("flusher", "fail", f"{what}; the oldest for {(oldest_age_s or 0.0) / _DAY_S:.1f} days", mend)


# -- where events wait ----------------------------------------------------------------------------------------


class HomeFacts(NamedTuple):
    """The home as it stands. `mode` None: it isn't there, or can't be looked at, by the `problem`."""

    path: str
    mode: int | None
    is_folder: bool = True
    mine: bool = True
    usable: bool = True
    read_only: bool = False
    problem: str | None = None


class FileFacts(NamedTuple):
    """One file or folder of the spool."""

    path: str
    kind: Literal["folder", "file", "other"]
    mode: int
    mine: bool = True
    names: int = 1


def no_home(prefix: str) -> Finding:
    """Say that no home can be named."""
    what = "no home can be named: HOME is not set, and the system knows none for this account"
    return Finding("home", "fail", what, f"set HOME or {prefix}HOME to a folder of yours")


def home(facts: HomeFacts, prefix: str, *, can_be_made: bool = True) -> Finding:
    """Say whether the home is there, ours, and ours alone to write."""
    path = shlex.quote(facts.path)
    if facts.problem is not None:
        mend = f"make it a folder that you may enter, or set {prefix}HOME to another place"
        return Finding("home", "fail", f"{facts.path} can't be looked at: {facts.problem}", mend)
    if facts.mode is None and not can_be_made:
        mend = f"set HOME or {prefix}HOME to a folder that you may write to"
        return Finding("home", "fail", f"{facts.path} is not there, and can't be made", mend)
    if facts.mode is None:
        return Finding("home", "warn", f"{facts.path} is not there yet", "run the host CLI once: it makes its home")
    if not facts.is_folder:
        return Finding("home", "fail", f"{facts.path} is no folder", f"move it away, or set {prefix}HOME")
    if not facts.mine:
        mend = f'give it back: sudo chown -R "$(id -u)" {path}; or set {prefix}HOME to a folder of yours'
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
        mend = f'give it back to yourself: sudo chown -R "$(id -u)" {path}'
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
        return Finding("locks", "fail", error_words(error), f"look at {path}")
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


def losses(reasons: Sequence[LossReason], tool: str) -> Finding | None:
    """Say why events were lost lately, by the newest reason; None where nothing was."""
    if not reasons:
        return None
    last = reasons[-1]
    what = f"the last of {len(reasons)} losses: " if len(reasons) > 1 else "one loss: "
    mend = f"read them all by {tool} status --json, under last_losses"
    return Finding("losses", "warn", f"{what}{last.event} at {last.at} ({last.cause}): {last.reason}", mend)


def canary(error: Exception | None, prefix: str) -> Finding:
    """Say whether an event goes into a queue beside the real one, and comes out again."""
    if error is None:
        return Finding("canary", "ok", "an event went into a scratch queue and came out the same")
    full = isinstance(error, DiskFullError) or getattr(error, "errno", None) == 28  # noqa: PLR2004 - ENOSPC
    mend = "free space on the disk of the home" if full else f"mend what is said here, or set {prefix}HOME elsewhere"
    return Finding("canary", "fail", f"no event can be queued: {error_words(error)}", mend)
