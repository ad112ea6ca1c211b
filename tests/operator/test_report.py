"""`ktx-flush report`: a person sees what would leave the machine, in one file that loads and runs nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flusher.counts import DELAYS
from flusher.report.facts import by_time
from flusher.report.page import bars, columns
from spool.beside import aside
from spool.home import Paths
from tests.support.captures import spool_named
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment, flush, flush_json
from tests.support.report import Page, report, spool_hostile


def test_the_page_holds_exactly_what_is_sent(home: Path, server: LocalPostHog) -> None:
    """Each waiting event with all it holds, those aside with them; then, of what was sent, the numbers."""
    spool_named(home, server.url, "scan", "ingest", text="\u00fcn\u00ef </pre> & \u202e", number=1.5)
    page = report(home)
    payloads = {event["uuid"]: event for event in map(json.loads, page.payloads)}
    assert flush_json(home)["delivered"] == len(payloads) == 3
    for event in server.accepted:
        if event["event"] == "install_first_run":
            event["properties"].pop("spool_sequence")  # given on its way
        assert payloads[event["uuid"]] == event
    assert Page(home / "spool" / "report.html").payloads == page.payloads
    later = report(home)
    assert later.payloads == []
    assert "Nothing waits." in later.text
    assert re.search(r"3\s*delivered", later.text)
    for name in ("scan: 1", "ingest: 1", f"{DELAYS[0]}: 3"):
        assert name in later.text


def test_the_page_tells_losses_runs_and_dead_letters(home: Path, server: LocalPostHog) -> None:
    """By cause; the last runs with their reasons; what was rejected, with its payload and why."""
    (dead, *_rest) = spool_named(home, server.url, "bad", "good")
    server.reject(dead)
    flush_json(home)
    spool_named(home, server.url, "scan")
    flush(home, "run", "--host", "http://127.0.0.1:9", "--max-retries", "0")
    assert flush_json(home, "purge", "--yes")["purged"] == 1
    page = report(home)
    assert [json.loads(text)["uuid"] for text in page.payloads] == [dead]
    assert "rejected with 400: event rejected" in page.text
    assert "purged: 1" in page.text
    assert page.text.index("the host refuses connections") < page.text.index("some events were rejected and are kept")


def test_hostile_names_fields_and_reasons_are_text(home: Path, server: LocalPostHog) -> None:
    """In payloads, charts, the table of runs: no element, no attribute and no address of theirs, no escape."""
    spool_hostile(home, server, "https://elsewhere.example")
    page = report(home)
    elements = (
        "html head meta title style body header h1 p code time main section div b span dl dt dd figure figcaption "
        "svg g rect line text h2 table thead tbody tr th td br details summary i pre footer"
    )
    assert set(page.elements) - set(elements.split()) == set()
    assert page.elements["style"] == 1
    assert [name for _tag, name, _value in page.attributes if name in ("src", "href") or name.startswith("on")] == []
    assert [value for _tag, _name, value in page.attributes if "elsewhere" in str(value)] == []
    assert page.text.count("https://elsewhere.example/b") > 3
    assert all(character.isprintable() or character == "\n" for character in page.source)
    (policy,) = [str(value) for _tag, _name, value in page.attributes if "default-src" in str(value)]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_the_page_is_private_and_may_be_written_again(home: Path, server: LocalPostHog, tmp_path: Path) -> None:
    """0600 in the spool and where it is wanted; an earlier report is replaced, without a trace of a draft."""
    spool_named(home, server.url, "a")
    os.umask(0o000)
    target = tmp_path / "there" / "telemetry page.html"
    target.parent.mkdir()
    for _ in range(2):
        assert report(home).payloads == report(home, "--output", target).payloads
    for path in (target, home / "spool" / "report.html"):
        assert path.stat().st_mode & 0o777 == 0o600
        assert [file.name for file in path.parent.iterdir() if "report" in file.name or "telemetry" in file.name] == [
            path.name
        ]


def _mine(path: Path) -> Path:
    path.write_text("mine")
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _link(path: Path) -> Path:
    _mine(path.with_suffix(".txt"))
    path.symlink_to(path.with_suffix(".txt"))
    return path


NOWHERE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a file of somebody's own": (_mine, "is there already"),
    "a link": (_link, "is there already"),
    "a folder": (_folder, "is there already"),
    "no folder there": (lambda path: path / "none" / "x.html", "can't be written: No such file or directory"),
    "below a file": (lambda path: _mine(path) / "x.html", "can't be written: Not a directory"),
    "where nobody writes": (lambda _path: Path("/proc/report.html"), "can't be written: "),
}


@pytest.mark.parametrize("where", NOWHERE)
def test_a_path_that_can_not_be_written_gets_one_line(
    where: str, home: Path, server: LocalPostHog, tmp_path: Path
) -> None:
    """Exit 2, what stands there stays, no browser is started, the spool is as it was."""
    spool_named(home, server.url, "a")
    make, words = NOWHERE[where]
    target = make(tmp_path / "target")
    before = {path: path.lstat() for path in sorted(tmp_path.rglob("*")) if "cache.db" not in path.name}
    env = environment(BROWSER=f"touch {tmp_path / 'opened'} %s")
    done = flush(home, "report", "--open", "--output", target, env=env)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr
    after = {path: path.lstat() for path in sorted(tmp_path.rglob("*")) if "cache.db" not in path.name}
    assert after.keys() == before.keys()
    assert {path: (entry.st_ino, entry.st_size) for path, entry in after.items()} == {
        path: (entry.st_ino, entry.st_size) for path, entry in before.items()
    }


def test_without_a_spool_there_is_nothing_to_show(home: Path, tmp_path: Path) -> None:
    """One line, exit 2, and nothing on disk; a page that was asked for elsewhere says that nothing waits."""
    done = flush(home, "report")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nothing to show" in done.stderr
    assert "Nothing waits." in report(home, "--output", tmp_path / "page.html").text
    assert not home.exists()


def test_who_is_off_still_sees_what_is_there(home: Path, server: LocalPostHog) -> None:
    """Off by a file that does not read: the page shows it, and nothing is sent; `disable` deletes both."""
    spool_named(home, server.url, "a")
    (home / "telemetry.json").write_text("?")
    page = report(home)
    assert len(page.payloads) == 2
    assert "off: nothing is sent (decided by unreadable telemetry.json)" in page.text
    assert server.requests == []
    assert flush(home, "disable").returncode == 0
    assert not (home / "spool" / "report.html").exists()


def test_many_and_large_events_make_a_page_of_bounded_size(home: Path, server: LocalPostHog) -> None:
    """Two hundred payloads, or as many as fit: the page says how many are left out, and counts them all."""
    spool_named(home, server.url, *["scan"] * 210)
    done = flush_json(home, "report")
    page = Page(Path(done["page"]))
    assert (done["waiting"], done["waiting_left_out"], len(page.payloads)) == (211, 11, 200)
    assert "11 more are left out here" in page.text
    assert "scan: 210" in page.text
    flush_json(home, "purge", "--yes")
    spool_named(home, server.url, *["large"] * 8, text="x" * 800_000)
    done = flush_json(home, "report")
    assert (done["waiting"], done["waiting_left_out"]) == (8, 2)
    assert Path(done["page"]).stat().st_size < 6_000_000


def test_the_browser_gets_the_file(home: Path, server: LocalPostHog, tmp_path: Path) -> None:
    """--open starts the browser of the person; where there is none, one line says so and the page is there."""
    spool_named(home, server.url, "a")
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    program.chmod(0o755)
    done = flush(home, "report", "--open", "--quiet", env=environment(BROWSER=f"{program} %s"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "opened").read_text().strip() == (home / "spool" / "report.html").as_uri()
    done = flush(home, "report", "--open", env=environment(BROWSER=f"{tmp_path}/none %s", PATH="/nowhere", DISPLAY=""))
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "no browser could be started here" in done.stderr


@pytest.mark.parametrize("missing", ["jinja2", "leather"])
def test_a_missing_package_is_named_with_what_to_do(missing: str, home: Path, server: LocalPostHog) -> None:
    """The report alone needs it: one line, exit 2; all other commands work."""
    spool_named(home, server.url, "a")
    code = f"import sys; sys.modules[{missing!r}] = None; from flusher.cli import main; main()"
    command = [sys.executable, "-c", code, "--home", str(home)]
    done = subprocess.run([*command, "report"], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert missing in done.stderr
    assert "pip install 'ktx-spool[report]'" in done.stderr
    assert not (home / "spool" / "report.html").exists()
    assert subprocess.run([*command, "status"], env=environment(), capture_output=True, check=False).returncode == 0


def test_columns_are_hours_or_days_without_gaps() -> None:
    """Up to two days by the hour, else by the day; the past and the future beyond have columns of their own."""
    now = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
    hour = int(now.timestamp()) // 3600
    assert by_time({}, now) == []
    day = by_time({hour: 2, hour - 3: 1}, now)
    assert (len(day), day[-1], day[-4], day[0]) == (24, ("23 Nov 12:00", 2), ("23 Nov 09:00", 1), ("22 Nov 13:00", 0))
    assert len(by_time({hour - 47: 1}, now)) == 48
    month = by_time({hour - 24 * 30: 1, hour: 1}, now)
    assert (len(month), month[0], month[-1]) == (31, ("24 Oct", 1), ("23 Nov", 1))
    assert by_time({hour + 5: 1}, now)[-1] == ("later", 1)
    ages = by_time({-17_000_000: 4, hour: 1, hour + 10**7: 2}, now)
    assert (len(ages), ages[0], ages[-1]) == (62, ("earlier", 4), ("later", 2))
    assert sum(count for _name, count in ages) == 7


def test_charts_hold_each_number_once() -> None:
    """Names that are cut alike keep their own bars; more than twelve end in one; a column of nothing is drawn."""
    drawn = bars("t", [("long" * 10 + str(number), number) for number in range(1, 16)])
    assert drawn.count("<rect") == 1 + 13
    assert "all others: 6" in drawn
    assert all(f"long: {number}" not in drawn for number in range(1, 16))
    assert bars("t", [("<b>", 0)]).count("&lt;b&gt;") == 2
    assert columns("t", [("a", 0), ("b", 10**9)]).count("<rect") == 1 + 2


def test_an_event_of_the_first_day_makes_a_page(home: Path, server: LocalPostHog) -> None:
    """A timestamp at the end of all calendars is no error."""
    spool_named(home, server.url, "a")
    for number, stamp in enumerate(("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")):
        uuid = f"0f8fad5b-d9cb-469f-a165-7086772895{number:02}"
        event = {"uuid": uuid, "event": "old", "distinct_id": "d", "timestamp": stamp, "properties": {"a": 1}}
        aside.put(Paths(home), uuid, json.dumps(event))
    assert len(report(home).payloads) == 4
    assert flush_json(home)["delivered"] == 4
    assert timedelta(seconds=json.loads((home / "spool" / "flush.log").read_text())["longest_delay_s"]).days > 700_000
