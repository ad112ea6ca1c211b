"""The local PostHog keeps PostHog's rules and counts every copy."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import posthog.request
import pytest
import requests

from tests.support import local_posthog
from tests.support.local_posthog import LocalPostHog
from tests.support.posthog_batches import OK, body, event, send

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """Keep one client for the test, without proxies of the environment."""
    with requests.Session() as client:
        client.trust_env = False
        yield client


def sdk(session: requests.Session, server: LocalPostHog, *events: Any) -> requests.Response:
    """Send with the function that posthog-python sends with."""
    return posthog.request.batch_post("phc_x", server.url, gzip=True, timeout=5, session=session, batch=list(events))


# What it takes


def test_the_real_sdk_is_answered_as_by_posthog(server: LocalPostHog, session: requests.Session) -> None:
    """A gzip batch of posthog-python is stored, acknowledged and dated."""
    sent = event()
    answer = sdk(session, server, sent)
    assert (answer.status_code, answer.json()) == (200, OK)
    assert "GMT" in answer.headers["Date"]
    assert server.accepted == server.events() == [sent]
    assert server.duplicates() == []


def test_a_plain_body_and_both_spellings_of_the_path_are_taken(server: LocalPostHog, session: requests.Session) -> None:
    """JSON need not be compressed, /batch is /batch/, and other paths are 404."""
    assert session.post(f"{server.url}/batch", data=body(event()), timeout=5).status_code == 200
    assert session.post(f"{server.url}/elsewhere", data=body(event()), timeout=5).status_code == 404
    assert [(r.path, r.status) for r in server.requests] == [("/batch", 200), ("/elsewhere", 404)]


def test_the_legacy_answer_can_be_chosen(session: requests.Session) -> None:
    """Older servers say status 1."""
    with LocalPostHog(ok_status=1) as server:
        assert send(session, server, body(event())).json() == {"status": 1}


def test_one_connection_serves_many_requests(server: LocalPostHog) -> None:
    """Connections are kept alive, after refusals and answers without a body as well."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as plain:
        for code in (b"204", b"503", b"200"):
            if code != b"200":
                server.misbehave(local_posthog.status(int(code)))
            data = body(event())
            head = f"POST /batch/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
            plain.sendall(head.encode() + data)
            assert plain.recv(65536).startswith(b"HTTP/1.1 " + code)
    assert len(server.accepted) == 1


def test_a_request_is_recorded_before_it_is_answered(server: LocalPostHog, session: requests.Session) -> None:
    """The record holds path, status, uuids, headers, the raw body and the time of arrival."""
    first, second, before = event(), event(), time.monotonic()
    sdk(session, server, first, second)
    (request,) = server.requests
    assert (request.method, request.path, request.status, request.events) == ("POST", "/batch/", 200, 2)
    assert request.uuids == (first["uuid"], second["uuid"])
    assert request.headers["User-Agent"].startswith("posthog-python/")
    assert json.loads(gzip.decompress(request.body)) == request.content
    assert before <= request.at_s <= time.monotonic()


def test_many_threads_lose_nothing(server: LocalPostHog) -> None:
    """Batches that arrive at the same time are all stored, each once."""

    def deliver() -> None:
        with requests.Session() as session:
            for _ in range(10):
                send(session, server, body(event(), event()))

    threads = [threading.Thread(target=deliver) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(server.events()), len(server.accepted), len(server.requests)) == (160, 160, 80)


# What it refuses


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"api_key": "phc_x"}',
        b'{"api_key": "phc_x", "batch": []}',
        b'{"api_key": "phc_x", "batch": [NaN]}',
        gzip.compress(b"{}", mtime=0)[:-9],
        b"\x1f\x8b\x08 no gzip",
    ],
    ids=lambda data: repr(data[:30]),
)
def test_a_body_that_holds_no_batch_is_400(server: LocalPostHog, session: requests.Session, data: bytes) -> None:
    """What cannot be unpacked or holds no events is refused."""
    assert send(session, server, data).status_code == 400
    assert server.accepted == []


def test_a_body_that_only_claims_to_be_gzip_is_400(server: LocalPostHog, session: requests.Session) -> None:
    """Content-Encoding is believed."""
    assert send(session, server, body(event()), **{"Content-Encoding": "gzip"}).status_code == 400


@pytest.mark.parametrize("key", ["", "phx_personal", None, 5])
def test_a_wrong_key_is_401(server: LocalPostHog, session: requests.Session, key: object) -> None:
    """Without a key of its own the server takes any phc_ key, and no other."""
    assert send(session, server, body(event(), key=key)).status_code == 401
    assert send(session, server, json.dumps({"batch": [event()]}).encode()).status_code == 401
    assert server.accepted == []


def test_a_server_with_a_key_takes_no_other(session: requests.Session) -> None:
    """The key given to the server is the only one."""
    with LocalPostHog(api_key="phc_mine") as server:
        assert send(session, server, body(event(), key="phc_x")).status_code == 401
        assert send(session, server, body(event(), key="phc_mine")).status_code == 200


@pytest.mark.parametrize(
    "bad",
    [
        {"event": None},
        {"event": ""},
        {"event": 5},
        {"distinct_id": None},
        {"distinct_id": ""},
        {"uuid": "no-uuid"},
        {"uuid": 5},
        {"uuid": 10**31},
        {"properties": None},
        {"properties": ["a"]},
        {"timestamp": 1_700_000_000},
    ],
    ids=str,
)
def test_one_malformed_event_fails_the_whole_batch(
    server: LocalPostHog, session: requests.Session, bad: dict[str, Any]
) -> None:
    """The good events beside it are not stored either."""
    poisoned = event(**bad)
    with pytest.raises(posthog.request.APIError) as raised:
        sdk(session, server, event(), poisoned, event())
    assert raised.value.status == 400
    assert server.accepted == []
    assert server.requests[0].events == 3


