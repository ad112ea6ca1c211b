"""An event is frozen at capture: ASCII JSON, whatever the host hands over."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spool.errors import InvalidEventError, QueueDamagedError
from spool.event import check_stored, compose, envelope, freeze, normalise, rfc3339
from spool.queue.rows import decode, encode

SURROGATES = st.text(st.characters(codec=None, categories=None))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SURROGATES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SURROGATES, inner, max_size=4),
    max_leaves=12,
)


def frozen(properties: Any, **options: Any) -> dict[str, Any]:
    """Build an event and read it back."""
    arguments = {"distinct_id": "d", "timestamp": None, "uuid": None, **options}
    event = freeze(compose("e", properties, envelope(None, geoip_disable=True), **arguments), 10**6)
    assert event.text.isascii()
    assert "NaN" not in event.text.replace('"NaN', "")
    message: dict[str, Any] = json.loads(event.text)
    return message


@given(st.dictionaries(SURROGATES, VALUES, max_size=5))
def test_any_text_and_any_number_becomes_json_that_every_parser_reads(properties: dict[str, Any]) -> None:
    """No lone surrogate, no NaN; what needs no mending arrives as it was."""
    message = frozen(properties)
    json.dumps(message, ensure_ascii=False).encode("utf-8")  # a lone surrogate would fail here
    check_stored(json.dumps(message))
    for key, value in properties.items():
        if isinstance(value, str) and value.isascii() and key.isascii() and not key.startswith("$"):
            assert message["properties"][key] == value
        if isinstance(value, float) and not math.isfinite(value) and key.isascii() and key[:1] != "$":
            assert message["properties"][key] is None


@given(SURROGATES.filter(lambda text: text.isascii()), st.floats(0, 2**33))
def test_a_row_of_the_queue_reads_back_as_it_was_written(text: str, stored_at: float) -> None:
    """And a row with any one character changed does not read at all."""
    row = encode(stored_at, text)
    assert decode(row).text == text
    assert abs(decode(row).stored_at - stored_at) < 0.001
    for position in (0, len(row) // 2, len(row) - 1):
        changed = row[:position] + chr(ord(row[position]) ^ 1) + row[position + 1 :]
        with pytest.raises(QueueDamagedError):
            decode(changed)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (date(2026, 11, 23), "2026-11-23"),
        (datetime(2026, 11, 23, 1, tzinfo=timezone(timedelta(hours=1))), "2026-11-23T00:00:00.000000Z"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ((1, 2), [1, 2]),
        (float("inf"), None),
        ("\ud83d\ude00", "\U0001f600"),
        ("a\r\nb\0", "a\r\nb\0"),
    ],
)
def test_values_that_posthogs_sdk_takes_are_taken(value: object, written: object) -> None:
    """Dates, UUIDs and tuples, as posthog-python writes them; line ends stay as they are."""
    assert frozen({"x": value})["properties"]["x"] == written


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, {(1, 2): 3}])
def test_what_is_no_json_is_refused(value: object) -> None:
    """A programming mistake, named."""
    with pytest.raises(InvalidEventError, match="no JSON"):
        frozen({"x": value})


def test_a_cycle_is_refused() -> None:
    """A dictionary within itself ends in an error and no endless loop."""
    cycle: dict[str, Any] = {}
    cycle["x"] = cycle
    with pytest.raises(InvalidEventError):
        frozen(cycle)


def test_the_envelope_beats_the_hosts_own_properties() -> None:
    """Nobody can switch $ignore_sent_at off by a property of that name."""
    assert frozen({"$ignore_sent_at": False, "$lib": "x"})["properties"]["$lib"] == "ktx-spool"


@pytest.mark.parametrize(
    "given_uuid", ["0189A4E8-1B2C-7D3E-8F40-0123456789AB", UUID("0189a4e8-1b2c-7d3e-8f40-0123456789ab")]
)
def test_a_given_uuid_is_written_in_lower_case(given_uuid: object) -> None:
    """PostHog deduplicates by its text."""
    assert frozen({}, uuid=given_uuid)["uuid"] == "0189a4e8-1b2c-7d3e-8f40-0123456789ab"


def test_a_given_timestamp_is_frozen_as_utc() -> None:
    """With microseconds; a moment out of range is refused."""
    moment = datetime(2026, 11, 23, 23, 30, 0, 5, tzinfo=timezone(-timedelta(hours=2)))
    assert frozen({}, timestamp=moment)["timestamp"] == "2026-11-24T01:30:00.000005Z"
    assert rfc3339(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000000Z"
    with pytest.raises(InvalidEventError):
        frozen({}, timestamp="2026-11-23")


GOOD: dict[str, Any] = {
    "uuid": "0189a4e8-1b2c-7d3e-8f40-0123456789ab",
    "event": "e",
    "distinct_id": "d",
    "timestamp": "2026-11-23T12:00:00Z",
    "properties": {"x": 1, "spool_sequence": 99},
}


@pytest.mark.parametrize(
    "fault",
    [
        {"uuid": "no"},
        {"uuid": "0189A4E8-1B2C-7D3E-8F40-0123456789AB"},
        {"event": ""},
        {"event": 5},
        {"distinct_id": None},
        {"distinct_id": "x" * 201},
        {"timestamp": "yesterday"},
        {"timestamp": "2026-11-23T12:00:00"},
        {"properties": []},
    ],
)
def test_an_event_of_somebody_else_is_checked_before_it_enters(fault: dict[str, Any]) -> None:
    """One malformed event would fail its whole batch at the server."""
    check_stored(json.dumps(GOOD))
    with pytest.raises(InvalidEventError):
        check_stored(json.dumps({**GOOD, **fault}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_what_is_no_event_at_all_is_refused(text: str) -> None:
    """Nothing that stands in an aside file raises anything else."""
    with pytest.raises(InvalidEventError):
        check_stored(text)


def test_an_event_of_somebody_else_gets_its_number_here() -> None:
    """A number that it brings along is dropped, and properties stand last for the queue to add its own."""
    text = normalise(check_stored(json.dumps(GOOD)))
    assert text.endswith("}}")
    assert "spool_sequence" not in text
    assert json.loads(text)["properties"]["$ignore_sent_at"] is True
