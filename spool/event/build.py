"""The frozen message: built once at capture, and never changed afterwards; and the check of one that others wrote.

    {"uuid", "event", "distinct_id", "timestamp", "properties": {...}}

ASCII JSON. `properties` stands last and is never empty, so that the queue can add `spool_sequence` to it
without parsing. Source of the format: PostHog's capture API, posthog-python 7.91.
"""

from __future__ import annotations

import json
import math
import uuid as uuids
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from spool.errors import EventTooLargeError, InvalidEventError

__all__ = ["Event", "check_stored", "compose", "encode_message", "freeze", "normalise", "rfc3339"]

# PostHog drops what is longer.
_MAX_DISTINCT_ID = 200
_MAX_EVENT_NAME = 200
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
# Deeper than any event, and far from where the parsers on the way give up.
_MAX_DEPTH = 100


class Event(NamedTuple):
    """One event, frozen: its uuid and its text, without the sequence number that the queue will add."""

    uuid: str
    text: str


def compose(  # noqa: PLR0913 - the parts of an event, by name
    event: str,
    properties: Mapping[str, Any] | None,
    envelope: Mapping[str, Any],
    *,
    distinct_id: str,
    timestamp: datetime | None,
    uuid: str | uuids.UUID | None,
) -> dict[str, Any]:
    """Put an event together. The envelope wins over a property of the same name.

    Raises InvalidEventError for what is no event.
    """
    if not isinstance(event, str) or not event.strip() or len(event) > _MAX_EVENT_NAME:
        raise InvalidEventError(f"an event's name is a text of 1 to {_MAX_EVENT_NAME} characters, not {event!r:.80}")
    if not isinstance(distinct_id, str) or not distinct_id or len(distinct_id) > _MAX_DISTINCT_ID:
        raise InvalidEventError(f"{event}: distinct_id is a text of 1 to {_MAX_DISTINCT_ID} characters")
    if properties is not None and not isinstance(properties, Mapping):
        raise InvalidEventError(f"{event}: properties are a mapping, not {type(properties).__name__}")
    return {
        "uuid": _uuid(event, uuid),
        "event": event,
        "distinct_id": distinct_id,
        "timestamp": _written(datetime.now(UTC) if timestamp is None else _moment(event, timestamp)),
        "properties": {**(properties or {}), **envelope},
    }


def freeze(message: Mapping[str, Any], max_bytes: int) -> Event:
    """Give an event as the text that it is from now on.

    NaN and the infinities become null, lone surrogates U+FFFD. Raises InvalidEventError for what is no
    JSON, EventTooLargeError over `max_bytes`.
    """
    text = encode_message(message)
    if len(text) > max_bytes:
        raise EventTooLargeError(f"{message['event']}: {len(text)} bytes, and {max_bytes} are the limit")
    return Event(message["uuid"], text)


def rfc3339(moment: datetime) -> str:
    """Write a moment as UTC with microseconds: 2026-11-23T12:00:00.000000Z. A naive one is local time."""
    return _written(moment.astimezone(UTC))


def _written(moment: datetime) -> str:
    """Write a moment that is in UTC."""
    return moment.isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def _moment(event: str, timestamp: object) -> datetime:
    if not isinstance(timestamp, datetime):
        raise InvalidEventError(f"{event}: timestamp is a datetime, not {type(timestamp).__name__}")
    try:
        return timestamp.astimezone(UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidEventError(f"{event}: the timestamp is out of range") from error


def _uuid(event: str, given: str | uuids.UUID | None) -> str:
    if given is None:
        return str(uuids.uuid4())
    try:
        return str(uuids.UUID(str(given)))
    except ValueError as error:
        raise InvalidEventError(f"{event}: {str(given)[:60]!r} is no UUID") from error


def encode_message(message: Mapping[str, Any]) -> str:
    """Write an event as ASCII JSON; InvalidEventError if it is none."""
    try:
        try:
            text = _ENCODER.encode(message)
            plain = "\\ud" not in text and text.count("{") + text.count("[") <= _MAX_DEPTH
        except (TypeError, ValueError):
            plain = False
        if not plain:  # rare: something in it needs a second look
            text = _ENCODER.encode(_clean(message))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEventError(f"{message['event']}: its properties are no JSON: {error}") from error
    else:
        return text


def _clean(value: Any, depth: int = 0) -> Any:
    """Give a value as JSON can say it; ValueError for one nested too deep, or within itself."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH} levels, or within itself")
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, depth + 1) for item in value]
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, uuids.UUID):
        return str(value)
    return value


# -- events that another program wrote: a file aside, an import ------------------------------------------------


def check_stored(text: str) -> dict[str, Any]:
    """Parse an event that another program wrote; InvalidEventError if it is none.

    Checks what PostHog's batch endpoint demands of an event: one malformed event would fail a whole batch.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidEventError(f"no JSON: {error}") from error
    if not isinstance(message, dict):
        raise InvalidEventError("no JSON object")
    for name in ("uuid", "event", "distinct_id", "timestamp"):
        if not isinstance(message.get(name), str) or not message[name].strip():
            raise InvalidEventError(f"{name} is missing or no text")
    if not isinstance(message.get("properties"), dict):
        raise InvalidEventError("properties are missing or no object")
    if len(message["distinct_id"]) > _MAX_DISTINCT_ID or len(message["event"]) > _MAX_EVENT_NAME:
        raise InvalidEventError("event or distinct_id is too long")
    try:
        if str(uuids.UUID(message["uuid"])) != message["uuid"]:
            raise InvalidEventError("uuid is not written in lower case with hyphens")
        if datetime.fromisoformat(message["timestamp"]).tzinfo is None:
            raise InvalidEventError("timestamp has no time zone")
    except ValueError as error:
        raise InvalidEventError(f"uuid or timestamp doesn't read: {error}") from error
    return message


def normalise(message: Mapping[str, Any]) -> str:
    """Write an event that was checked as the queue needs it: ASCII, properties last, not empty."""
    properties = {"$lib": "ktx-spool", **message["properties"], "$ignore_sent_at": True}
    properties.pop("spool_sequence", None)
    head = {name: message[name] for name in ("uuid", "event", "distinct_id", "timestamp")}
    return encode_message({**head, "properties": properties})
