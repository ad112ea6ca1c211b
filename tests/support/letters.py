"""What an operator's tests share: events that wait, dead letters, and what `list` says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from spool.beside import aside
from spool.home import Paths
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import flush, flush_json

__all__ = ["kill_some", "listed", "put_aside"]


def put_aside(home: Path, event: str = "other", **changes: Any) -> str:
    """Leave an event at the side door, as another program does; gives its uuid."""
    uuid = str(uuid4())
    message = {"uuid": uuid, "event": event, "distinct_id": "d", "timestamp": "2026-11-23T12:00:00Z"}
    aside.put(Paths(home), uuid, json.dumps({**message, "properties": {"a": 1}, **changes}))
    return uuid


def kill_some(home: Path, server: LocalPostHog, *uuids: str) -> None:
    """Make dead letters of these events; all others are delivered."""
    for uuid in uuids:
        server.reject(uuid)
    assert flush_json(home, "run", "--force")["rejected"] == len(uuids)


def listed(home: Path, *options: str) -> list[dict[str, Any]]:
    """Give the events of `list`: its lines and its JSON say the same."""
    report = flush_json(home, "list", *options)
    assert (report["exit_code"], report["stderr"]) == (0, "")
    events: list[dict[str, Any]] = report["dead" if "--dead" in options else "events"]
    assert [json.loads(line) for line in flush(home, "list", *options).stdout.splitlines()] == events
    return events
