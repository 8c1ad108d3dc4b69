"""The curves of metrics.jsonl, drawn as SVG."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ssl_lightning.compare.markup import Markup, tag
from ssl_lightning.compare.tables import PERCENT

POINTS = 200  # of a curve that is drawn
COLOURS = 8  # of page.css
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 170, 46, 8, 8, 20  # of a chart, and what its labels take


class Curve(NamedTuple):
    """Step and value, and the number of a colour."""

    points: list[tuple[float, float]]
    colour: int = 0


def read_curves(folder: Path | None) -> dict[str, Curve]:
    """Every metric of a run's metrics.jsonl by step; of a step that was run again the later line counts."""
    found: dict[str, dict[float, float]] = {}
    file = folder and folder / "metrics.jsonl"
    if not file or not file.is_file():
        return {}
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # a killed process left half a line
                continue
            step = row.get("step") if isinstance(row, dict) else None
            if not isinstance(step, int | float):
                continue
            for name, value in row.items():
                if name not in ("step", "epoch") and isinstance(value, int | float) and math.isfinite(value):
                    found.setdefault(name, {})[step] = value
    return {name: Curve(sorted(points.items())) for name, points in found.items()}


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most POINTS means of neighbours."""
    n = math.ceil(len(points) / POINTS)
    if n <= 1:
        return points
    parts = [points[at : at + n] for at in range(0, len(points), n)]
    return [(math.fsum(x for x, _ in p) / len(p), math.fsum(y for _, y in p) / len(p)) for p in parts]


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers between two others."""
    unit = 10 ** math.floor(math.log10((high - low) / 3))
    step = next((unit * n for n in (5, 2) if (high - low) / (unit * n) >= 3), unit)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def shade(colour: int) -> str:
    """The class of a line: a colour, and dashes when all have been used."""
    return f"c{colour % COLOURS}" + " dashed" * (colour // COLOURS % 2)


def chart(metric: str, curves: Sequence[Curve], remark: str = "") -> Markup:
    """Curves of a metric over the steps, as a figure; shares are drawn in percent."""
    if PERCENT.search(metric.split("/")[1] if "/" in metric else metric):
        remark = f"%{', ' * bool(remark)}{remark}"
        curves = [Curve([(x, 100 * y) for x, y in points], colour) for points, colour in curves]
    longest = max(len(curve.points) for curve in curves)
    words = [metric, remark, f"means of {math.ceil(longest / POINTS)}" if longest > POINTS else ""]
    xs, ys = ([point[k] for curve in curves for point in curve.points] for k in (0, 1))
    first, last = min(xs), max(max(xs), min(xs) + 1)
    margin = 0.06 * ((max(ys) - min(ys)) or abs(max(ys)) or 1)
    low, high = min(ys) - margin, max(ys) + margin

    def place(x: float, y: float) -> tuple[float, float]:
        across, down = (x - first) / (last - first), (high - y) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + down * (HEIGHT - TOP - BOTTOM)

    parts: list[Markup] = []
    for y in ticks(low, high):
        at = round(place(first, y)[1], 1)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at))
        parts.append(tag("text", f"{y:.4g}", x=LEFT - 6, y=at + 4, text_anchor="end"))
    parts.append(tag("text", f"step {first:,.0f}", x=LEFT, y=HEIGHT - 5))
    parts.append(tag("text", f"{max(xs):,.0f}", x=WIDTH - RIGHT, y=HEIGHT - 5, text_anchor="end"))
    for points, colour in curves:
        drawn = [place(x, y) for x, y in thinned(points)]
        if len(drawn) == 1:
            parts.append(tag("circle", cx=round(drawn[0][0], 1), cy=round(drawn[0][1], 1), r=3, class_=shade(colour)))
        else:
            parts.append(tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in drawn), class_=shade(colour)))
    drawing = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{metric} over the steps")
    return tag("figure", tag("figcaption", ", ".join(filter(None, words))), drawing)
