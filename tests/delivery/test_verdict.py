"""The delivery decision, row by row, and the arithmetic of waiting."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from flusher.delivery.backoff import MOST_S, Waiting, after_failure, in_run_wait_s, is_due
from flusher.delivery.verdict import Action, Answer, judge, retry_after_s

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
OK = '{"status": "Ok"}'

TABLE: dict[range | tuple[int, ...], Action] = {
    range(100, 200): Action.STOP,
    range(201, 300): Action.STOP,
    range(300, 400): Action.STOP,
    (401, 402, 403, 404): Action.STOP,
    (408, 429): Action.RETRY,
    range(500, 600): Action.RETRY,
}


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_has_its_decision(status: int) -> None:
    """All statuses from 100 to 599, against the protocol's table written as ranges."""
    expected = next((action for statuses, action in TABLE.items() if status in statuses), Action.SPLIT)
    if status == 200:
        expected = Action.ACKNOWLEDGE
    verdict = judge(Answer(status, OK), NOW)
    assert verdict.action is expected
    assert verdict.reason


@pytest.mark.parametrize(
    "body",
    ["", "<html>", "[]", "null", "1", '"Ok"', '{"status": 0}', '{"status": "ok"}', "{}", "[" * 100_000],
)
def test_a_200_that_is_not_posthogs_acknowledges_nothing(body: str) -> None:
    """A login page, another service, half an answer."""
    verdict = judge(Answer(200, body), NOW)
    assert verdict.action is Action.STOP
    assert "not PostHog" in verdict.reason


@pytest.mark.parametrize("body", [OK, '{"status": 1}', '{"status":"Ok","quota_limited":[]}'])
def test_a_200_of_posthogs_acknowledges(body: str) -> None:
    """Both forms of its answer."""
    assert judge(Answer(200, body), NOW).action is Action.ACKNOWLEDGE


def test_a_200_after_a_redirect_acknowledges_nothing() -> None:
    """A captive portal turns the POST into a GET and answers 200."""
    assert judge(Answer(200, OK, redirected=True), NOW).action is Action.STOP


def test_no_answer_at_all_is_tried_again() -> None:
    """Time-out, reset, DNS; but what can't even be asked here is no matter of trying again."""
    assert judge(Answer(error="the host does not answer"), NOW).action is Action.RETRY
    assert judge(Answer(error="certificate", unusable=True), NOW).action is Action.STOP


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        ("1.5", 1.5),
        ("-5", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Mon, 23 Nov 2026 12:02:00 GMT", 120.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("Mon, 99 Nov 2026 11:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_its_forms(header: str | None, seconds: float | None) -> None:
    """Seconds, or an HTTP date; anything else is no wish."""
    assert retry_after_s(header, NOW) == seconds


def test_retry_after_counts_by_the_servers_own_clock() -> None:
    """This machine's may be off by a month: the server tells its own, and waits as long by it."""
    answer = Answer(503, retry_after="Mon, 23 Nov 2026 12:02:00 GMT", date="Mon, 23 Nov 2026 12:00:00 GMT")
    for now in (NOW, NOW - timedelta(days=30), NOW + timedelta(days=400)):
        assert judge(answer, now).retry_after_s == 120.0
    assert judge(answer._replace(date="soon"), NOW - timedelta(seconds=60)).retry_after_s == 180.0


def test_the_waits_of_a_run_are_about_one_two_four() -> None:
    """With jitter of a quarter; Retry-After is a minimum."""
    rng = random.Random(1)
    for retry, about in ((0, 1.0), (1, 2.0), (2, 4.0)):
        waits = [in_run_wait_s(retry, None, rng) for _ in range(200)]
        assert 0.75 * about <= min(waits) < max(waits) <= 1.25 * about
    assert in_run_wait_s(0, 30.0, rng) == 30.0


def test_failures_in_a_row_wait_longer_and_never_over_the_cap() -> None:
    """Full jitter over a span that doubles from a minute to an hour."""
    rng = random.Random(2)
    for failures, span in ((1, 60.0), (2, 120.0), (5, 960.0), (7, MOST_S), (50, MOST_S)):
        delays = [after_failure(failures, 1000.0, rng).delay_s for _ in range(500)]
        assert 0.0 <= min(delays) < span * 0.1
        assert span * 0.9 < max(delays) <= span


def test_a_destination_that_only_a_person_can_mend_is_asked_slowly() -> None:
    """Half an hour to an hour, from the first failure on."""
    rng = random.Random(3)
    delays = [after_failure(1, 0.0, rng, slow=True).delay_s for _ in range(100)]
    assert MOST_S / 2 <= min(delays) <= max(delays) <= MOST_S


def test_retry_after_is_a_minimum_for_all_processes_but_not_for_ever() -> None:
    """Everybody was told the same, so there is jitter on top; a mad header is bounded by a day."""
    rng = random.Random(4)
    delays = [after_failure(1, 0.0, rng, retry_after_s=7200.0).delay_s for _ in range(100)]
    assert min(delays) >= 7200.0
    assert len(set(delays)) > 90
    assert after_failure(1, 0.0, rng, retry_after_s=1e12).delay_s <= 1.1 * 24 * 3600


def test_no_jump_of_the_clock_silences_the_flusher_for_longer_than_what_was_decided() -> None:
    """Back: the rest would be longer than the whole, so the wait is void. Forwards: it is over."""
    waiting = Waiting(until=10_000.0, delay_s=600.0)
    assert not is_due(waiting, 9_500.0)
    assert is_due(waiting, 10_000.0)
    assert is_due(waiting, 9_000.0)
    assert is_due(waiting, (datetime.fromtimestamp(10_000, UTC) + timedelta(days=3650)).timestamp())
    assert is_due(None, 0.0)
