"""A key or an address with blanks around it, such as the newline of a secret's file, is what it was meant to be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from spool import Telemetry
from spool.launch import destination
from spool.settings import Limits
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, environment, flush_json

PADDED = [f"{KEY}\n", f"{KEY}\r\n", f" {KEY}\t\n"]


@pytest.fixture
def server() -> Iterator[LocalPostHog]:
    """A PostHog that knows one key."""
    with LocalPostHog(api_key=KEY) as server:
        yield server


@pytest.mark.parametrize("key", PADDED)
def test_a_host_may_give_what_a_secret_s_file_holds(key: str, home: Path, server: LocalPostHog) -> None:
    """`Path(...).read_text()` is handed over as it is; the address as well."""
    telemetry = Telemetry("ktx", "1", key, f" {server.url}\n", home, flush="never")
    assert telemetry.capture("scan_completed")
    telemetry.close()
    left = json.loads((home / "spool" / "destination.json").read_text())
    assert (left["project_key"], left["host"]) == (KEY, server.url)
    assert flush_json(home)["delivered"] == 2


@pytest.mark.parametrize("key", PADDED)
@pytest.mark.parametrize("way", ["variable", "option", "destination.json"])
def test_an_operator_may_give_it_by_each_way(way: str, key: str, home: Path, server: LocalPostHog) -> None:
    """`KTX_TELEMETRY_KEY=$(...)`, `--key`, and a file that an older release has written."""
    telemetry = Telemetry("ktx", "1", None, "https://elsewhere.example", home, flush="never")
    assert telemetry.capture("scan_completed")
    telemetry.close()
    host = f"{server.url} \n"
    if way == "variable":
        report = flush_json(home, env=environment(KTX_TELEMETRY_KEY=key, KTX_TELEMETRY_ENDPOINT=host))
    elif way == "option":
        report = flush_json(home, "run", "--key", key, "--host", host)
    else:
        path = home / "spool" / "destination.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "host": host, "project_key": key}))
        report = flush_json(home)
    assert (report["delivered"], report["exit_code"]) == (2, 0), report


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_blanks_alone_are_no_key(blank: str, home: Path, server: LocalPostHog) -> None:
    """Events wait until one is known; one that is known stays, and a variable of blanks says nothing."""
    telemetry = Telemetry("ktx", "1", blank, blank or server.url, home, flush="never")
    assert telemetry.capture("scan_completed")
    telemetry.close()
    env = environment(KTX_TELEMETRY_KEY=blank, KTX_TELEMETRY_ENDPOINT=blank)
    assert flush_json(home, env=env)["result"] == "no project key"
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("scan_completed")
    telemetry.close()
    destination.leave(telemetry.paths, {"host": server.url, "project_key": None}, Limits())  # type: ignore[arg-type]
    assert flush_json(home, env=env)["delivered"] == 3


def test_a_personal_key_is_refused_with_blanks_before_it() -> None:
    """It would be able to read the project."""
    with pytest.raises(ValueError, match="personal key"):
        Telemetry("ktx", "1", " phx_1")
