"""One request to PostHog, and its answer. The only module that imports posthog and requests."""

from __future__ import annotations

import gzip
import logging
import os
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from json import dumps, loads
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import requests
from posthog.request import determine_server_host, post
from requests.adapters import HTTPAdapter

from flusher.context import TIMEOUT_S
from flusher.delivery.verdict import Answer
from spool.errors import ConfigurationError
from spool.launch.destination import Destination
from spool.queue import Row

__all__ = ["Courier", "failure", "probe"]

# An event by itself can't become smaller: it has as much longer as it takes over the slowest uplink.
_SLOWEST_BYTES_PER_S = 4_000
# For the last part of a body, which may be stuck for a while, and an answer that trickles in.
_SLACK_S = 15.0
_PATH = "/batch/"
# A person waits for a probe; a host that takes longer to answer an empty batch has a problem.
_PROBE_TIMEOUT_S = 10.0
_PROXIES = {"http": ("http_proxy", "HTTP_PROXY"), "https": ("https_proxy", "HTTPS_PROXY")}
# PostHog's answers are short; of a login page the first part is enough.
_BODY_BYTES = 64 * 1024
# gzip's own default is 9: three times the work for one part in fifty.
_LEVEL = 6
_BUNDLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")


class Reply:
    """The answer to a batch that is on its way. `longest_s`: later than that there will be none."""

    def __init__(self, timeout_s: float) -> None:
        self.longest_s = 2 * timeout_s + _SLACK_S
        self._done = threading.Event()
        self._answer: Answer | None = None

    def settle(self, answer: Answer) -> None:
        """Called once, by the courier."""
        self._answer = answer
        self._done.set()

    def wait(self, timeout_s: float) -> Answer | None:
        """Give the answer, or None if there is none yet."""
        return self._answer if self._done.wait(timeout_s) else None


