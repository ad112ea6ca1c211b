"""What doctor makes of consent, destination, server, schedule and the last runs: pure judgements on what was found."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from flusher.delivery.state import FlushState
from flusher.delivery.verdict import Action, Answer, judge
from flusher.doctor.finding import Finding
from flusher.schedule.method import Installed
from spool.consent.identity import Identity

__all__ = ["certificates", "clock", "consent", "delivery", "flusher", "host", "key", "schedule", "server", "shown_key"]

_DAY_S = 24 * 3600.0
# What PostHog's capture service answers to a batch that holds no event and no key.
_REFUSALS_OF_NOTHING = (400, 401)


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
            mend = f"make {shlex.quote(home)} a folder that you may enter, or set {prefix}HOME to a shorter path"
            return Finding("telemetry", "fail", what, mend)
        case "home belongs to another user":
            mend = f"run this as the owner of {shlex.quote(home)}, without sudo, or set {prefix}HOME"
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
        return Finding("key", "warn", f"{shown_key(value)} does not look like a project key (phc_)", mend)
    return Finding("key", "ok", shown_key(value))


def shown_key(value: str) -> str:
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


def certificates(problem: str) -> Finding:
    """Say what is wrong with the CA bundle that the environment names; how to mend it stands after the colon."""
    what, _, mend = problem.rpartition(": ")
    return Finding("certificates", "fail", what, mend)


def server(address: str, answer: Answer, now: datetime) -> Finding:
    """Judge the answer to a batch that holds no event: PostHog refuses it, and nobody else does in that way."""
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
    try:
        there = parsedate_to_datetime(date or "")
    except (ValueError, TypeError, OverflowError):
        return None
    there = there.replace(tzinfo=UTC) if there.tzinfo is None else there
    off = abs(there - now)
    if off <= timedelta(days=1):
        return Finding("clock", "ok", "agrees with the server's, to within a day")
    side = "ahead of" if now > there else "behind"
    what = f"{off.total_seconds() / _DAY_S:.1f} days {side} the server's ({there:%Y-%m-%d %H:%M} UTC)"
    mend = "set the clock of this machine (timedatectl set-ntp true), or events get a wrong time"
    return Finding("clock", "fail", what, mend)


def delivery(answer: Answer | None, now: datetime) -> Finding:
    """Judge the answer to the canary that was sent."""
    if answer is None:
        return Finding("delivery", "fail", "the canary was not answered in time", "try again; events wait meanwhile")
    verdict = judge(answer, now)
    if verdict.action is Action.ACKNOWLEDGE:
        return Finding("delivery", "ok", "PostHog has acknowledged one spool_canary event")
    mend = "mend what is said here, then run ktx-flush doctor --send again; events wait meanwhile"
    return Finding("delivery", "fail", f"the canary was not taken: {verdict.reason}", mend)


def schedule(
    found: Sequence[tuple[Installed, str | None]], own: str, tool: str, *, daemon: bool | None
) -> list[Finding]:
    """Judge every schedule of ours, each with what it names that is gone; `own` is the one of this home.

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


def flusher(state: FlushState, waiting: int, oldest_age_s: float | None, now: float, tool: str) -> Finding:
    """Say whether events have waited for more than a day while no run succeeded."""
    success = state.last_success
    ago = "never" if success is None else f"{max(0.0, now - success) / 3600:.1f} h ago"
    last = f"; the last attempt: {state.last_result}, {state.reason}" if state.failures else ""
    what = f"{waiting:,} events wait; last success: {ago}{last}"
    overdue = (oldest_age_s or 0.0) > _DAY_S and (success is None or now - success > _DAY_S)
    if not overdue:
        return Finding("flusher", "ok", what)
    mend = f"run {tool} run --force and read what it says; to have it run by itself: {tool} schedule install"
    return Finding("flusher", "fail", f"{what}; the oldest for {(oldest_age_s or 0.0) / _DAY_S:.1f} days", mend)
