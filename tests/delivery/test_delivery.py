"""Guarantees 2 and 3: an event leaves the queue only on PostHog's own acknowledgement."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from spool import Telemetry
from spool.home import Paths
from tests.support.captures import spool_events
from tests.support.local_posthog import (
    Answer,
    LocalPostHog,
    accept_then_reset,
    half,
    hang,
    html,
    json_body,
    redirect,
    reset,
)
from tests.support.local_posthog import (
    status as answer,
)
from tests.support.processes import KEY, environment, flush, flush_json, status

# What the server does, the exit code, and a word of the reason that the operator reads.
FAULTS = {
    "401": (answer(401), 75, "key"),
    "402": (answer(402), 75, "billing"),
    "403": (answer(403), 75, "forbids"),
    "404": (answer(404), 75, "no PostHog"),
    "429": (answer(429), 75, "busy"),
    "500": (answer(500), 75, "busy"),
    "503": (answer(503, headers={"Retry-After": "7200"}), 75, "busy"),
    "redirect": (redirect("http://127.0.0.1:9/"), 75, "redirect"),
    "login page": (html(), 75, "not PostHog"),
    "204": (answer(204), 75, "not PostHog"),
    "200 with other JSON": (json_body(200, {"status": "fine"}), 75, "not PostHog"),
    "200 with a list": (json_body(200, [1]), 75, "not PostHog"),
    "500 with a list": (json_body(500, [1]), 75, "busy"),
    "half an answer": (half(), 75, "connection"),
    "reset": (reset(), 75, "reset"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_the_server_does_wrong_the_queue_holds_everything(
    fault: str, home: Path, server: LocalPostHog
) -> None:
    """The exit code tells, the reason stands in status, and the next good answer delivers all."""
    misbehaviour, code, word = FAULTS[fault]
    uuids = spool_events(home, server.url)
    server.always(misbehaviour)
    report = flush_json(home, "run", "--max-retries", "0")
    assert (report["exit_code"], report["delivered"], report["remaining"]) == (code, 0, 6)
    assert word in report["stderr"]
    assert report["stderr"].count("\n") == 1
    told = status(home)
    assert (told["pending"], told["accounting"]["delivered"]) == (6, 0)
    assert word in told["reason"]
    assert told["next_attempt"]
    server.behave()
    assert flush_json(home, "run", "--force")["delivered"] == 6
    assert set(uuids) <= {event["uuid"] for event in server.events()}
    assert status(home)["next_attempt"] is None


def test_a_server_that_is_down_costs_nothing_but_time(home: Path, server: LocalPostHog) -> None:
    """Refused connections: exit 75, everything kept, delivered when the server is back on its port."""
    spool_events(home, server.url)
    server.stop()
    report = flush_json(home, "run", "--max-retries", "0")
    assert (report["exit_code"], report["remaining"]) == (75, 6)
    assert report["stderr"] == "ktx-flush: the host refuses connections; the events are kept\n"
    server.start()
    assert flush_json(home, "run", "--force")["delivered"] == 6


def test_an_answer_that_is_lost_after_the_batch_was_stored_makes_an_equal_copy(
    home: Path, server: LocalPostHog
) -> None:
    """In doubt the batch is sent again: same uuid, same timestamp, one event after deduplication."""
    spool_events(home, server.url, 3)
    server.misbehave(accept_then_reset())
    report = flush_json(home, "run", "--max-retries", "1")
    assert (report["exit_code"], report["delivered"], report["requests"]) == (0, 4, 2)
    assert (len(server.accepted), len(server.events())) == (8, 4)


def test_a_hanging_server_is_left_when_the_time_is_up(home: Path, server: LocalPostHog) -> None:
    """--max-seconds holds although the server says nothing; nothing is lost."""
    spool_events(home, server.url)
    server.always(hang(60))
    report = flush_json(home, "run", "--max-seconds", "1")
    assert report["exit_code"] == 0
    assert report["result"] == "told to stop"
    assert report["seconds"] < 10
    assert report["remaining"] == 6


def test_one_rejected_event_becomes_a_dead_letter_and_the_others_arrive(home: Path, server: LocalPostHog) -> None:
    """A 400 for the batch: it is halved until the culprit stands alone, with the answer it got."""
    uuids = spool_events(home, server.url, 40)
    server.reject(uuids[17])
    report = flush_json(home)
    assert (report["exit_code"], report["delivered"], report["rejected"], report["remaining"]) == (
        3,
        40,
        1,
        0,
    )
    assert report["requests"] <= 2 * 6 + 1
    assert {event["uuid"] for event in server.events()} == set(uuids[:17] + uuids[18:]) | {
        event["uuid"] for event in server.events() if event["event"] == "install_first_run"
    }
    assert status(home)["accounting"]["dead"] == 1


def test_a_destination_that_rejects_everything_costs_no_event(home: Path, server: LocalPostHog) -> None:
    """An address that answers 405 to whatever comes: it is not the events, so none of them is buried."""
    spool_events(home, server.url, 120)
    server.always(answer(405))
    report = flush_json(home)
    assert (report["exit_code"], report["rejected"], report["remaining"]) == (75, 0, 121)
    assert "rejects every event" in report["stderr"]
    server.behave()
    assert flush_json(home, "run", "--force")["delivered"] == 121


def test_without_a_key_the_events_are_kept(home: Path, server: LocalPostHog) -> None:
    """No project key is a matter of configuration: exit 2, one line, everything kept until a key is given."""
    spool_events(home, server.url, key=None)
    done = flush(home, "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no project key" in done.stderr
    assert status(home)["pending"] == 6
    assert flush_json(home, "run", "--key", KEY, "--host", server.url)["delivered"] == 6


def test_the_environment_beats_what_the_host_left(home: Path, server: LocalPostHog) -> None:
    """KTX_TELEMETRY_ENDPOINT and KTX_TELEMETRY_KEY decide for this process."""
    spool_events(home, "https://nowhere.invalid")
    env = environment(KTX_TELEMETRY_ENDPOINT=server.url, KTX_TELEMETRY_KEY="phc_other")
    assert flush_json(home, "run", env=env)["delivered"] == 6
    assert server.requests[0].content["api_key"] == "phc_other"


def test_a_wire_event_is_what_the_contract_says(home: Path, server: LocalPostHog) -> None:
    """Four frozen fields and the envelope; the flusher adds only api_key and sent_at."""
    telemetry = Telemetry("ktx", "0.12.0", KEY, server.url, home, flush="never")
    receipt = telemetry.capture("scan_completed", {"tableCount": 12}, groups={"project": "p"})
    telemetry.close()
    flush_json(home)
    content = server.requests[-1].content
    assert set(content) == {"api_key", "batch", "historical_migration", "sent_at"}
    (event,) = [event for event in server.events() if event["uuid"] == receipt.uuid]
    assert set(event) == {"uuid", "event", "distinct_id", "timestamp", "properties"}
    assert event["distinct_id"] == telemetry.identity.install_id
    properties = event["properties"]
    assert properties["tableCount"] == 12
    assert properties["cliVersion"] == "0.12.0"
    assert properties["$groups"] == {"project": "p"}
    assert properties["$lib"] == "ktx-spool"
    assert properties["$ignore_sent_at"] is True
    assert properties["$geoip_disable"] is True
    assert properties["spool_sequence"] == 1


def test_a_run_in_need_of_patience_stores_the_wait_for_all(home: Path, server: LocalPostHog) -> None:
    """After a failure the next run backs off without a request; --force tries."""
    spool_events(home, server.url)
    server.always(answer(503, headers={"Retry-After": "7200"}))
    first = flush_json(home, "run", "--max-retries", "0")
    assert first["next_attempt"]
    second = flush_json(home, "run")
    assert (second["exit_code"], second["result"], second["requests"]) == (0, "backing off", 0)
    assert flush_json(home, "run", "--force", "--max-retries", "0")["requests"] == 1


def test_the_retries_of_a_run_wait_longer_each_time(home: Path, server: LocalPostHog) -> None:
    """Two failures, then success, in one run: some 1 and 2 s between the requests."""
    spool_events(home, server.url, 1)
    server.misbehave(answer(503), answer(500))
    report = flush_json(home, "run")
    assert (report["exit_code"], report["requests"], report["delivered"]) == (0, 3, 2)
    times = [request.at_s for request in server.requests]
    first, second = times[1] - times[0], times[2] - times[1]
    assert 0.7 < first < second


def test_answers_that_the_sdk_stumbles_over_are_still_judged(home: Path, server: LocalPostHog) -> None:
    """A 400 whose body is a JSON list makes the SDK raise TypeError; it is a rejection all the same."""
    spool_events(home, server.url, 1)
    server.always(json_body(400, [1]))
    report = flush_json(home)
    assert (report["exit_code"], report["rejected"]) == (3, 2)
    assert isinstance(server.requests[0].status, int)
    assert isinstance(answer(400), Answer)


def test_the_wire_carries_each_byte_as_it_was_captured(home: Path, server: LocalPostHog) -> None:
    """Nothing parses and writes an event again: what was frozen arrives, with its number."""
    telemetry = Telemetry("ktx", "1.2.3", KEY, server.url, home, flush="never")
    telemetry.capture("odd", {"z": 1.0, "a": 10**20, "text": "\N{SNOWMAN}\ud800\r\n", "nan": float("nan"), "e": 1e-7})
    telemetry.close()
    assert flush(home).returncode == 0
    body = gzip.decompress(server.requests[-1].body).decode("ascii")
    frozen = '{"z":1.0,"a":100000000000000000000,"text":"\\u2603\\ufffd\\r\\n","nan":null,"e":1e-07,'
    assert frozen in body
    assert ',"spool_sequence":' in body
    batch = json.loads(body)["batch"]
    assert [event["uuid"] for event in batch] == [event["uuid"] for event in server.events()]


def test_a_host_that_is_not_encrypted_needs_a_word_of_the_operator(home: Path) -> None:
    """With the variable it is tried; without, it is a mistake in the configuration, and the events are kept."""
    spool_events(home, "http://192.0.2.1", 1)
    refused = flush(home, "run", "--max-seconds", "0.2")
    assert (refused.returncode, "KTX_TELEMETRY_ALLOW_HTTP=1" in refused.stderr) == (2, True)
    allowed = flush(home, "run", "--max-seconds", "0.2", env=environment(KTX_TELEMETRY_ALLOW_HTTP="1"))
    # An address that nobody has: some networks say so at once, others never answer, and then the time is up.
    assert (allowed.returncode in (0, 75), "KTX_TELEMETRY_ALLOW_HTTP" in allowed.stderr) == (True, False)
    assert status(home)["pending"] == 2


def test_a_host_that_stays_down_is_asked_once_by_each_run(home: Path, server: LocalPostHog) -> None:
    """The run that finds it down tries again at once, the next ones don't, until one succeeds; --force does."""
    spool_events(home, server.url, 1)
    server.always(answer(503))
    assert flush_json(home, "run", "--max-retries", "1")["requests"] == 2
    state = Paths(home).flush_state
    due = {**json.loads(state.read_text()), "next_attempt": 0.0}
    state.write_text(json.dumps(due))
    assert flush_json(home, "run", "--max-retries", "1")["requests"] == 1
    assert flush_json(home, "run", "--max-retries", "1", "--force")["requests"] == 2


def test_fifty_rejected_events_in_a_row_stop_none_of_those_behind_them(home: Path, server: LocalPostHog) -> None:
    """An older release of the program spooled them; some from all over the queue tell that the server takes others."""
    uuids = spool_events(home, server.url, 160)
    for uuid in uuids[:60]:
        server.reject(uuid)
    report = flush_json(home)
    assert (report["exit_code"], report["delivered"], report["rejected"], report["remaining"]) == (3, 101, 60, 0)
    assert set(uuids[60:]) <= {event["uuid"] for event in server.events()}
    assert status(home)["accounting"]["dead"] == 60


def test_a_run_that_is_not_configured_tells_what_remains(home: Path, server: LocalPostHog) -> None:
    """Whoever looks at that number alone must not throw the home away."""
    spool_events(home, server.url)
    for variable, value in (("KTX_TELEMETRY_ENDPOINT", "https://ph..example.com"), ("HTTP_PROXY", "http://[:1")):
        report = flush_json(home, env=environment(**{variable: value}))
        assert (report["exit_code"], report["result"], report["remaining"]) == (2, "not configured", 6), variable
    assert flush_json(home, "run", "--host", "ftp://x")["remaining"] == 6
    assert flush_json(home)["delivered"] == 6
