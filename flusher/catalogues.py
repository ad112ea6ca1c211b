"""What a flusher knows of a host's catalogue: its name in destination.json, for those that this package brings.

It imports no module of a host: whoever can write below the home could run code by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spool.errors import InvalidEventError

__all__ = ["complaint"]


def complaint(catalogue: str | None, message: Mapping[str, Any]) -> str:
    """Say what the catalogue of this name has against a sound event; empty where nothing, or it is not known."""
    if catalogue != "ktx":
        return ""
    from spool.ktx_events import CATALOGUE  # noqa: PLC0415 - msgspec, only where something lies aside

    # What the envelope adds is in no catalogue, and no field of a catalogue begins so.
    fields = {name: value for name, value in message["properties"].items() if not name.startswith(("$", "spool_"))}
    try:
        CATALOGUE.check_complete(message["event"], fields)
    except InvalidEventError as error:
        return str(error)
    return ""
