"""Events that somebody else wrote (a file aside, an import): checked, and brought into the queue's form."""

from __future__ import annotations

import json
import uuid as uuids
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from spool.errors import InvalidEventError
from spool.event.build import MAX_DISTINCT_ID, MAX_EVENT_NAME, encode_message

__all__ = ["check_stored", "normalise"]


def check_stored(text: str) -> dict[str, Any]:
    """Parse an event that somebody else wrote (an aside file, an import); InvalidEventError if it is none.

    Holds what PostHog's batch endpoint demands of an event: one malformed event would fail a whole batch.
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
    if len(message["distinct_id"]) > MAX_DISTINCT_ID or len(message["event"]) > MAX_EVENT_NAME:
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
    """Write a checked event of somebody else as the queue wants it: ASCII, properties last, not empty."""
    properties = {"$lib": "ktx-spool", **message["properties"], "$ignore_sent_at": True}
    properties.pop("spool_sequence", None)
    head = {name: message[name] for name in ("uuid", "event", "distinct_id", "timestamp")}
    return encode_message({**head, "properties": properties})
