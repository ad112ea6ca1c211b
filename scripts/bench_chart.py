"""What people look at: a table with a bar for each figure, and curves, on a terminal and as SVG."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from rich.bar import Bar
from rich.table import Table

from scripts.bench_growth import Curve
from scripts.bench_measure import Row

__all__ = ["curve_table", "drawing", "table"]

_WIDTH, _HEIGHT, _MARGIN, _ACROSS = 300, 170, 36, 3
_STEPS = " ▁▂▃▄▅▆▇█"


def table(rows: Sequence[Row]) -> Table:
    """Give a line for each row; the bar is full where its target just holds."""
    shown = Table(title="Figures", title_justify="left", title_style="bold")
    for name in ("figure", "ours", "peer", "ratio", "target", "met", "of the target", "note"):
        shown.add_column(name, justify="right" if name in ("ours", "ratio") else "left")
    for row in rows:
        peer = "" if row.peer is None else f"{_number(row.peer)}  {row.peer_name}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.met]
        shown.add_row(
            row.figure, f"{_number(row.ours)} {row.unit}", peer, ratio, target(row), met, _bar(row) or "", row.note
        )
    return shown


def target(row: Row) -> str:
    """Say in a word what a row is to reach."""
    if row.target is None:
        return ""
    unit = f" {row.unit}" if row.target.of == "value" else ""
    return f"{row.target.sign} {row.target.number:g}{unit}"


def _bar(row: Row) -> Bar | None:
    """Give how much of what is allowed is used, or of what is asked is reached; at most twice the target."""
    measured = row.ratio if row.target is not None and row.target.of == "ratio" else row.ours
    if row.target is None or measured is None:
        return None
    return Bar(2.0, 0, min(2.0, measured / row.target.number), width=16, color="green" if row.met else "red")


def _number(value: float) -> str:
    if value >= 100:  # noqa: PLR2004 - three digits are enough for every figure
        return f"{value:,.0f}"
    return f"{value:.3g}"


def curve_table(curves: Sequence[Curve]) -> Table:
    """Give a line for each curve: its values at every size, and its course."""
    shown = Table(title="Growth", title_justify="left", title_style="bold")
    for name in ("figure", "unit", "at", "values", "course", ""):
        shown.add_column(name)
    for curve in curves:
        sizes = " ".join(f"{size:>9,}" for size in curve.sizes)
        values = " ".join(f"{_number(value):>9}" for value in curve.values)
        shown.add_row(curve.name, curve.unit, sizes, values, _course(curve), "[red]steep[/]" if curve.steep else "")
    return shown


def _course(curve: Curve) -> str:
    most = max(curve.values)
    return "".join(_STEPS[math.ceil(value / most * (len(_STEPS) - 1))] for value in curve.values)


def drawing(curves: Sequence[Curve]) -> str:
    """Draw every curve into one SVG, each in a field of its own: sizes by their logarithm, values from zero."""
    lines = -(-len(curves) // _ACROSS)
    box = f"0 0 {_ACROSS * _WIDTH} {lines * _HEIGHT}"
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": box, "font-family": "sans-serif"})
    ET.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "white"})
    for place, curve in enumerate(curves):
        x, y = place % _ACROSS * _WIDTH, place // _ACROSS * _HEIGHT
        _draw(ET.SubElement(root, "g", {"transform": f"translate({x} {y})", "font-size": "11"}), curve)
    return ET.tostring(root, encoding="unicode")


def _draw(field: ET.Element, curve: Curve) -> None:
    most, colour = max(curve.values) * 1.15, "#c0392b" if curve.steep else "#2471a3"
    low, high = math.log(curve.sizes[0]), math.log(curve.sizes[-1])
    points = [
        (
            _MARGIN + (math.log(size) - low) / (high - low) * (_WIDTH - 2 * _MARGIN),
            _HEIGHT - _MARGIN - value / most * (_HEIGHT - 2 * _MARGIN),
        )
        for size, value in zip(curve.sizes, curve.values, strict=True)
    ]
    title = {"x": str(_MARGIN), "y": "22", "font-weight": "bold"}
    ET.SubElement(field, "text", title).text = f"{curve.name} ({curve.unit})"
    floor = str(_HEIGHT - _MARGIN)
    ET.SubElement(field, "path", {"d": f"M{_MARGIN} {floor}H{_WIDTH - _MARGIN}", "stroke": "#999"})
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    ET.SubElement(field, "polyline", {"points": path, "fill": "none", "stroke": colour, "stroke-width": "2"})
    for (x, y), size, value in zip(points, curve.sizes, curve.values, strict=True):
        at = f"{x:.1f}"
        ET.SubElement(field, "circle", {"cx": at, "cy": f"{y:.1f}", "r": "3", "fill": colour})
        ET.SubElement(field, "text", {"x": at, "y": f"{y - 7:.1f}", "text-anchor": "middle"}).text = _number(value)
        below = {"x": at, "y": str(_HEIGHT - _MARGIN + 15), "text-anchor": "middle", "fill": "#666"}
        ET.SubElement(field, "text", below).text = f"{size:,}"
