"""What PostHog's answer means for a batch: one pure function, the whole delivery decision.

Source of the table: PostHog's capture service and SDKs, version 7.91 of posthog-python.
"""

from __future__ import annotations

import enum
import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

__all__ = ["Action", "Answer", "Verdict", "judge", "moment_of", "retry_after_s"]


class Action(enum.Enum):
    """What to do with the batch that was answered."""

    ACKNOWLEDGE = "acknowledge"
    RETRY = "retry"
    SPLIT = "split"
    STOP = "stop"


class Answer(NamedTuple):
    """What came back for one request: a status with its headers and body, or an error without one."""

    status: int | None = None
    body: str = ""
    retry_after: str | None = None
    date: str | None = None  # the server's clock, as it says
    redirected: bool = False
    error: str = ""
    unusable: bool = False  # the request can't even be made here: certificates, proxy settings
    stuck: bool = False  # the request is still under way: no other can follow it
    slow: bool = False  # its time ran out, while it was sent or before it was answered
    faulty: bool = False  # an event of the batch can't be written as a request


class Verdict(NamedTuple):
    """The decision, its reason in words for an operator, and the least wait before a retry (seconds).

    `smaller`: the batch may be too large for the way to the server, so a retry should send less at once.
    """

    action: Action
    reason: str
    retry_after_s: float | None = None
    smaller: bool = False


_STOPS = {
    401: "PostHog refuses the project key (401): check the key that the host CLI embeds, or --key",
    402: "PostHog refuses for billing reasons (402): look at the project's quota and plan",
    403: "PostHog or a proxy forbids the request (403): check the key, and any proxy on the way",
    404: "there is no PostHog at this address (404): check the host",
}
# What a server says whose patience ended before the request did.
_TOO_SLOW = 408
_NOT_POSTHOG = "the answer is not PostHog's: is a proxy or a login page in the way?"


def judge(answer: Answer, now: datetime) -> Verdict:
    """Decide on a batch; every status from 100 to 599 has its row.

    ACKNOWLEDGE is a 200 with PostHog's own body and no redirect, and nothing else. SPLIT on a single event
    makes it a dead letter. `now` is for a Retry-After that is a date, where the server says no time of its own.
    """
    status = answer.status
    if status is None:
        reason = answer.error or "no answer"
        if answer.faulty:
            return Verdict(Action.SPLIT, reason)
        return Verdict(Action.STOP if answer.unusable else Action.RETRY, reason, smaller=answer.slow)
    if answer.redirected or 300 <= status < 400:  # noqa: PLR2004 - the classes of HTTP statuses
        return Verdict(
            Action.STOP,
            f"the host redirects elsewhere ({status}): give the address that it leads to, or mend the proxy",
        )
    wait_s = retry_after_s(answer.retry_after, moment_of(answer.date) or now)
    if status == 200:  # noqa: PLR2004 - HTTP OK
        if _is_posthog(answer.body):
            return Verdict(Action.ACKNOWLEDGE, "delivered")
        return Verdict(Action.STOP, _NOT_POSTHOG, wait_s)
    if status < 300:  # noqa: PLR2004 - the classes of HTTP statuses
        return Verdict(Action.STOP, f"{_NOT_POSTHOG} ({status})", wait_s)
    if status in _STOPS:
        return Verdict(Action.STOP, _STOPS[status], wait_s)
    if status in (_TOO_SLOW, 429) or status >= 500:  # noqa: PLR2004 - the classes of HTTP statuses
        return Verdict(Action.RETRY, f"PostHog is busy or down ({status})", wait_s, smaller=status == _TOO_SLOW)
    return Verdict(Action.SPLIT, f"rejected with {status}: {' '.join(answer.body.split())[:300]}")


def _is_posthog(body: str) -> bool:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(fields, dict):
        return False
    status = fields.get("status")
    return status == "Ok" or (type(status) is int and status == 1)


def moment_of(header: str | None) -> datetime | None:
    """Read an HTTP date; None for what is none."""
    try:
        moment = parsedate_to_datetime(header or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Read Retry-After in both its forms, seconds or an HTTP date; None for what is neither."""
    if header is None or not header.strip():
        return None
    try:
        seconds = float(header)
    except ValueError:
        moment = moment_of(header)
        if moment is None:
            return None
        seconds = (moment - now).total_seconds()
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None  # noqa: PLR0124 - NaN
