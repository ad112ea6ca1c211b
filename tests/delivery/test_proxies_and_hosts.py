"""A host or a proxy that can't be used is a matter of configuration: it is said by its name, and costs no event."""

from __future__ import annotations

import json
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flusher.delivery.wire import Courier
from spool.errors import ConfigurationError
from spool.home import Paths
from spool.launch.destination import Destination
from tests.support.captures import spool_events
from tests.support.local_posthog import LocalPostHog, status
from tests.support.processes import environment, flush, flush_json
from tests.support.processes import status as spool_status

PASSWORD = "Geheim4711"  # noqa: S105 - looked for in what is printed
NOWHERE = "https://127.0.0.1:9"

# Each broke requests or urllib3 in a way of its own.
PROXIES = {
    "a character beyond Latin-1": f"http://user:{PASSWORD}€@127.0.0.1:9",
    "a byte that is no UTF-8": f"http://user:{PASSWORD}%E4@127.0.0.1:9",
    "a bracket": f"http://user:{PASSWORD}[@127.0.0.1:9",
    "a hash": f"http://user:{PASSWORD}#@127.0.0.1:9",
    "a slash": f"http://user:{PASSWORD}/@127.0.0.1:9",
    "no host": f"http://us er:{PASSWORD}@",
    "no host at all": "http://",
    "a host with an empty part": f"http://user:{PASSWORD}@proxy..example.com:9",
    "a host with a leading dot": f"http://user:{PASSWORD}@.example.com:9",
    "a host with a long part": f"http://user:{PASSWORD}@{'x' * 64}.example.com:9",
    "a host with a space": f"http://user:{PASSWORD}@pro xy:9",
    "a host that is no name": f"http://user:{PASSWORD}@\N{SNOWMAN}.example.com:9",
    "a port that is none": f"http://user:{PASSWORD}@127.0.0.1:abc",
    "another scheme": f"ftp://user:{PASSWORD}@127.0.0.1:9",
    "SOCKS without PySocks": f"socks5h://user:{PASSWORD}@127.0.0.1:9",
}
HOSTS = {
    "an empty part": "https://ph..example.com",
    "a leading dot": "https://.example.com",
    "a part of 64 letters": f"https://{'x' * 64}.example.com",
    "a space": "https://p h.example.com",
    "no name that exists": "https://\N{SNOWMAN}.example.com",
    "an invisible letter": "https://\N{ZERO WIDTH SPACE}.example.com",
    "a star": "https://*.example.com",
    "half a bracket": "https://[::1",
}


def doctor(home: Path, *arguments: str, env: dict[str, str]) -> tuple[int, str]:
    """Give doctor's exit code and all that it printed; it never fails itself."""
    done = flush(home, "doctor", *arguments, env=env)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("mistake", PROXIES)
def test_every_proxy_that_cannot_be_written_into_a_request_is_found_before_one_is_made(mistake: str) -> None:
    """Whatever requests and urllib3 make of it: the variable is named, and its value is not repeated."""
    with pytest.raises(ConfigurationError, match=r"HTTPS_PROXY .* unset it") as raised:
        Courier(Destination(NOWHERE, "phc_test"), {"HTTPS_PROXY": PROXIES[mistake]})
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("mistake", HOSTS)
def test_every_host_that_cannot_be_written_into_a_request_is_found_before_one_is_made(mistake: str) -> None:
    """Also where only requests knows that it can't."""
    with pytest.raises(ConfigurationError, match=r"the host .* \(--host\)"):
        Courier(Destination(HOSTS[mistake], "phc_test", "--host"), {})


