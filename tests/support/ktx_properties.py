"""Properties of ktx's events as its own code sends them: what its catalogue must allow."""

from __future__ import annotations

from typing import Any

INGEST: dict[str, Any] = {
    "driver": "sqlite",
    "isDemoConnection": False,
    "schemaCount": 1,
    "tableCount": 12,
    "columnCount": 90,
    "rowsBucket": "<10k",
    "durationMs": 12.5,
    "outcome": "ok",
}
