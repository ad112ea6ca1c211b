"""A PostHog on loopback for tests and the demo: its capture protocol, and every way in which it can fail.

The rules are those of PostHog's capture service (rust/capture; `parse_event_timestamp`). A batch is stored
whole or not at all, and what a client was answered is already in `accepted` and `requests`. As a program,
`python -m tests.support.local_posthog`, it shows its events at `/` and is steered by `/_events`, `/_behave`.
"""

import argparse
import json
import os
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.posthog_answers import (
    NORMAL,
    Answer,
    Ending,
    Json,
    accept_then_hang,
    accept_then_reset,
    answer_from,
    events_page,
    half,
    hang,
    html,
    json_body,
    redirect,
    reset,
    slow,
    status,
)
from tests.support.posthog_rules import (
    MAX_BODY_BYTES,
    TOO_BIG,
    Request,
    Stored,
    batch_refusal,
    rows,
    stored_at,
    stored_copy,
)

__all__ = [
    "Answer",
    "LocalPostHog",
    "Request",
    "accept_then_hang",
    "accept_then_reset",
    "half",
    "hang",
    "html",
    "json_body",
    "redirect",
    "reset",
    "slow",
    "status",
    "stored_at",
]

STOP_WAIT_S = 5.0  # handlers end within milliseconds of losing their connection, unless the machine is busy
POLL_S = 0.02  # how soon the accept loop sees that it shall end