class Courier:
    """Sends batches, one after the other, over one connection that is kept, from a thread of its own.

    The thread is a daemon: a server that hangs does not keep the process from ending. The session is our own: no
    credentials from ~/.netrc, no redirects, no retries below ours; proxies and a CA bundle are taken from
    the environment on purpose. Raises ConfigurationError for a host, a proxy or a CA bundle that can't be used.
    """

    def __init__(self, destination: Destination, env: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> None:
        # posthog-python would log whole bodies at this level.
        logging.getLogger("posthog").setLevel(logging.CRITICAL)
        self._destination = destination
        self._timeout_s = timeout_s
        self._session = _session(destination, env)
        self._work: SimpleQueue[tuple[Sequence[Row], float, Reply] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="courier", daemon=True)
        self._thread.start()
        self.requests = 0

    def send(self, batch: Sequence[Row]) -> Reply:
        """Send a batch and return at once; the reply waits for the answer."""
        self.requests += 1
        timeout_s = self._timeout_s
        if len(batch) == 1:
            timeout_s += len(batch[0].text) / _SLOWEST_BYTES_PER_S
        reply = Reply(timeout_s)
        self._work.put((batch, timeout_s, reply))
        return reply

    def close(self) -> None:
        """Let the thread end; a request that is under way is not waited for."""
        self._work.put(None)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            batch, timeout_s, reply = item
            try:
                events = ",".join(stored.text for stored in batch).encode("ascii")
            except Exception as error:  # noqa: BLE001 - this thread must answer, whatever lies in the queue
                reply.settle(Answer(error=f"it can't be written as a request ({type(error).__name__})", faulty=True))
            else:
                reply.settle(self._post(events, timeout_s))
        self._session.close()

    def _post(self, events: bytes, timeout_s: float) -> Answer:
        self._session.events = events
        try:
            response = post(
                self._destination.project_key or "",
                determine_server_host(self._destination.host),
                path=_PATH,
                timeout=timeout_s,
                session=self._session,
                historical_migration=False,
            )
            return _answer(response, self._session.proxy_variable)
        except Exception as error:  # noqa: BLE001 - this thread must answer; no event is to blame
            return failure(error, self._session.proxy_variable)


def probe(destination: Destination, env: Mapping[str, str]) -> Answer:
    """Send an empty batch, without key and id, to where events go: PostHog answers 400.

    Raises ConfigurationError for a host, a proxy or a CA bundle that can't be
    used.
    """
    with _session(destination, env) as session:
        try:
            response = session.request("POST", _address(destination), json={"batch": []}, timeout=_PROBE_TIMEOUT_S)
            return _answer(response, session.proxy_variable)
        except Exception as error:  # noqa: BLE001 - whatever keeps the request from its answer is what a person asked for
            return failure(error, session.proxy_variable)


def _answer(response: requests.Response, proxy_variable: str | None) -> Answer:
    """Read an answer with the first part of its body; an endless one is cut off."""
    if response.status_code == requests.codes.proxy_authentication_required and proxy_variable is not None:
        return _proxy_wants_password(proxy_variable)
    body = bytearray()
    for part in response.iter_content(_BODY_BYTES):
        body += part
        if len(body) > _BODY_BYTES:
            response.close()
            break
    text = body[:_BODY_BYTES].decode("utf-8", "replace")
    headers = response.headers
    return Answer(
        response.status_code, text, headers.get("Retry-After"), headers.get("Date"), redirected=bool(response.history)
    )


def failure(error: Exception, proxy_variable: str | None = None) -> Answer:
    """Say in a few words why there is no answer, without urllib3's chain of errors: they may hold a password.

    No event is to blame: what can't be made here is a matter of configuration, all else is tried again.
    `proxy_variable` names the proxy that was on the way.
    """
    chain = _chain(error)
    text = " ".join(str(one) for one in chain)
    if isinstance(error, requests.exceptions.ProxyError):
        if "Tunnel connection failed: 407" in text:
            return _proxy_wants_password(proxy_variable)
        return Answer(error=f"the proxy of {proxy_variable} can't be reached or refuses")
    for kind, answer in _BY_KIND:
        if any(isinstance(one, kind) for one in chain):
            return answer
    for mark, words in _BY_TEXT:
        if mark in text:
            return Answer(error=words)
    if isinstance(error, requests.RequestException | OSError) and not isinstance(error, ValueError):
        return Answer(error=f"the connection failed ({type(error).__name__})")
    return Answer(error=f"no request can be made here ({type(error).__name__})", unusable=True)


_BY_KIND: list[tuple[type[Exception], Answer]] = [
    (
        ssl.SSLCertVerificationError,
        Answer(error="the certificate of the host is not trusted (is this machine's clock right?)", unusable=True),
    ),
    (requests.exceptions.ConnectTimeout, Answer(error="the host does not answer")),
    (requests.exceptions.ReadTimeout, Answer(error="the host took the request and did not answer in time", slow=True)),
    (TimeoutError, Answer(error="the request could not be sent in time", slow=True)),
    (requests.exceptions.SSLError, Answer(error="the encrypted connection broke")),
]
_BY_TEXT = [
    ("NameResolutionError", "the host's name can't be resolved"),
    ("Name or service not known", "the host's name can't be resolved"),
    ("Connection refused", "the host refuses connections"),
    ("Connection reset", "the connection was reset"),
    ("unreachable", "the network is unreachable"),
]


def _proxy_wants_password(variable: str | None) -> Answer:
    return Answer(error=f"the proxy of {variable} asks for a user and a password: write them into it", unusable=True)


def _chain(error: BaseException) -> list[BaseException]:
    """Give an error and all that it was made of: requests and urllib3 wrap by arguments, `reason` and context."""
    found: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        one = todo.pop()
        if isinstance(one, BaseException) and not any(one is other for other in found):
            found.append(one)
            todo += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    return found


class _Upload(BytesIO):
    """A body that is given up when its time is over: the timeout of a socket begins anew with each part of it."""

    def __init__(self, body: bytes, timeout_s: float) -> None:
        super().__init__(body)
        self._until = time.monotonic() + timeout_s

    def read(self, size: int | None = -1) -> bytes:
        """Give the next part; TimeoutError when the time is over."""
        if time.monotonic() > self._until:
            raise TimeoutError("the upload takes too long")
        return super().read(size)


class _Session(requests.Session):
    """Writes the body of a batch: the SDK's fields and then the events, byte for byte as they were frozen.

    The SDK gives the address, the headers and every other field. If it wrote the events too, each would be parsed and
    written once more, which is most of what a drain costs.
    """

    events = b""
    # Which variable names the proxy of this session, if there is one.
    proxy_variable: str | None = None

    def post(self, url: str | bytes, data: Any = None, json: Any = None, **options: Any) -> requests.Response:  # noqa: ARG002 - the signature of requests
        """Send the fields of `data`, a JSON object, with `events` as its last one, compressed."""
        fields = [f"{dumps(name)}: {dumps(value)}" for name, value in loads(data).items()]
        body = b'{%b, "batch": [%b]}' % (", ".join(fields).encode(), self.events)
        headers = {**options.pop("headers", {}), "Content-Encoding": "gzip"}
        upload = _Upload(gzip.compress(body, _LEVEL, mtime=0), options["timeout"])
        return super().post(url, upload, headers=headers, **options)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Give no redirect target for any answer: a redirect is an answer like any other."""


def _address(destination: Destination) -> str:
    return determine_server_host(destination.host).rstrip("/") + _PATH


def _session(destination: Destination, env: Mapping[str, str]) -> _Session:
    """Give a session for one destination, with its bundle and its proxy; all that needs no network is tried before."""
    session = _Session()
    session.trust_env = False
    session.stream = True  # a body is read by us, up to a limit
    adapter = HTTPAdapter(max_retries=0, pool_maxsize=1)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    bundle = next((env[name] for name in _BUNDLES if env.get(name)), None)
    if bundle is not None:
        _check_bundle(bundle, _bundle_name(env))
        session.verify = bundle
    try:
        _rehearse(session, destination)
    except Exception as error:
        raise ConfigurationError(
            f"the host {destination.host!r} ({destination.host_from}) can't be written into a request:"
            " give one as https://us.i.posthog.com"
        ) from error
    _take_proxy(session, destination, env)
    return session


def _take_proxy(session: _Session, destination: Destination, env: Mapping[str, str]) -> None:
    """Let the session use the proxy that the environment names, unless NO_PROXY exempts the host.

    ConfigurationError for one that can't be used, by the variable's name: its value may hold a password.
    """
    scheme = urlsplit(destination.host).scheme
    variable = next((name for name in (*_PROXIES[scheme], "all_proxy", "ALL_PROXY") if env.get(name)), None)
    exempt = env.get("no_proxy") or env.get("NO_PROXY") or ""
    if variable is None or requests.utils.should_bypass_proxies(destination.host, no_proxy=exempt):
        return
    session.proxy_variable, session.proxies[scheme] = variable, env[variable]
    try:
        _rehearse(session, destination)
    except Exception as error:  # noqa: BLE001 - every one of them is the variable's fault: without it, all went well
        problem = "is no proxy that can be used: write it as http://user:password@host:port, other characters as %XX"
        if "SOCKS" in str(error):
            problem = "names a SOCKS proxy: install PySocks for that"
        raise ConfigurationError(f"{variable} {problem}, or unset it, or exempt the host by NO_PROXY") from None


def _rehearse(session: _Session, destination: Destination) -> None:
    """Do what can be done of a request without the network; raises whatever requests and urllib3 raise.

    They read host and proxy when a request is made, with errors that differ from one mistake to the next.
    """
    request = session.prepare_request(requests.Request("POST", _address(destination)))
    adapter = session.get_adapter(request.url or "")
    assert isinstance(adapter, HTTPAdapter)  # noqa: S101 - ours
    adapter.get_connection_with_tls_context(request, session.verify, session.proxies)
    for url in (request.url or "", *session.proxies.values()):
        name = urlsplit(url if "//" in url else f"//{url}").hostname or ""
        name.encode("idna")  # as the socket module does, once there is a network
    adapter.request_url(request, session.proxies)


def _check_bundle(bundle: str, variable: str) -> None:
    """Raise ConfigurationError for a bundle without a certificate: else the server would seem to be at fault."""
    folder = os.path.isdir(bundle)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(capath=bundle) if folder else context.load_verify_locations(cafile=bundle)
        usable = not folder or bool(os.listdir(bundle))
    except (OSError, ssl.SSLError):
        usable = False
    if not usable:
        raise ConfigurationError(f"the CA bundle {bundle} holds no certificate: mend or unset {variable}")


def _bundle_name(env: Mapping[str, str]) -> str:
    return next(name for name in _BUNDLES if env.get(name))
