"""A connection that breaks is tried again, wherever it breaks; only a certificate that fails its check is untrusted."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

from flusher.delivery.verdict import Action, judge
from flusher.delivery.wire import failure
from spool import Telemetry
from tests.support.processes import KEY, environment, flush_json, status
from tests.support.tls import certificate, needs_openssl

Breaks = Callable[[socket.socket, ssl.SSLContext], None]


def reset(connection: socket.socket) -> None:
    """Close so that the kernel sends RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def reset_in_the_upload(connection: socket.socket, context: ssl.SSLContext) -> None:
    """Take the first kilobyte of the request, under TLS, and no more."""
    with context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as secure:
        secure.recv(1024)
        reset(secure)


def end_in_the_upload(connection: socket.socket, context: ssl.SSLContext) -> None:
    """The same, without a word of TLS that this is the end."""
    with context.wrap_socket(connection, server_side=True) as secure:
        secure.recv(1024)
        os.close(secure.detach())


def end_in_the_handshake(connection: socket.socket, _context: ssl.SSLContext) -> None:
    """Take the client's hello and close."""
    connection.recv(65_536)
    connection.close()


def reset_in_the_handshake(connection: socket.socket, _context: ssl.SSLContext) -> None:
    """Take the client's hello and reset."""
    connection.recv(65_536)
    reset(connection)


def no_tls(connection: socket.socket, _context: ssl.SSLContext) -> None:
    """Answer a hello in plain HTTP, as a proxy or a login page does."""
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    connection.close()


@contextmanager
def server_that(breaks: Breaks, pem: Path) -> Iterator[int]:
    """A server that does this to every connection; gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _address = listener.accept()
            except OSError:
                return  # closed: the test is over
            with suppress(OSError):
                breaks(connection, context)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def large_backlog(home: Path, url: str) -> None:
    """Spool three events that fill the buffers of a connection: their upload can be cut in its middle."""
    telemetry = Telemetry("ktx", "1", KEY, url, home, flush="never")
    for _ in range(3):
        assert telemetry.capture("large", {"noise": os.urandom(400_000).hex()})
    telemetry.close()


def check_tried_again(home: Path, report: dict[str, object]) -> None:
    """Two requests in this run, the next attempt within a minute, and not a word of certificates."""
    assert (report["exit_code"], report["requests"], report["remaining"]) == (75, 2, 4)
    assert "certificate" not in str(report["reason"])
    wait_s = (datetime.fromisoformat(str(report["next_attempt"])) - datetime.now(UTC)).total_seconds()
    assert wait_s <= 61
    assert status(home)["dead"] == 0


BREAKS = [reset_in_the_upload, end_in_the_upload, end_in_the_handshake, reset_in_the_handshake, no_tls]


@needs_openssl
@pytest.mark.parametrize("breaks", BREAKS)
def test_a_connection_that_breaks_under_tls_is_tried_again(breaks: Breaks, home: Path, tmp_path: Path) -> None:
    """It is no matter of certificates, so nobody is asked to mend them, or waits for an hour."""
    pem = certificate(tmp_path, "IP:127.0.0.1")
    with server_that(breaks, pem) as port:
        large_backlog(home, f"https://127.0.0.1:{port}")
        env = environment(SSL_CERT_FILE=str(tmp_path / "certificate.pem"))
        check_tried_again(home, flush_json(home, "run", "--max-retries", "1", env=env))


def end_after_connect(connection: socket.socket, _context: ssl.SSLContext) -> None:
    """Open the tunnel, and close it."""
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    connection.close()


def end_instead_of_an_answer(connection: socket.socket, _context: ssl.SSLContext) -> None:
    """Close on CONNECT."""
    connection.recv(65_536)
    connection.close()


@needs_openssl
@pytest.mark.parametrize("breaks", [end_after_connect, end_instead_of_an_answer])
def test_a_proxy_that_closes_is_tried_again(breaks: Breaks, home: Path, tmp_path: Path) -> None:
    """Before it has opened the tunnel, or right after."""
    with server_that(breaks, certificate(tmp_path, "IP:127.0.0.1")) as port:
        large_backlog(home, "https://127.0.0.1:9")
        env = environment(HTTPS_PROXY=f"http://127.0.0.1:{port}")
        check_tried_again(home, flush_json(home, "run", "--max-retries", "1", env=env))


# -- whatever is raised ---------------------------------------------------------------------------------------


def all_errors(module: object) -> list[type[Exception]]:
    """Give every kind of error that a module names."""
    kinds = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Exception)]
    return [one for one in kinds if not issubclass(one, Warning)]


KINDS = {
    f"{kind.__module__}.{kind.__name__}": kind
    for kind in (
        *all_errors(requests.exceptions), *all_errors(urllib3.exceptions), *all_errors(http.client),
        *all_errors(ssl), *all_errors(socket), KeyError, TypeError, RecursionError, MemoryError, AssertionError,
    )
}  # fmt: skip


POOL = urllib3.HTTPConnectionPool("h")
# What their constructors take, beside a text.
ARGUMENTS: list[tuple[Any, ...]] = [
    ("x",), (POOL, "x"), (POOL, "/", "x"), ("h", POOL, socket.gaierror()), (urllib3.HTTPResponse(b""), b"1"), (0, 1),
    ("x", "", 0), (),
]  # fmt: skip


def made(kind: type[Exception]) -> Exception:
    """Make an error that says something, whatever its constructor takes."""
    for arguments in ARGUMENTS:
        with suppress(TypeError, ValueError, AttributeError, IndexError):
            error = kind(*arguments)
            assert isinstance(str(error), str)
            return error
    raise AssertionError(f"no way to make {kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_no_error_of_a_library_makes_a_dead_letter(kind: str) -> None:
    """Each is tried again or a matter of configuration, with words for the operator, alone or wrapped by requests."""
    error = made(KINDS[kind])
    for raised in (error, requests.ConnectionError(error)):
        verdict = judge(failure(raised, "HTTPS_PROXY"), datetime.now(UTC))
        assert verdict.action in (Action.RETRY, Action.STOP)
        assert verdict.reason


def test_only_a_failed_check_of_a_certificate_is_untrusted() -> None:
    """Wherever in a chain of errors it stands; of the other errors of TLS none is."""
    untrusted = ssl.SSLCertVerificationError(1, "self-signed certificate")
    broken = [
        ssl.SSLError(1, "bad record mac"),
        ssl.SSLEOFError(8, "EOF occurred"),
        ssl.SSLZeroReturnError(6, "closed"),
    ]
    for error, action in [(untrusted, Action.STOP), *((one, Action.RETRY) for one in broken)]:
        by_urllib3 = urllib3.exceptions.MaxRetryError(POOL, "/", urllib3.exceptions.SSLError(error))
        verdict = judge(failure(requests.exceptions.SSLError(by_urllib3)), datetime.now(UTC))
        assert (verdict.action, "certificate" in verdict.reason) == (action, action is Action.STOP)
