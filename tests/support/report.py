"""A report, taken apart; and a spool that holds what must never become markup."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

from flusher.journal import LoggedRun
from tests.support.captures import spool_named
from tests.support.local_posthog import LocalPostHog, status
from tests.support.processes import flush_json

__all__ = ["HOSTILE", "Page", "report", "spool_hostile"]


class Page(HTMLParser):
    """A page as a browser takes it apart: its elements with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.payloads: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count an element, and keep what it says of itself."""
        self.elements[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._inside.append(tag)
        if tag == "pre":
            self.payloads.append("")

    def handle_endtag(self, tag: str) -> None:
        """Leave an element."""
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        """Take text, apart from all markup."""
        self.text += data
        if "pre" in self._inside:
            self.payloads[-1] += data


def report(home: Path, *arguments: object) -> Page:
    """Write the report and take it apart."""
    done = flush_json(home, "report", *arguments)
    assert (done["exit_code"], done["stderr"]) == (0, "")
    return Page(Path(done["page"]))


HOSTILE = (
    "<script>document.title='pwned'</script>",
    "</pre></details><img src=URL/a onerror=\"document.title='pwned'\">",
    '"><svg onload=fetch("URL/b")>',
    "]]><style>@import 'URL/c';body{background:url(URL/d)}</style>",
    "{{ facts.home }}{% raw %}",
    "</title></style><link rel=stylesheet href=URL/e><meta http-equiv=refresh content='0;url=URL/f'>",
    "\x1b[31m\u202e\x00name",
)


def spool_hostile(home: Path, server: LocalPostHog, elsewhere: str) -> None:
    """Spool events whose names and fields are markup, rejected with markup as well; a log with such words too."""
    names = [text.replace("URL", elsewhere) for text in HOSTILE]
    spool_named(home, server.url, names[0], field=names[1])
    server.always(status(400, names[2]))
    assert flush_json(home)["rejected"] == 2
    server.behave()
    spool_named(home, server.url, *names, field=names[0], more={name: [name] for name in names})
    line = LoggedRun(started_at=datetime.now(UTC).isoformat(), result=names[1], reason=names[3], started_by=names[2])
    fields = {name: getattr(line, name) for name in LoggedRun.__slots__}
    (home / "spool" / "flush.log").write_text(json.dumps({**fields, "sent": dict.fromkeys(names, 2)}) + "\n")
