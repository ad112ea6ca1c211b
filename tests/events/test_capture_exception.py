"""`capture_exception`: once for each error, none that only leads out of the program, the host's frames as its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from spool import Telemetry
from spool.consent import decide_for_all
from spool.home import Paths
from tests.support.errors import load_module, raised
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, flush_json


@pytest.fixture
def telemetry(home: Path, server: LocalPostHog) -> Iterator[Telemetry]:
    """A host called ktx whose own packages are `ktx` and `acme_cli`."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never", packages=["acme_cli"])
    yield telemetry
    telemetry.close()


def reports(home: Path, server: LocalPostHog) -> list[list[dict[str, Any]]]:
    """Flush, and give the exceptions of each report that arrived."""
    assert flush_json(home)["exit_code"] == 0
    return [event["properties"]["$exception_list"] for event in server.accepted if event["event"] == "$exception"]


def test_an_error_is_reported_once_by_the_first_layer_whose_report_is_on_disk(
    home: Path, server: LocalPostHog, telemetry: Telemetry
) -> None:
    """A layer that met a closed door leaves it to the next one; after a true receipt nobody tells it again."""
    error = ValueError("x")
    decide_for_all(Paths(home), enabled=False)
    assert telemetry.capture_exception(error).state == "disabled"
    decide_for_all(Paths(home), enabled=True)
    assert telemetry.capture_exception(error)
    for later in (error, RuntimeError("wraps it")):
        later.__cause__ = None if later is error else error
        assert telemetry.capture_exception(later)[::2] == ("disabled", "reported already")
    assert len(reports(home, server)) == 1


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(3),
        typer.Exit(1),
        typer.Abort(),
        click.UsageError("x"),
        click.ClickException("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_only_leads_out_of_the_program_is_no_error_to_report(error: BaseException, telemetry: Telemetry) -> None:
    """Nobody has to mark Ctrl-C, an exit, or what an app says to the person."""
    assert telemetry.capture_exception(error).reason == "an expected error"


def test_frames_of_the_hosts_packages_are_its_own(
    home: Path, server: LocalPostHog, telemetry: Telemetry, tmp_path: Path
) -> None:
    """By the app's name and by `packages`: in the app, with their source; a script of the person's is neither."""
    source = "def go(call):\n    return call()\n"
    modules = [load_module(tmp_path / place, name, source) for place, name in (
        ("site-packages", "acme_cli.run"), ("checkout", "ktx.work"), ("home", "script"), ("site-packages", "lib.util"),
    )]  # fmt: skip

    call: Callable[[], object] = partial(json.loads, "{")
    for module in modules:
        call = partial(module.go, call)
    assert telemetry.capture_exception(raised(call))
    ((report,),) = reports(home, server)
    told = {frame["module"]: frame for frame in report["stacktrace"]["frames"]}
    assert [told[name]["in_app"] for name in ("acme_cli.run", "ktx.work", "script", "lib.util", "json.decoder")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert [told[name]["context_line"] for name in ("acme_cli.run", "ktx.work", "script")] == [
        "    return call()", "    return call()", None,
    ]  # fmt: skip


def test_secrets_that_are_hidden_once_are_in_no_error_after_that(
    home: Path, server: LocalPostHog, telemetry: Telemetry
) -> None:
    """For all reports and for the command's own text; those of one call come on top; bad ones break nothing."""
    telemetry.hide("correct horse", "")
    with pytest.raises(ValueError, match="horse"), telemetry.command(["ktx", "work"]):
        raise ValueError("correct horse")
    assert telemetry.capture_exception(KeyError("correct horse, battery staple"), secrets=["battery staple"])
    assert telemetry.capture_exception(KeyError("correct horse"), secrets=5)  # type: ignore[arg-type]  # on purpose
    assert len(reports(home, server)) == 2
    sent = json.dumps(server.accepted)
    assert [word for word in ("horse", "staple") if word in sent] == []
