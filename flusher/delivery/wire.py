"""One request to PostHog, and its answer. The only module that imports posthog and requests."""

from __future__ import annotations

import gzip
import logging
import os
import ssl
import threading
from collections.abc import Mapping, Sequence
from json import dumps, loads
from queue import SimpleQueue
from typing import Any

import requests
from posthog.request import determine_server_host, post
from requests.adapters import HTTPAdapter

from flusher.delivery.verdict import Answer
from spool.errors import ConfigurationError
from spool.launch.destination import Destination
from spool.queue import Row

__all__ = ["Courier", "probe"]

# The server may wait 20 s for Kafka before it answers.
TIMEOUT_S = 30.0
_PATH = "/batch/"
# A person waits for a probe; a host that takes longer to answer an empty batch has a problem.
_PROBE_TIMEOUT_S = 10.0
_PROXIES = {"http": ("http_proxy", "HTTP_PROXY"), "https": ("https_proxy", "HTTPS_PROXY")}
_UNUSABLE = (
    requests.exceptions.SSLError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidProxyURL,
)
# PostHog's answers are short; of a login page the first part is enough.
_BODY_BYTES = 64 * 1024
# gzip's own default is 9: three times the work for one part in fifty.
_LEVEL = 6
_BUNDLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")


class Reply:
    """The answer to a batch that is on its way."""

    def __init__(self) -> None:
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
    the environment on purpose. Raises ConfigurationError for a CA bundle that isn't there.
    """

    def __init__(self, destination: Destination, env: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> None:
        # posthog-python would log whole bodies at this level.
        logging.getLogger("posthog").setLevel(logging.CRITICAL)
        self._destination = destination
        self._timeout_s = timeout_s
        self._session = _session(destination.host, env)
        self._work: SimpleQueue[tuple[Sequence[Row], Reply] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="courier", daemon=True)
        self._thread.start()
        self.requests = 0

    def send(self, batch: Sequence[Row]) -> Reply:
        """Send a batch and return at once; the reply waits for the answer."""
        self.requests += 1
        reply = Reply()
        self._work.put((batch, reply))
        return reply

    def close(self) -> None:
        """Let the thread end; a request that is under way is not waited for."""
        self._work.put(None)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            batch, reply = item
            try:
                events = ",".join(stored.text for stored in batch).encode("ascii")
            except Exception as error:  # noqa: BLE001 - this thread must answer, whatever lies in the queue
                reply.settle(Answer(error=f"it can't be written as a request ({type(error).__name__})", faulty=True))
            else:
                reply.settle(self._post(events))
        self._session.close()

    def _post(self, events: bytes) -> Answer:
        self._session.events = events
        try:
            response = post(
                self._destination.project_key or "",
                determine_server_host(self._destination.host),
                path=_PATH,
                timeout=self._timeout_s,
                session=self._session,
                historical_migration=False,
            )
            return _answer(response)
        except (requests.RequestException, OSError) as error:
            return Answer(error=_words(error), unusable=isinstance(error, _UNUSABLE))
        except Exception as error:  # noqa: BLE001 - this thread must answer; no event is to blame
            return Answer(error=f"no request can be made here ({type(error).__name__})", unusable=True)


def probe(host: str, env: Mapping[str, str]) -> tuple[Answer, str | None]:
    """Send an empty batch, without key and id, to where events go: PostHog answers 400.

    Gives the answer and its Date header. Raises ConfigurationError for a CA bundle that isn't there.
    """
    with _session(host, env) as session:
        try:
            address = determine_server_host(host).rstrip("/") + _PATH
            response = session.request("POST", address, json={"batch": []}, timeout=_PROBE_TIMEOUT_S)
            return _answer(response), response.headers.get("Date")
        except (requests.RequestException, OSError, ValueError) as error:
            return Answer(error=_words(error), unusable=isinstance(error, _UNUSABLE)), None


def _answer(response: requests.Response) -> Answer:
    """Read an answer with the first part of its body; an endless one is cut off."""
    body = bytearray()
    for part in response.iter_content(_BODY_BYTES):
        body += part
        if len(body) > _BODY_BYTES:
            response.close()
            break
    text = body[:_BODY_BYTES].decode("utf-8", "replace")
    return Answer(response.status_code, text, response.headers.get("Retry-After"), bool(response.history))


def _words(error: Exception) -> str:
    """Say in a few words why there is no answer, without urllib3's chain of errors."""
    for kind, words in (
        (requests.exceptions.SSLError, "the certificate of the host is not trusted"),
        (requests.exceptions.ProxyError, "the proxy can't be reached or refuses"),
        (requests.exceptions.ConnectTimeout, "the host does not answer"),
        (requests.exceptions.ReadTimeout, "the host took the request and did not answer in time"),
        (requests.exceptions.InvalidURL, "the host is no address"),
    ):
        if isinstance(error, kind):
            return words
    text = str(error)
    for mark, words in (
        ("NameResolutionError", "the host's name can't be resolved"),
        ("Name or service not known", "the host's name can't be resolved"),
        ("Connection refused", "the host refuses connections"),
        ("Connection reset", "the connection was reset"),
        ("unreachable", "the network is unreachable"),
    ):
        if mark in text:
            return words
    return f"the connection failed ({type(error).__name__})"


class _Session(requests.Session):
    """Writes the body of a batch: the SDK's fields and then the events, byte for byte as they were frozen.

    The SDK gives the address, the headers and every other field. If it wrote the events too, each would be parsed and
    written once more, which is most of what a drain costs.
    """

    events = b""

    def post(self, url: str | bytes, data: Any = None, json: Any = None, **options: Any) -> requests.Response:  # noqa: ARG002 - the signature of requests
        """Send the fields of `data`, a JSON object, with `events` as its last one, compressed."""
        fields = [f"{dumps(name)}: {dumps(value)}" for name, value in loads(data).items()]
        body = b'{%b, "batch": [%b]}' % (", ".join(fields).encode(), self.events)
        headers = {**options.pop("headers", {}), "Content-Encoding": "gzip"}
        return super().post(url, gzip.compress(body, _LEVEL, mtime=0), headers=headers, **options)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Give no redirect target for any answer: a redirect is an answer like any other."""


def _session(host: str, env: Mapping[str, str]) -> _Session:
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
    if not requests.utils.should_bypass_proxies(host, no_proxy=env.get("no_proxy") or env.get("NO_PROXY")):
        for scheme, names in _PROXIES.items():
            proxy = next((env[name] for name in (*names, "all_proxy", "ALL_PROXY") if env.get(name)), None)
            if proxy is not None:
                session.proxies[scheme] = proxy
    return session


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
