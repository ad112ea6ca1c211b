"""The report's charts, as SVG for a page that brings the colours. Only this module imports leather."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from decimal import Decimal

from leather import Chart, theme

from flusher.text import printable

__all__ = ["bars", "columns"]

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
