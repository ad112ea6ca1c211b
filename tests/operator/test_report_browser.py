"""The report in a real browser: nothing is loaded, nothing runs, and it is readable in every scheme."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.captures import spool_named
from tests.support.chromium import CHROMIUM, picture, rendered
from tests.support.local_posthog import LocalPostHog
from tests.support.report import HOSTILE, report, spool_hostile

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian's package chromium)"),
]


def test_a_browser_loads_and_runs_nothing_of_it(home: Path, server: LocalPostHog, tmp_path: Path) -> None:
    """No request arrives and the title stays. The same words as markup of a page do both; under our policy neither."""
    file = home / "spool" / "report.html"
    with LocalPostHog() as elsewhere:
        spool_hostile(home, server, elsewhere.url)
        page = report(home)
        dom = rendered(tmp_path, file)
        assert "<title>Telemetry of ktx</title>" in dom
        assert dom.count("<details>") == len(page.payloads) == len(HOSTILE) + 2
        assert dom.count('<svg class="chart') == page.elements["svg"] == 3
        assert "<script" not in dom
        assert elsewhere.requests == []
        words = "".join(HOSTILE[:4]).replace("URL", elsewhere.url)
        careless = tmp_path / "careless.html"
        careless.write_text(f"<title>Telemetry</title>{words}")
        assert "<title>pwned</title>" in rendered(tmp_path, careless)
        assert "/a" in [request.path for request in elsewhere.requests]
        elsewhere.clear()
        careless.write_text(page.source.replace("</main>", f"{words}</main>"))
        dom = rendered(tmp_path, careless)
        assert ("<title>Telemetry of ktx</title>" in dom, dom.count("<script")) == (True, 1)
        assert elsewhere.requests == []


def test_a_browser_shows_light_and_dark_as_the_person_wants(home: Path, server: LocalPostHog, tmp_path: Path) -> None:
    """The page's own style holds against its policy, in both schemes; by another hash there would be none."""
    spool_named(home, server.url, "scan", "ingest")
    page = report(home)
    file = home / "spool" / "report.html"
    plain = tmp_path / "plain.html"
    plain.write_text(page.source.replace("sha256-", "sha256-none"))
    pictures = [
        picture(tmp_path, file, width=1200, dark=False),
        picture(tmp_path, file, width=1200, dark=True),
        picture(tmp_path, plain, width=1200, dark=False),
    ]
    assert len(set(pictures)) == 3
    assert all(png.startswith(b"\x89PNG") for png in pictures)
