"""What a client sends to the local PostHog in a test: good events, batches, and the request itself."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import requests

from tests.support.local_posthog import LocalPostHog

OK = {"status": "Ok"}


def event(**changes: Any) -> dict[str, Any]:
    """Return a good event, with these changes."""
    good = {"event": "ran", "distinct_id": "d1", "uuid": str(uuid4()), "properties": {"a": "é"}}
    return {**good, "timestamp": datetime.now(UTC).isoformat(), **changes}


def body(*events: Any, key: object = "phc_x", **more: object) -> bytes:
    """Encode a batch."""
    return json.dumps({"api_key": key, "batch": events, **more}).encode()


def send(session: requests.Session, server: LocalPostHog, data: bytes, **headers: str) -> requests.Response:
    """Post a body to the batch endpoint."""
    return session.post(f"{server.url}/batch/", data=data, headers=headers, timeout=5, allow_redirects=False)
