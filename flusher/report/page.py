"""The report as one HTML page that loads nothing and runs nothing, with its charts as SVG. The page brings the colours.

Only this module imports jinja2, markupsafe and leather.
"""

from __future__ import annotations

import base64
import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from leather import Chart, theme
from markupsafe import Markup

from flusher.report.facts import Facts, by_time
from flusher.text import moment, printable
from spool.settings import VERSION

__all__ = ["MARK", "bars", "columns", "render"]

# The first bytes of every report: a file that begins so may be replaced by a newer one.
MARK = b"<!doctype html>\n<!-- ktx-flush report -->\n"
_MOST_RUNS = 20
_NOT_SENT = "The log tells of nothing sent."
# Units of the drawing: a page scales it to its width, and text of 12 stays readable on a phone.
_WIDTH = 480
_COLUMNS_HEIGHT = 200
_BAR_HEIGHT = 26
_AXIS_HEIGHT = 20
_MOST_BARS = 12
_MOST_LABEL_CHARS = 21
# Of many columns some are named: a name as "22 Nov 09:00" takes a fifth of the width.
_MOST_NAMES = 4
_FEW_COLUMNS = 8
theme.margin = 0.02
theme.tick_font_size, theme.tick_font_char_height, theme.tick_font_char_width = 12, 12, 8

Draw = Callable[[str, Sequence[tuple[str, int]]], str]


class Figure(NamedTuple):
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
        charts=_figures(facts),
        runs=facts.runs[:_MOST_RUNS],
        style=Markup(style),  # noqa: S704 - a file of this package
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        version=VERSION,
    )
    return MARK + page.encode("utf-8", "backslashreplace")


def _figures(facts: Facts) -> list[Figure]:
    delays = facts.delays if any(count for _name, count in facts.delays) else []
    now, account = facts.made_at, facts.status.account
    return [
        _figure(bars, "Waiting, by event", facts.waiting.by_event.items(), "Nothing waits."),
        _figure(columns, "Waiting, by time of the event", by_time(facts.waiting.by_hour, now), "Nothing waits."),
        _figure(bars, "Sent, by event", facts.sent_by_event.items(), _NOT_SENT),
        _figure(columns, "Sent, by time of delivery", by_time(facts.sent_by_hour, now), _NOT_SENT),
        _figure(columns, "How long events took to arrive", delays, _NOT_SENT),
        _figure(bars, "Lost, by cause", account.losses.items(), "Nothing was lost."),
    ]


def _figure(draw: Draw, title: str, rows: Iterable[tuple[str, int]], otherwise: str) -> Figure:
    found = list(rows)
    return Figure(title, Markup(draw(title, found)) if found else None, otherwise)  # noqa: S704 - made by ElementTree


# -- charts ---------------------------------------------------------------------------------------------------


def bars(title: str, rows: Sequence[tuple[str, int]]) -> str:
    """Draw a bar for each row, the first on top, with its name and its number; more than twelve end in one."""
    rows = sorted(rows, key=lambda row: (-row[1], row[0]))
    rest = sum(count for _name, count in rows[_MOST_BARS:])
    rows = [*rows[:_MOST_BARS], *([("all others", rest)] if rest else [])]
    labels = [printable(name, _MOST_LABEL_CHARS) for name, _count in rows]
    chart = Chart()
    # Two names that are cut may be alike: a bar goes by its place.
    chart.add_bars([(count, str(place)) for place, (_name, count) in enumerate(rows)])
    chart.add_x_scale(0, max(1, *(count for _name, count in rows)) * 1.2)  # room for the number
    chart.add_x_axis(tick_formatter=lambda _value, _place, _count: "")
    chart.add_y_axis(tick_formatter=lambda value, _place, _count: labels[int(value)])
    return _drawing(chart, "bars", title, len(rows) * _BAR_HEIGHT + _AXIS_HEIGHT, rows[::-1])


def columns(title: str, rows: Sequence[tuple[str, int]]) -> str:
    """Draw a column for each row, from left to right; the number of each shows where the pointer is."""
    step = -(-len(rows) // _MOST_NAMES) if len(rows) > _FEW_COLUMNS else 1
    names = [name if place % step == step // 2 else "" for place, (name, _count) in enumerate(rows)]
    chart = Chart()
    chart.add_columns([(str(place), count) for place, (_name, count) in enumerate(rows)])
    chart.add_x_axis(tick_formatter=lambda value, _place, _count: names[int(value)])
    chart.add_y_scale(0, max(1, *(count for _name, count in rows)))
    chart.add_y_axis(tick_formatter=_whole)
    return _drawing(chart, "columns", title, _COLUMNS_HEIGHT, rows)


def _whole(value: Decimal, _place: int, _count: int) -> str:
    return f"{int(value):,}" if value == int(value) else ""


def _drawing(chart: Chart, kind: str, title: str, height: int, rows: Sequence[tuple[str, int]]) -> str:
    """Give the SVG of a chart; each of its shapes tells its own name and number."""
    seen = height - _AXIS_HEIGHT if kind == "bars" else height  # bars tell their numbers: their axis is left out
    root = ET.Element("svg", {"class": f"chart {kind}", "viewBox": f"0 0 {_WIDTH} {seen}", "role": "img"})
    ET.SubElement(root, "title").text = title
    group = chart.to_svg_group(_WIDTH, height)
    root.append(group)
    series = next(element for element in group.iter("g") if "series" in element.get("class", ""))
    for shape, (name, count) in zip(list(series), rows, strict=True):
        ET.SubElement(shape, "title").text = f"{printable(name)}: {count:,}"
        if kind == "bars":
            end = {"x": f"{float(shape.get('width', 0)) + 6:.1f}", "dy": "0.35em"}
            middle = float(shape.get("y", 0)) + float(shape.get("height", 0)) / 2
            ET.SubElement(series, "text", {**end, "y": f"{middle:.1f}"}).text = f"{count:,}"
    return ET.tostring(root, encoding="unicode")