@pytest.mark.parametrize("mistake", ["a character beyond Latin-1", "a bracket", "no host", "SOCKS without PySocks"])
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable_and_costs_no_event(mistake: str, home: Path) -> None:
    """Exit 2, one line with the variable and what to do, no request, no dead letter, no password; doctor says it."""
    spool_events(home, NOWHERE)
    env = environment(HTTPS_PROXY=PROXIES[mistake])
    done = flush(home, "run", "--force", env=env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "HTTPS_PROXY" in done.stderr
    assert "unset it" in done.stderr
    code, printed = doctor(home, "--send", env=env)
    assert (code, "HTTPS_PROXY" in printed) == (2, True)
    assert PASSWORD not in printed + done.stdout + done.stderr + Paths(home).flush_log.read_text()
    told = spool_status(home)["accounting"]
    assert (told["pending"], told["dead"], told["lost"]) == (6, 0, 0)


@pytest.mark.parametrize("mistake", ["an empty part", "no name that exists"])
def test_a_host_that_cannot_be_used_is_named_with_its_source_and_costs_no_event(
    mistake: str, home: Path, server: LocalPostHog
) -> None:
    """By the variable, by --host, by the file that the host CLI left: exit 2, and the line says which of them."""
    host = HOSTS[mistake]
    spool_events(home, server.url)
    runs = {"KTX_TELEMETRY_ENDPOINT": flush(home, "run", env=environment(KTX_TELEMETRY_ENDPOINT=host))}
    runs["--host"] = flush(home, "run", "--host", host)
    left = Paths(home).destination
    left.write_text(json.dumps({**json.loads(left.read_text()), "host": host}))
    runs["destination.json"] = flush(home, "run")
    for source, done in runs.items():
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert source in done.stderr
    code, printed = doctor(home, env=environment())
    assert (code, "destination.json" in printed) == (2, True)
    assert server.requests == []
    told = spool_status(home)
    assert (told["pending"], told["dead"]) == (6, 0)


def test_a_password_in_the_host_is_never_repeated(home: Path, server: LocalPostHog) -> None:
    """Where a password stands in it, no message shows the host."""
    spool_events(home, server.url, 1)
    for host in ("https://user:{}@ph.example.com", "https://user:{}[@ph.example.com", "user:{}@ph.example.com"):
        env = environment(KTX_TELEMETRY_ENDPOINT=host.format(PASSWORD))
        done = flush(home, "run", env=env)
        assert (done.returncode, "KTX_TELEMETRY_ENDPOINT" in done.stderr) == (2, True)
        assert PASSWORD not in done.stderr + doctor(home, env=env)[1]


def test_a_proxy_that_is_not_asked_is_not_in_the_way(home: Path, server: LocalPostHog) -> None:
    """One for the other scheme, and one that NO_PROXY exempts the host from."""
    spool_events(home, server.url)
    broken = PROXIES["a bracket"]
    one = flush_json(home, "run", "--max-events", "1", env=environment(HTTPS_PROXY=broken))
    assert (one["exit_code"], one["delivered"]) == (0, 1)
    rest = flush_json(home, "run", env=environment(HTTP_PROXY=broken, NO_PROXY="127.0.0.1"))
    assert (rest["exit_code"], rest["delivered"]) == (0, 5)


@contextmanager
def proxy_that_answers(answer: bytes) -> Iterator[str]:
    """A proxy that says the same to every request, and ends the connection."""

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _address = listener.accept()
            except OSError:
                return  # closed: the test is over
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_a_proxy_that_asks_for_a_password_is_named_and_costs_no_event(home: Path, server: LocalPostHog) -> None:
    """407, in answer to CONNECT and to a plain request: the events are kept, and nobody tries again at once."""
    asks = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    spool_events(home, NOWHERE)
    with proxy_that_answers(asks) as url:
        tunnel = flush_json(home, "run", env=environment(HTTPS_PROXY=url))
    server.always(status(407))
    plain = flush_json(home, "run", "--force", "--host", "http://127.0.0.1:9", env=environment(HTTP_PROXY=server.url))
    for report, variable in ((tunnel, "HTTPS_PROXY"), (plain, "HTTP_PROXY")):
        assert (report["exit_code"], report["requests"], report["remaining"]) == (75, 1, 6)
        assert report["reason"] == f"the proxy of {variable} asks for a user and a password: write them into it"
    assert spool_status(home)["dead"] == 0


def test_a_proxy_that_is_down_is_named(home: Path) -> None:
    """Nobody listens there: the events wait, and the line says whose address that is."""
    spool_events(home, NOWHERE, 1)
    report = flush_json(home, "run", "--max-retries", "0", env=environment(ALL_PROXY="http://127.0.0.1:9"))
    assert (report["exit_code"], report["reason"]) == (75, "the proxy of ALL_PROXY can't be reached or refuses")