@dataclass(eq=False)
class LocalPostHog:
    """The server. One thread starts and stops it, any may do the rest; what it accepted outlives a stop."""

    port: int = 0  # 0: a free one is taken at the first start, and kept
    api_key: str | None = None  # None: any that starts with phc_
    ok_status: str | int = "Ok"  # 1: as older servers say it
    max_body_bytes: int = MAX_BODY_BYTES  # decompressed; may be set at any time
    store: Path | None = None  # accepted events are appended here, as NDJSON, before they are answered
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    # One operation on one of these is atomic; the lock makes a batch one as well.
    _stored: list[Stored] = field(init=False, default_factory=list)
    _requests: list[Request] = field(init=False, default_factory=list)
    _queued: deque[Answer] = field(init=False, default_factory=deque)
    _always: Answer = field(init=False, default=NORMAL)
    _rejected: dict[str, int] = field(init=False, default_factory=dict)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _http: "_Http | None" = field(init=False, default=None)

    @property
    def url(self) -> str:
        """The host to give to a client."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Listen; connections are taken when this returns. OSError if the port is not free."""
        if self._http is None:
            self._http = _Http(self.port, self)
            self.port = self._http.server_address[1]
            threading.Thread(target=self._http.serve_forever, args=(POLL_S,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections and end the open ones at once, hanging requests too; `start` may follow."""
        if self._http is not None:
            self._http.end()
            self._http = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def accepted(self) -> list[Json]:
        """Every accepted copy of every event, in order of arrival; one sent without a uuid has got one."""
        return [copy.event for copy in list(self._stored)]

    def events(self) -> list[Json]:
        """Return the events that PostHog keeps: of each the last copy, in order of first arrival."""
        return list({copy.key: copy.event for copy in list(self._stored)}.values())

    def duplicates(self) -> list[Json]:
        """Return the copies beyond each event's first, in order of arrival."""
        stored = list(self._stored)
        first = {copy.key: copy for copy in reversed(stored)}
        return [copy.event for copy in stored if copy is not first[copy.key]]

    @property
    def requests(self) -> list[Request]:
        """Every request but those to `/`, `/_events` and `/_behave`; each is here before it is answered."""
        return list(self._requests)

    def clear(self) -> None:
        """Forget events and requests."""
        with self._lock:
            self._stored.clear()
            self._requests.clear()

    def misbehave(self, *answers: Answer) -> None:
        """Give these answers, one per request, before whatever holds otherwise."""
        self._queued.extend(answers)

    def always(self, answer: Answer) -> None:
        """Give this answer to every request until `behave`."""
        self._always = answer

    def behave(self) -> None:
        """Resume normal service; what `reject` named stays rejected."""
        self._queued.clear()
        self._always = NORMAL

    def reject(self, uuid: str, code: int = 400) -> None:
        """Answer `code` to every batch that holds this event, and store nothing of it."""
        self._rejected[uuid] = code

    def due(self) -> Answer:
        """Take the answer that the next request gets."""
        with suppress(IndexError):
            return self._queued.popleft()
        return self._always

    def record(self, request: Request, code: int) -> None:
        """Keep a request that is answered with this status."""
        self._requests.append(replace(request, status=code))

    def serve(self, request: Request) -> Answer:
        """Do what PostHog does: store the batch whole and say so, or say why nothing of it is stored."""
        if (request.method, request.path.rstrip("/")) != ("POST", "/batch"):
            return status(404, "not found")
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        now, sent_at = self.clock(), request.content.get("sent_at")
        copies = [stored_copy(event, sent_at, now) for event in request.content["batch"]]
        with self._lock:
            if self.store is not None:
                with self.store.open("a", encoding="utf-8") as file:
                    file.writelines(f"{json.dumps(copy.event)}\n" for copy in copies)
            self._stored.extend(copies)
        return json_body(200, {"status": self.ok_status})

    def _refusal(self, request: Request) -> Answer | None:
        """Say what PostHog answers to a batch that it does not take; None if it takes it."""
        if request.refusal is not None or request.size_bytes > self.max_body_bytes:
            return request.refusal or TOO_BIG
        key = str(request.content.get("api_key", ""))
        if not key.startswith("phc_") if self.api_key is None else key != self.api_key:
            return status(401, "API key is not valid")
        rejections = [self._rejected[uuid] for uuid in request.uuids if uuid in self._rejected]
        if rejections != []:
            return status(rejections[0], "event rejected")
        return batch_refusal(request.content["batch"])

    def control(self, request: Request) -> Answer | None:
        """Answer a person or a script that looks at the server or steers it; None to any other request."""
        match request.method, request.path:
            case "GET", "/":
                return events_page(rows(list(self._stored)))
            case "GET", "/_events":
                return json_body(200, rows(list(self._stored)))
            case "DELETE", "/_events":
                self.clear()
                return status(204)
            case "POST", "/_behave":
                return self._steer(request.body)
        return None

    def _steer(self, body: bytes) -> Answer:
        """Obey `{"always": answer}`, an answer for the next request alone, or `{}` for normal service."""
        try:
            spec = json.loads(body)
            if spec in ({}, {"always": {}}):
                self.behave()
            elif isinstance(spec, dict) and "always" in spec:
                self.always(answer_from(spec["always"]))
            else:
                self.misbehave(answer_from(spec))
        except (ValueError, TypeError) as error:
            return status(400, str(error))
        return json_body(200, spec)


class _Http(ThreadingHTTPServer):
    """The socket of one start; it knows its connections, so that its end is theirs."""

    request_queue_size = 128  # many clients at once are not refused

    def __init__(self, port: int, desk: LocalPostHog) -> None:
        self.desk = desk
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._closed = threading.Condition()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer would ask DNS for our name

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._closed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._closed:
            self._open.discard(request)
            self._closed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that went away is no error of ours
            super().handle_error(request, client_address)

    def end(self) -> None:
        """Close the socket and every connection; their handlers have ended when this returns."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._closed:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._closed.wait_for(lambda: not self._open, STOP_WAIT_S)


class _Handler(BaseHTTPRequestHandler):
    """One connection; every request on it is read whole before anything happens."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    server: _Http

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _exchange(self) -> None:
        at_s, length = time.monotonic(), self.headers.get("Content-Length", "0")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            return self._send(status(411, headers={"Connection": "close"}))
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return self._leave()
        desk, path = self.server.desk, urlsplit(self.path).path
        request = Request(self.command, path, dict(self.headers), body, at_s)
        control = desk.control(request)
        if control is not None:
            return self._send(control)
        return self._follow(desk.due(), request.unpacked(max(desk.max_body_bytes, MAX_BODY_BYTES)))

    do_GET = do_POST = do_PUT = do_DELETE = _exchange  # noqa: N815 - http.server calls them by these names

    def _follow(self, answer: Answer, request: Request) -> None:
        desk, stopping = self.server.desk, self.server.stopping
        if stopping.wait(answer.before_s):
            desk.record(request, 0)
            return self._leave()
        reply = desk.serve(request) if answer.serves else answer
        desk.record(request, reply.code if answer.ending in (Ending.WHOLE, Ending.HALF) else 0)
        stopping.wait(answer.after_s)
        if answer.ending is Ending.WHOLE:
            return self._send(reply)
        if answer.ending is Ending.HALF:
            self._send(reply, len(reply.body) // 2)
        elif answer.ending is Ending.RESET:
            self._reset()
        return self._leave()

    def _leave(self) -> None:
        self.close_connection = True

    def _send(self, reply: Answer, sent_bytes: int | None = None) -> None:
        """Send an answer, but no more than `sent_bytes` of the body that its Content-Length promises."""
        bodiless = reply.code < 200 or reply.code in (204, 304)
        size = {} if bodiless else {"Content-Length": str(len(reply.body))}
        own = {"Date": self.date_time_string(), "Server": "local-posthog", **size}
        self.send_response_only(reply.code)
        for name, value in {**own, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if bodiless else reply.body[:sent_bytes])
        if reply.code < 200:  # a client may wait for more: nothing comes
            self._leave()

    def _reset(self) -> None:
        """Close so that the kernel sends RST; past the socket object, which would say a polite FIN first."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())


def main() -> int:
    """Serve until SIGTERM or SIGINT, then return 0; 2 if the port is not free."""
    parser = argparse.ArgumentParser(prog="local_posthog", description="A PostHog on loopback.")
    parser.add_argument("--port", type=int, default=0, help="where to listen (default: a free port)")
    parser.add_argument("--ready", type=Path, help="this file gets the url once the server listens")
    parser.add_argument("--store", type=Path, help="accepted events are appended to this file, as NDJSON")
    options = parser.parse_args()
    if sys.platform == "win32":
        parser.error("it waits for POSIX signals; start LocalPostHog in a program")
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before any thread starts, so that only sigwait gets them
    try:
        server = LocalPostHog(port=options.port, store=options.store).start()
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"local PostHog cannot listen on 127.0.0.1:{options.port}: {error}\n")
        return 2
    sys.stdout.write(f"local PostHog listening at {server.url}\n")
    sys.stdout.flush()
    if options.ready is not None:
        draft = options.ready.with_name(f"{options.ready.name}.{os.getpid()}")
        draft.write_text(server.url, encoding="utf-8")
        draft.replace(options.ready)
    signal.sigwait(ends)
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