def test_the_distinct_id_may_stand_in_the_properties(server: LocalPostHog, session: requests.Session) -> None:
    """PostHog looks there when the event itself has none, and gives a uuid to an event without."""
    sent = event(properties={"distinct_id": "d2"})
    del sent["distinct_id"], sent["uuid"]
    assert send(session, server, body(sent)).status_code == 200
    assert len(server.accepted[0]["uuid"]) == 36


def test_a_body_above_the_limit_is_413_by_its_decompressed_size(
    server: LocalPostHog, session: requests.Session
) -> None:
    """A small limit can be set at any time, and a gzip bomb is not unpacked."""
    batch = body(*[event(properties={"a": "x" * 1000})] * 10)
    server.max_body_bytes = 5000
    assert send(session, server, gzip.compress(batch)).status_code == 413
    assert send(session, server, gzip.compress(b"0" * 21 * 2**20)).status_code == 413
    assert [request.events for request in server.requests] == [10, 0]
    server.max_body_bytes = 20_000
    assert send(session, server, gzip.compress(batch)).status_code == 200
    assert len(server.accepted) == 10


def test_an_event_above_a_megabyte_is_413(server: LocalPostHog, session: requests.Session) -> None:
    """One event has a limit of its own; nothing of its batch is stored."""
    data = body(event(), event(properties={"a": "x" * 1_000_000}))
    assert send(session, server, data).status_code == 413
    assert send(session, server, body(event(properties={"a": "x" * 999_000}))).status_code == 200
    assert len(server.accepted) == 1


def test_a_rejected_uuid_poisons_its_batch_and_no_other(server: LocalPostHog, session: requests.Session) -> None:
    """It stays rejected after `behave`."""
    poison, good = event(), event()
    server.reject(poison["uuid"], 422)
    server.behave()
    assert send(session, server, body(good, poison)).status_code == 422
    assert send(session, server, body(good)).status_code == 200
    assert server.events() == [good]


# Deduplication


def test_copies_are_counted_and_kept_apart_from_events(server: LocalPostHog, session: requests.Session) -> None:
    """A second copy with the same four is a duplicate; it replaces the first, as in PostHog."""
    first, other = event(), event()
    second = {**first, "properties": {"a": 2}, "uuid": first["uuid"].upper()}
    for batch in ([first, other], [second]):
        send(session, server, body(*batch))
    assert server.accepted == [first, other, second]
    assert server.events() == [second, other]
    assert server.duplicates() == [second]


@pytest.mark.parametrize(
    "change",
    [{"event": "e2"}, {"distinct_id": "d2"}, {"uuid": "0" * 32}, {"timestamp": "2026-03-03T23:59:59Z"}],
    ids=str,
)
def test_a_difference_in_any_of_the_four_makes_another_event(session: requests.Session, change: dict[str, Any]) -> None:
    """Day, event, distinct_id and uuid decide."""
    with LocalPostHog(clock=lambda: NOON) as server:
        sent = event(timestamp="2026-03-04T00:00:00Z")
        send(session, server, body(sent, {**sent, "timestamp": "2026-03-04T11:00:00Z"}, {**sent, **change}))
        assert (len(server.events()), len(server.duplicates())) == (2, 1)


@pytest.mark.parametrize(
    ("timestamp", "sent_at", "day"),
    [
        ("2026-03-04T00:00:05Z", "2026-03-04T12:00:00Z", "2026-03-04"),  # the clocks agree
        ("2026-03-04T00:00:05Z", "2026-03-04T12:00:10Z", "2026-03-03"),  # the client is 10 s ahead
        ("2026-03-03T23:59:55Z", "2026-03-04T11:59:50Z", "2026-03-04"),  # 10 s behind
        ("2026-03-04T00:00:05Z", "not a time", "2026-03-04"),
        ("2026-03-04T00:00:05Z", None, "2026-03-04"),
        ("2026-03-03T22:00:00-05:00", None, "2026-03-04"),  # the day is UTC's
        ("2026-02-01", None, "2026-02-01"),
        ("not a time", "2026-03-09T00:00:00Z", "2026-03-04"),  # then it happened now
        (None, None, "2026-03-04"),
        ("2026-03-05T10:59:00Z", None, "2026-03-05"),
        ("2026-03-05T11:01:00Z", None, "2026-03-04"),  # more than 23 h ahead
        ("0001-01-01T00:00:00+05:00", None, "2026-03-04"),  # no such time in UTC
    ],
)
def test_the_day_is_that_of_the_shifted_timestamp(timestamp: str | None, sent_at: str | None, day: str) -> None:
    """`timestamp` moves by `sent_at - now`; what cannot be read is now."""
    assert local_posthog.stored_at(event(timestamp=timestamp), sent_at, NOON).date().isoformat() == day


def test_a_retry_across_midnight_escapes_deduplication_unless_the_time_is_frozen(
    session: requests.Session,
) -> None:
    """The skew of a client whose clock jumped is applied to what it sends; `$ignore_sent_at` prevents it."""
    with LocalPostHog(clock=lambda: NOON) as server:
        for properties in ({}, {"$ignore_sent_at": True}):
            sent = event(timestamp="2026-03-04T00:00:05Z", properties=properties)
            for sent_at in ("2026-03-04T12:00:00Z", "2026-03-04T12:00:10Z"):
                send(session, server, body(sent, sent_at=sent_at))
        assert (len(server.accepted), len(server.events()), len(server.duplicates())) == (4, 3, 1)
