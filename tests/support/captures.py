"""Events of a host, captured in this process; nothing of them is sent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from spool import Telemetry
from tests.support.processes import KEY

__all__ = ["spool_events", "spool_named"]


def spool_events(
    home: Path, url: str, count: int = 5, name: str = "scan_completed", *, key: str | None = KEY
) -> list[str]:
    """Capture so many events of one name, each with its number as a property; gives their uuids."""
    return _captured(home, url, key, ((name, {"number": number}) for number in range(count)))


def spool_named(home: Path, url: str, *names: str, **properties: object) -> list[str]:
    """Capture an event of each name, all with the same properties; gives their uuids."""
    return _captured(home, url, KEY, ((name, properties) for name in names))


def _captured(home: Path, url: str, key: str | None, events: Iterable[tuple[str, dict[str, object]]]) -> list[str]:
    telemetry = Telemetry("ktx", "1.2.3", key, url, home, flush="never")
    receipts = [telemetry.capture(name, properties) for name, properties in events]
    telemetry.close()
    assert all(receipts)
    return [str(receipt.uuid) for receipt in receipts]
