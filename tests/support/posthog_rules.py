"""What PostHog's capture service takes, refuses and stores: pure rules, and records of what arrived."""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, Self
from uuid import UUID, uuid4

from tests.support.posthog_answers import Answer, Json, status

MAX_BODY_BYTES = 20 * 2**20  # PostHog's limit of a decompressed batch
MAX_EVENT_BYTES = 1_000_000  # Kafka's limit of a message, and a message is one event
MAX_DISTINCT_ID = 200  # characters; PostHog cuts off the rest
FUTURE_LIMIT = timedelta(hours=23)  # an event further ahead than this happened now, says PostHog
UUID_FORM = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}(\1[0-9a-f]{4}){2}\1[0-9a-f]{12}", re.IGNORECASE)
TOO_BIG = status(413, "maximum event size exceeded")


@dataclass(frozen=True)
class Request:
    """One request as it arrived, and the status it was answered with (0: none)."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes  # as sent, so usually gzip
    at_s: float  # of its arrival, on the monotonic clock
    status: int = 0
    content: Json = field(default_factory=dict)  # the body unpacked; {} if it holds no batch
    size_bytes: int = 0  # of the body unpacked
    refusal: Answer | None = None  # to a body that holds no batch

    @property
    def events(self) -> int:
        """How many events its batch holds."""
        return len(self.content.get("batch", []))

    @property
    def uuids(self) -> tuple[str, ...]:
        """The uuids of its events as sent, one per event; "" where an event has none."""
        batch = self.content.get("batch", [])
        return tuple(str(event.get("uuid", "")) if isinstance(event, dict) else "" for event in batch)

    def unpacked(self, max_bytes: int) -> Self:
        """Return it with `content`, or with the `refusal` (400, 413) of a body that cannot be read."""
        gzipped = self.headers.get("Content-Encoding") == "gzip" or self.body.startswith(b"\x1f\x8b\x08")
        try:
            text = _inflate(self.body, max_bytes) if gzipped else self.body
            if len(text) > max_bytes:
                return replace(self, refusal=TOO_BIG)
            content = json.loads(text.decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError, zlib.error) as error:
            return replace(self, refusal=status(400, f"failed to parse request: {error}"))
        if not isinstance(content, dict) or not isinstance(content.get("batch"), list):
            return replace(self, refusal=status(400, "request holds no batch"))
        return replace(self, content=content, size_bytes=len(text))


def _inflate(body: bytes, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)  # 31: with gzip's header and checksum
    text = stream.decompress(body, max_bytes + 1)
    if len(text) <= max_bytes and not stream.eof:
        raise ValueError("invalid gzip data")
    return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")  # Python reads NaN and Infinity, PostHog does not


def distinct_id(event: Json) -> str:
    """Return the id as PostHog stores it, from the event or else its properties; "" if there is none."""
    own = event.get("distinct_id", event.get("$distinct_id"))
    found = event.get("properties", {}).get("distinct_id") if own is None else own
    text = found if isinstance(found, str) else json.dumps(found, separators=(",", ":"))
    return "" if found is None else text[:MAX_DISTINCT_ID]


def fault(event: object) -> str | None:
    """Say why PostHog answers 400 to a batch that holds this event; None if it does not."""
    if not isinstance(event, dict):
        return "event is no object"
    if not isinstance(event.get("event"), str) or event["event"] == "":
        return "event submitted with an empty event name"
    if not isinstance(event.get("properties", {}), dict):
        return "properties are no object"
    if distinct_id(event) == "":
        return "event submitted without a distinct_id"
    uuid = event.get("uuid")
    if uuid not in (None, "") and not (isinstance(uuid, str) and UUID_FORM.fullmatch(uuid)):
        return "uuid is no UUID"
    return None if isinstance(event.get("timestamp"), str | None) else "timestamp is no string"


def batch_refusal(batch: Sequence[Any]) -> Answer | None:
    """Say what PostHog answers to these events if it does not take them; None if it takes them."""
    if batch == []:
        return status(400, "request holds no event")
    for event in batch:
        if (reason := fault(event)) is not None:
            return status(400, reason)
    return TOO_BIG if any(_size_bytes(event) > MAX_EVENT_BYTES for event in batch) else None


def _size_bytes(event: Json) -> int:
    return len(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(errors="replace"))


def _time(value: object) -> datetime | None:
    with suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return at and (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    return None


def stored_at(event: Json, sent_at: object, now: datetime) -> datetime:
    """Return the time that PostHog stores: shifted by the client's clock skew unless `$ignore_sent_at`."""
    at = _time(event.get("timestamp"))
    sent = None if event.get("properties", {}).get("$ignore_sent_at") is True else _time(sent_at)
    if at is not None and sent is not None:
        with suppress(OverflowError):
            at -= sent - now
    return now if at is None or at - now > FUTURE_LIMIT else at


@dataclass(frozen=True)
class Stored:
    """One accepted copy; copies with the same `key` become one in PostHog."""

    event: Json
    key: tuple[str, str, str, str]  # day in UTC, event, distinct_id, uuid
    received_at: datetime


def stored_copy(event: Json, sent_at: object, now: datetime) -> Stored:
    """Return the copy that PostHog stores of an event; one sent without a uuid gets one."""
    uuid = event.get("uuid") or str(uuid4())
    day = stored_at(event, sent_at, now).date().isoformat()
    return Stored({**event, "uuid": uuid}, (day, event["event"], distinct_id(event), str(UUID(uuid))), now)


def rows(stored: Sequence[Stored]) -> list[Json]:
    """Return each event once, with its number of copies and the time of its first."""
    copies: dict[tuple[str, str, str, str], list[Stored]] = {}
    for copy in stored:
        copies.setdefault(copy.key, []).append(copy)
    return [
        {**same[-1].event, "copies": len(same), "received_at": same[0].received_at.isoformat()}
        for same in copies.values()
    ]
