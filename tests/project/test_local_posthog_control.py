"""The local PostHog fails, stops and starts exactly as it is told to, in a test, by HTTP and as a program."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
import requests

from tests.support import local_posthog
from tests.support.local_posthog import Answer, LocalPostHog
from tests.support.posthog_batches import OK, body, event, send


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """Keep one client for the test, without proxies of the environment."""
    with requests.Session() as client:
        client.trust_env = False
        yield client


# Misbehaviour


def test_queued_answers_are_given_once_each_then_service_resumes(
    server: LocalPostHog, session: requests.Session
) -> None:
    """One request takes one answer, in order; nothing is stored meanwhile."""
    server.misbehave(
        local_posthog.status(503, "busy", {"Retry-After": "7", "Date": "never"}),
        local_posthog.redirect("http://127.0.0.1:9/", 307),
        local_posthog.html(),
        local_posthog.json_body(200, {"status": 2}),
        local_posthog.status(204),
    )
    busy, moved, portal, odd, empty = (send(session, server, body(event())) for _ in range(5))
    assert (busy.status_code, busy.text) == (503, "busy")
    assert (busy.headers["Retry-After"], busy.headers["Date"]) == ("7", "never")
    assert (moved.status_code, moved.headers["Location"]) == (307, "http://127.0.0.1:9/")
    assert (portal.status_code, "Log in" in portal.text) == (200, True)
    assert portal.headers["Content-Type"] == "text/html"
    assert (odd.status_code, odd.json()) == (200, {"status": 2})
    assert (empty.status_code, empty.content) == (204, b"")
    assert server.accepted == []
    assert send(session, server, body(event())).json() == OK
    assert [request.status for request in server.requests] == [503, 307, 200, 200, 204, 200]


def test_an_interim_status_is_followed_by_nothing(server: LocalPostHog, session: requests.Session) -> None:
    """A client that waits for the answer after 100 finds the connection closed; 102 ends as it is."""
    server.misbehave(local_posthog.status(100), local_posthog.status(102))
    with pytest.raises(requests.ConnectionError, match="without response"):
        send(session, server, body(event()))
    assert send(session, server, body(event())).status_code == 102


def test_an_answer_can_hold_until_further_notice(server: LocalPostHog, session: requests.Session) -> None:
    """`always` yields to queued answers and ends with `behave`, which forgets the queue too."""
    server.always(local_posthog.status(500))
    server.misbehave(local_posthog.status(429))
    assert [send(session, server, body(event())).status_code for _ in range(3)] == [429, 500, 500]
    server.misbehave(local_posthog.status(429))
    server.behave()
    assert send(session, server, body(event())).status_code == 200


@pytest.mark.parametrize(
    ("answer", "seen", "stored_and_status"),
    [
        (local_posthog.reset(), "reset by peer", (0, 0)),
        (local_posthog.accept_then_reset(), "reset by peer", (1, 0)),
        (local_posthog.half(), "IncompleteRead", (0, 200)),
        (local_posthog.hang(0.05), "without response", (0, 0)),
        (local_posthog.accept_then_hang(0.05), "without response", (1, 0)),
    ],
    ids=["reset", "accept_then_reset", "half", "hang", "accept_then_hang"],
)
def test_a_broken_exchange_breaks_as_named(
    server: LocalPostHog,
    session: requests.Session,
    answer: Answer,
    seen: str,
    stored_and_status: tuple[int, int],
) -> None:
    """The client sees that failure; the server knows what it kept and whether it sent a status."""
    server.misbehave(answer)
    with pytest.raises(requests.RequestException, match=seen):
        send(session, server, body(event()))
    assert (len(server.accepted), server.requests[0].status) == stored_and_status
    assert send(session, server, body(event())).status_code == 200


def test_a_slow_answer_comes_late_and_is_normal(server: LocalPostHog, session: requests.Session) -> None:
    """The batch is stored and acknowledged, after the delay."""
    server.misbehave(local_posthog.slow(0.1))
    began = time.monotonic()
    assert send(session, server, body(event())).json() == OK
    assert time.monotonic() - began >= 0.1
    assert len(server.accepted) == 1


# Start and stop


@pytest.mark.parametrize(
    "answer",
    [local_posthog.hang(60), local_posthog.slow(60), local_posthog.accept_then_hang(60)],
    ids=["hang", "slow", "accept_then_hang"],
)
def test_stopping_is_fast_while_a_request_hangs(answer: Answer) -> None:
    """The hanging client is cut off at once, and so is an idle connection."""
    server, failures = LocalPostHog().start(), list[Exception]()
    server.always(answer)

    def deliver() -> None:
        with requests.Session() as session:
            try:
                send(session, server, body(event()))
            except requests.RequestException as error:
                failures.append(error)

    client = threading.Thread(target=deliver)
    with socket.create_connection(("127.0.0.1", server.port)) as idle:
        client.start()
        time.sleep(0.1)
        began = time.monotonic()
        server.stop()
        client.join()
        assert time.monotonic() - began < 1
        assert idle.recv(1) == b""
    assert len(failures) == 1


def test_a_stopped_server_refuses_connections_and_can_start_again_on_its_port(
    session: requests.Session,
) -> None:
    """What it had accepted is still there, and the client's url stays true."""
    with LocalPostHog() as server:
        url = server.url
        send(session, server, body(event()))
        server.stop()
        server.stop()
        with pytest.raises(requests.ConnectionError, match="refused"):
            send(session, server, body(event()))
        server.start()
        assert server.url == url
        assert send(session, server, body(event())).status_code == 200
        assert len(server.events()) == 2


