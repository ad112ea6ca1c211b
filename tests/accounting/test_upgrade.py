"""A spool that an older release wrote is read by this one: everything in it is delivered, and the account adds up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from spool import Limits, Telemetry
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, ROOT, flush_json, status

# One folder for each release that changed a file; scripts/write_upgrade_sample.py wrote it then, and nobody since.
SAMPLES = sorted(path.name for path in (ROOT / "tests" / "data").glob("spool-*"))

# As the sample's own: nothing in it expires in a later year.
FOR_EVER = Limits(max_age_s=1e10)


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest, home: Path) -> dict[str, Any]:
    """Copy the home of a release; give what it holds."""
    folder = ROOT / "tests" / "data" / request.param
    shutil.copytree(folder / "home", home)
    found: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    assert (found["waiting"], found["dead"], found["spans"], found["losses"]) != ({}, {}, [], {})
    return found


def test_an_older_spool_is_accounted_for_as_it_was(sample: dict[str, Any], home: Path) -> None:
    """Nothing is damaged or lost by reading it; what waits is what waited, unchanged to the letter of its values."""
    before = status(home)
    aside = before["aside"]
    assert aside > 0
    assert before["open_spans"] == len(sample["spans"])
    account = {**sample["account"]}
    account["captured"] += aside
    account["pending"] += aside
    assert before["accounting"] == account
    assert {event["uuid"]: event for event in flush_json(home, "list")["events"]} == sample["waiting"]
    letters = flush_json(home, "list", "--dead")["dead"]
    assert {letter["event"]["uuid"]: letter["reason"] for letter in letters} == sample["dead"]
    assert not (home / "spool" / "quarantine").exists()


def test_all_of_an_older_spool_is_delivered(sample: dict[str, Any], home: Path, server: LocalPostHog) -> None:
    """With the uuids and moments of then, dead letters once they are retried, the killed command as aborted."""
    report = flush_json(home, "run", "--host", server.url, "--key", KEY)
    assert (report["exit_code"], report["remaining"], report["recovered_spans"]) == (0, 0, len(sample["spans"]))
    assert flush_json(home, "retry")["retried"] == len(sample["dead"])
    assert flush_json(home, "run", "--host", server.url, "--key", KEY)["exit_code"] == 0
    got = {event["uuid"]: event for event in server.events()}
    loss = {uuid for uuid, event in got.items() if event["event"] == "spool_loss"}
    assert got.keys() - loss == {*sample["waiting"], *sample["dead"], *sample["spans"]}
    assert [got[uuid]["properties"]["lostByCause"] for uuid in loss] == [sample["losses"]]
    for uuid, event in sample["waiting"].items():
        assert (got[uuid]["timestamp"], got[uuid]["event"]) == (event["timestamp"], event["event"])
        assert got[uuid]["properties"].items() >= event["properties"].items()
    for uuid in sample["spans"]:
        assert got[uuid]["properties"]["spool_recovered"] == "killed"
    after = status(home)
    assert (after["accounting"]["pending"], after["accounting"]["dead"]) == (0, 0)
    assert after["losses"] == sample["losses"]


def test_a_host_of_this_release_goes_on_in_an_older_spool(
    sample: dict[str, Any], home: Path, server: LocalPostHog
) -> None:
    """The install stays who it was, and the numbers of its events go on without a gap, the killed command first."""
    last = max(event["properties"].get("spool_sequence", 0) for event in sample["waiting"].values())
    known = {event["distinct_id"] for event in sample["waiting"].values()}
    telemetry = Telemetry("ktx", "2", KEY, server.url, home, limits=FOR_EVER, flush="never")
    receipt = telemetry.capture("newer")
    assert receipt.state == "queued"
    assert {telemetry.identity.install_id} == known
    telemetry.close()
    assert flush_json(home)["exit_code"] == 0
    (newer,) = (event for event in server.events() if event["uuid"] == receipt.uuid)
    assert newer["properties"]["spool_sequence"] == last + len(sample["spans"]) + 1
