"""`ktx daemon`: a process that lives until it is told to stop, and says when it began and why it ended.

It listens on a Unix socket that is its user's alone. A connection carries one line: `scan PATH`, `stop`, or
`crash`, for those who want to see what becomes of an unexpected exception. The answer is one line of JSON.

The main thread does nothing but wait for the end. So a signal, a request and an exception in another thread are
all the same to it, and no handler raises where `daemon_stopped` could be lost.
"""

import json
import os
import platform
import signal
import socket
import socketserver
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import FrameType
from typing import cast

from ktx_render import as_json, printable
from ktx_scan import ScanError, scan
from ktx_telemetry import VERSION, telemetry

assert sys.platform != "win32", "the daemon listens on a Unix socket"  # noqa: S101 - mypy reads it, too

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP = "stop"  # what a request to stop leaves in the queue of ends
REQUEST_MAX_BYTES = 16_384  # longer than any path that a system opens
CLIENT_WAIT_S = 10.0  # for the request's one line; a client that says nothing is left alone

# What ended it: a signal's number, an unexpected exception, or STOP.
End = int | BaseException | str
Ends = SimpleQueue[End]


class DaemonError(Exception):
    """The daemon can't listen; nothing was started. `str(error)` is for the user."""


def serve(path: Path) -> None:
    """Listen at `path` until a request, a signal or an unexpected exception; each ends it as it should.

    Exactly one `daemon_started` and one `daemon_stopped`. A signal is raised again after that, so the
    process ends by it; an exception goes on. Raises DaemonError, and tells nothing, if it can't listen.
    """
    started_s = time.monotonic()
    ends = Ends()
    with _signals_into(ends), _listening(path, ends) as server:
        ready_s = time.monotonic()
        telemetry().capture(
            "daemon_started",
            {
                "daemonVersion": VERSION,
                "pythonVersion": platform.python_version(),
                "runtimeVersion": VERSION,  # both come in one release
                "startupDurationMs": (ready_s - started_s) * 1000,
            },
        )
        with _answering(server):  # from here on: who had an answer can rely on the event before it
            end = ends.get()
            telemetry().capture(
                "daemon_stopped", {"reason": _reason(end), "uptimeMs": (time.monotonic() - ready_s) * 1000}
            )
    if isinstance(end, BaseException):
        raise end
    if isinstance(end, int):
        signal.raise_signal(end)


def _reason(end: End) -> str:
    if isinstance(end, BaseException):
        return "crash"
    return "signal" if isinstance(end, int) else "request"


@contextmanager
def _signals_into(ends: Ends) -> Iterator[None]:
    """Note the first signal; a second one finds the handlers from before, which end the process at once."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        put_back()
        ends.put(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        put_back()


@contextmanager
def _listening(path: Path, ends: Ends) -> Iterator["_Server"]:
    """Listen at `path`; who connects waits for an answer. Raises DaemonError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(path)
        mask = os.umask(0o177)  # connecting takes the right to write: the user's alone
        try:
            server = _Server(path, ends)
        finally:
            os.umask(mask)
    except OSError as error:
        raise DaemonError(f"{path}: can't listen ({error.strerror or error})") from error
    with server:
        try:
            yield server
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _answering(server: "_Server") -> Iterator[None]:
    """Answer in threads of their own, until the end of the block."""
    Thread(target=server.work, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()


def _clear(path: Path) -> None:
    """Remove the socket of a daemon that was killed. Raises DaemonError if one lives."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise DaemonError(f"{path}: a daemon listens there already")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False  # a client that hangs does not keep it from ending

    def __init__(self, path: Path, ends: Ends) -> None:
        self.ends = ends
        super().__init__(str(path), _Handler)

    def work(self) -> None:
        """Serve. Signals are the main thread's: only there they wake what waits for the end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.serve_forever(poll_interval=0.05)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the main thread raises it
            self.ends.put(error)

    def handle_error(self, request: object, client_address: object) -> None:
        """End the daemon: an exception that nobody expected leaves nothing to rely on."""
        del request, client_address
        error = sys.exception()
        if error is not None:
            self.ends.put(error)


class _Handler(socketserver.StreamRequestHandler):
    timeout = CLIENT_WAIT_S

    def handle(self) -> None:
        """Answer one request."""
        words: list[bytes] = []
        with suppress(OSError):  # the client left, or says nothing
            words = self.rfile.readline(REQUEST_MAX_BYTES).rstrip(b"\r\n").split(b" ", 1)
            text = _answer(words[0], words[1] if len(words) > 1 else b"")
            self.wfile.write(f"{text}\n".encode("ascii"))
        if words == [b"stop"]:
            cast("_Server", self.server).ends.put(STOP)


def _answer(verb: bytes, argument: bytes) -> str:
    match verb:
        case b"scan" if argument and b"\0" not in argument:
            try:
                return as_json(scan(Path(os.fsdecode(argument))))
            except ScanError as error:
                return json.dumps({"error": printable(str(error))})
        case b"stop" if not argument:
            return json.dumps({"stopping": True})
        case b"crash" if not argument:
            raise RuntimeError("the daemon was asked to crash")
    return json.dumps({"error": "a request is `scan PATH`, `stop` or `crash`"})