def test_a_client_that_leaves_in_the_middle_does_no_harm(
    server: LocalPostHog, session: requests.Session, capfd: pytest.CaptureFixture[str]
) -> None:
    """Half a request, or one whose client does not wait, is no event and prints nothing."""
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /batch/ HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
    server.misbehave(local_posthog.slow(0.05))
    with pytest.raises(requests.Timeout):
        session.post(f"{server.url}/batch/", data=b"x", timeout=0.01)
    server.stop()
    assert server.accepted == []
    assert capfd.readouterr() == ("", "")


def test_a_body_of_unknown_length_is_411(server: LocalPostHog, session: requests.Session) -> None:
    """A chunked request is refused instead of being read wrongly."""
    answer = session.post(f"{server.url}/batch/", data=iter([b"x"]), timeout=5)
    assert answer.status_code == 411


# By HTTP


def test_the_page_shows_events_and_nothing_on_it_is_markup_of_theirs(
    server: LocalPostHog, session: requests.Session
) -> None:
    """Every value is escaped; a lone surrogate does not break the page."""
    send(session, server, body(event(event="<script>", distinct_id="\ud800&", properties={"<b>": "<i>"})))
    page = session.get(server.url, timeout=5)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "&lt;script&gt;" in page.text
    assert not any(tag in page.text for tag in ("<script>", "<b>", "<i>"))


def test_events_can_be_read_and_cleared_by_http(server: LocalPostHog, session: requests.Session) -> None:
    """Each event once, with its copies and the time of its first; looking leaves no trace."""
    sent, other = event(), event()
    send(session, server, body(sent, other, sent))
    rows = session.get(f"{server.url}/_events", timeout=5).json()
    assert [(row["uuid"], row["copies"]) for row in rows] == [(sent["uuid"], 2), (other["uuid"], 1)]
    assert datetime.fromisoformat(rows[0]["received_at"]).tzinfo is not None
    assert len(server.requests) == 1
    assert session.delete(f"{server.url}/_events", timeout=5).status_code == 204
    assert session.get(f"{server.url}/_events", timeout=5).json() == []
    assert server.requests == []


def test_misbehaviour_can_be_steered_by_http(server: LocalPostHog, session: requests.Session) -> None:
    """Always, once, and back to normal; what is not understood is 400 and changes nothing."""

    def steer(spec: object) -> int:
        return session.post(f"{server.url}/_behave", data=json.dumps(spec), timeout=5).status_code

    def answered() -> tuple[int, str | None]:
        answer = send(session, server, body(event()))
        return answer.status_code, answer.headers.get("Retry-After")

    assert steer({"always": {"status": 503, "headers": {"Retry-After": 9}}}) == 200
    assert [answered(), answered()] == [(503, "9"), (503, "9")]
    assert steer({"status": 402}) == 200
    assert [answered(), answered()] == [(402, None), (503, "9")]
    unknown: list[object] = [{"what": 1}, [], {"status": "x"}, {"status": 5, "headers": 5}, {"always": 5}]
    assert [steer(spec) for spec in unknown] == [400] * 5
    assert answered() == (503, "9")
    assert steer({}) == 200
    assert answered() == (200, None)
    for broken in ({"hang": 0.01}, {"reset": True}, {"accept_then_reset": True}):
        assert steer(broken) == 200
        with pytest.raises(requests.ConnectionError):
            answered()
    assert len(server.accepted) == 2


# As a program


@pytest.fixture
def program() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the program, and end what the test leaves behind."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.local_posthog", *options]
        pipe, root = subprocess.PIPE, Path(__file__).parents[2]
        started.append(subprocess.Popen(command, cwd=root, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_program_says_where_it_listens_stores_events_and_ends_cleanly(
    program: Callable[..., subprocess.Popen[str]],
    session: requests.Session,
    tmp_path: Path,
    end: signal.Signals,
) -> None:
    """It ends with 0 and without a traceback, while a request hangs as well."""
    folder = tmp_path / "program"
    folder.mkdir()
    ready, store = folder / "ready", folder / "events.ndjson"
    process = program("--ready", str(ready), "--store", str(store))
    assert process.stdout is not None
    line = process.stdout.readline()
    url = line.removeprefix("local PostHog listening at ").strip()
    session.post(f"{url}/batch/", data=body(event(event="one"), event(event="two")), timeout=5)
    session.post(f"{url}/batch/", data=body(event(event="three")), timeout=5)
    session.post(f"{url}/_behave", json={"always": {"hang": 60}}, timeout=5)
    with pytest.raises(requests.Timeout):
        session.post(f"{url}/batch/", data=body(event()), timeout=0.05)
    process.send_signal(end)
    assert process.communicate(timeout=5) == ("", "")
    assert process.returncode == 0
    assert ready.read_text() == url
    assert [json.loads(stored)["event"] for stored in store.read_text().splitlines()] == [
        "one",
        "two",
        "three",
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["events.ndjson", "ready"]


def test_a_port_in_use_is_one_line_and_exit_2(
    server: LocalPostHog, program: Callable[..., subprocess.Popen[str]]
) -> None:
    """The port is named, and nothing is taken from the server that has it."""
    process = program("--port", str(server.port))
    out, err = process.communicate(timeout=5)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert str(server.port) in err
