"""The report as one HTML page that loads nothing and runs nothing. Only this module imports jinja2."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from flusher.report.charts import bars, columns
from flusher.report.facts import Facts, by_time
from flusher.text import moment, printable
from spool.settings import VERSION

__all__ = ["MARK", "render"]

# The first bytes of every report: a file that begins so may be replaced by a newer one.
MARK = b"<!doctype html>\n<!-- ktx-flush report -->\n"
_MOST_RUNS = 20
_NOT_SENT = "The log tells of nothing sent."

Draw = Callable[[str, Sequence[tuple[str, int]]], str]


class Chart(NamedTuple):
    """A drawing with its title, and what is said where there is nothing to draw."""

    title: str
    drawing: Markup | None
    otherwise: str


def render(facts: Facts) -> bytes:
    """Give the page. Everything that an event, a server or a file brought is text in it, never markup."""
    folder = files("flusher.report")
    style = (folder / "page.css").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["printable"] = printable
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    page = template.render(
        facts=facts,
        command="ktx-flush" if facts.app == "ktx" else f"ktx-flush --app {facts.app}",
        status=facts.status,
        account=facts.status.account,
        next_attempt=moment(facts.status.flush.next_attempt),
        waiting=facts.waiting,
        dead=facts.dead,
        charts=_charts(facts),
        runs=facts.runs[:_MOST_RUNS],
        style=Markup(style),  # noqa: S704 - a file of this package
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        version=VERSION,
    )
    return MARK + page.encode("utf-8", "backslashreplace")


def _charts(facts: Facts) -> list[Chart]:
    delays = facts.delays if any(count for _name, count in facts.delays) else []
    now, account = facts.made_at, facts.status.account
    return [
        _chart(bars, "Waiting, by event", facts.waiting.by_event.items(), "Nothing waits."),
        _chart(columns, "Waiting, by time of the event", by_time(facts.waiting.by_hour, now), "Nothing waits."),
        _chart(bars, "Sent, by event", facts.sent_by_event.items(), _NOT_SENT),
        _chart(columns, "Sent, by time of delivery", by_time(facts.sent_by_hour, now), _NOT_SENT),
        _chart(columns, "How long events took to arrive", delays, _NOT_SENT),
        _chart(bars, "Lost, by cause", account.losses.items(), "Nothing was lost."),
    ]


def _chart(draw: Draw, title: str, rows: Iterable[tuple[str, int]], otherwise: str) -> Chart:
    found = list(rows)
    return Chart(title, Markup(draw(title, found)) if found else None, otherwise)  # noqa: S704 - made by ElementTree
