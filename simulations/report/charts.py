"""Small charts as inline SVG: no plotting library, no network, the same bytes for the same data.

Every chart is ``role="img"`` with an ``aria-label`` that says in words what it shows; colours come from the page's
style sheet through classes, and every series also differs in shape or dash, so that no meaning hangs on colour alone.
All text passes through ``Markup.format``, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 440
_LETTER = 6.1  # average width of a letter at the 11.5 px of chart text, in SVG units


@dataclass(frozen=True)
class Series:
    """One line: points (x, y), an optional interval a point, and the style-sheet class that draws it.

    ``marker`` is "circle", "diamond" or "" (line only); ``step`` holds a value until the next point; ``shift`` moves it
    sideways in SVG units, so that intervals of several series at one x lie beside each other.
    """

    name: str
    style: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    interval: tuple[tuple[float, float] | None, ...] = ()
    marker: str = ""
    step: bool = False
    shift: float = 0.0


@dataclass(frozen=True)
class Point:
    """One labelled point of a plane; ``kind`` is "test" or "baseline"."""

    name: str
    x: float
    y: float
    kind: str


@dataclass(frozen=True)
class Frame:
    """The plot area in SVG units and the data that it shows: y from the first to the last tick, x over a range."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_ticks: tuple[float, ...]
    x_ticks: tuple[float, ...]

    def x(self, value: float) -> float:
        """Map a data x to SVG units."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Map a data y to SVG units (upwards)."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def ticks(low: float, high: float, wanted: int, *, whole: bool = False) -> tuple[float, ...]:
    """Round tick values (steps of 1, 2 or 5 times a power of ten) that cover [low, high], low < high."""
    rough = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    step = max(1.0, round(step)) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(place * step, 12) for place in range(first, last + 1))


def line_chart(series: Sequence[Series], *, label: str, height: int = 236, x_name: str = "round") -> Markup | None:
    """Draw the series over whole x values (rounds); None when there is not one point.

    Args:
        series: drawn in order, the last on top; series without points are left out.
        label: the chart in words, for people who do not see it.
        height: SVG units; the width is ``WIDTH``.
        x_name: what x counts.
    """
    drawn = [one for one in series if one.x]
    if not drawn:
        return None
    legend, legend_height = _legend(drawn)
    frame = _frame(drawn, top=legend_height + 12, height=height + legend_height)
    parts = [legend, _grid(frame, x_name=x_name), *(_line(frame, one) for one in drawn)]
    return _svg(parts, WIDTH, round(height + legend_height), label)


def plane(
    path: Series, points: Sequence[Point], *, label: str, names: tuple[str, str], height: int = 330
) -> Markup | None:
    """Draw a path through the plane and labelled points beside it; None when there is nothing to draw.

    Args:
        path: the run's measured rounds in order, x and y as in ``names``; may be empty.
        points: the labelled points.
        label: the chart in words.
        names: the axes' names (x, y).
        height: SVG units.
    """
    everything = Series("", "", path.x + tuple(p.x for p in points), path.y + tuple(p.y for p in points))
    if not everything.x:
        return None
    across, up = _padded(everything.x), _padded(everything.y)
    frame = Frame(48, WIDTH - 14, 14, height - 44, (across[0], across[-1]), up, across)
    parts = [_grid(frame, x_name=names[0]), _y_name(frame, names[1])]
    taken = [_box(frame.x(x), frame.y(y), 8, 8) for x, y in zip(everything.x, everything.y, strict=True)]
    if path.x:
        parts += [_line(frame, path), _end(frame, path)]
    for point in sorted(points, key=lambda one: one.kind != "test"):
        parts += [_mark(frame, point), _label(frame, point, taken)]
    return _svg(parts, WIDTH, height, label)


def sparkline(values: Sequence[float], *, label: str, step: bool = False) -> Markup | None:
    """Draw values in order on a small strip without axes; None for fewer than two values."""
    if len(values) < 2:
        return None
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    width, height = 120.0, 26.0
    xs = [2 + place * (width - 4) / (len(values) - 1) for place in range(len(values))]
    ys = [height / 2 if high == low else height - 3 - (value - low) / span * (height - 6) for value in values]
    line = _path(xs, ys, step=step)
    parts = [Markup('<path class="spark" d="{}"/>').format(line), _dot(xs[-1], ys[-1], "spark-end", 2.2)]
    return _svg(parts, int(width), int(height), label, style="sparkline")


def strip(value: float | None, marks: Sequence[tuple[str, float]], *, label: str) -> Markup | None:
    """Draw a value and reference marks on one track from 0 to the largest of them; None without a value."""
    if value is None:
        return None
    width, top = 240.0, max([value, *(mark for _, mark in marks)]) or 1.0

    def place(number: float) -> float:
        return 6 + max(number, 0.0) / top * (width - 12)

    parts = [
        Markup('<path class="track" d="M6 9H{}"/>').format(_n(width - 6)),
        Markup('<path class="track-run" d="M6 9H{}"/>').format(_n(place(value))),
    ]
    for name, mark in marks:
        ring = Markup('<circle class="track-mark" cx="{}" cy="9" r="4"><title>{}</title></circle>')
        parts.append(ring.format(_n(place(mark)), f"{name} {mark:.3f}"))
    parts.append(_dot(place(value), 9, "track-end", 5.5))
    return _svg(parts, int(width), 18, label, style="strip")


def bars(values: Sequence[tuple[str, float, int]], *, extent: tuple[float, float], label: str) -> Markup:
    """Draw signed parts as stacked segments around zero: positive to the right, negative to the left.

    Args:
        values: (name, value, colour index) a part.
        extent: the largest sums of negative parts and of positive parts, both as magnitudes, that must fit; bars that
            share them compare.
        label: the chart in words.
    """
    width = 240.0
    unit = width / (sum(extent) or 1.0)
    right = left = zero = extent[0] * unit
    parts: list[Markup] = []
    for name, value, colour in values:
        length = abs(value) * unit
        start = right if value >= 0 else left - length
        right, left = (right + length, left) if value >= 0 else (right, left - length)
        parts.append(
            Markup('<rect class="part-{}" x="{}" y="2" width="{}" height="8"><title>{}</title></rect>').format(
                colour % 6, _n(start), _n(max(length - 1, 0.5)), f"{name} {value:+.3f}"
            )
        )
    if zero:
        parts.append(Markup('<path class="zero" d="M{} 0V12"/>').format(_n(zero - 0.5)))
    return _svg(parts, int(width), 12, label, style="bars")


def whisker(value: float, low: float, high: float, *, extent: float, label: str) -> Markup:
    """Draw a value with its interval on a line around zero.

    Args:
        value, low, high: what is drawn.
        extent: the largest magnitude that must fit; drawings that share it compare.
        label: the chart in words.
    """
    width, half = 160.0, 76.0 / (extent or 1.0)
    xs = [width / 2 + edge * half for edge in (low, high, value)]
    parts = [
        Markup('<path class="zero" d="M{} 0V14"/>').format(_n(width / 2)),
        Markup('<path class="span" d="M{} 7H{}"/>').format(_n(xs[0]), _n(xs[1])),
        _dot(xs[2], 7, "span-dot", 3),
    ]
    return _svg(parts, int(width), 14, label, style="whisker-strip")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _svg(parts: Sequence[Markup], width: int, height: int, label: str, style: str = "chart") -> Markup:
    head = Markup('<svg class="{}" role="img" aria-label="{}" viewBox="0 0 {} {}" xmlns="http://www.w3.org/2000/svg">')
    return head.format(style, label, width, height) + Markup("").join(parts) + Markup("</svg>")


def _padded(values: Sequence[float]) -> tuple[float, ...]:
    """Ticks around the values, from zero where zero is near; at least two."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    pad = 0.5 if largest < 1e-9 else max(0.06 * (high - low), 0.02 * largest)
    near_zero = 0.0 <= low < 0.45 * high
    return ticks(0.0 if near_zero else low - (pad if low < 0 else min(pad, low)), high + pad, 5)


def _frame(series: Sequence[Series], *, top: float, height: float) -> Frame:
    xs = [x for one in series for x in one.x]
    ys = [y for one in series for y in one.y]
    ys += [edge for one in series for both in one.interval if both is not None for edge in both]
    first, last = min(xs), max(xs)
    margin = 0.03 * (last - first) or 1.0
    across = (first,) if first == last else ticks(first, last, 6, whole=True)
    shown = tuple(value for value in across if first <= value <= last)
    return Frame(48, WIDTH - 14, top, height - 40, (first - margin, last + margin), _padded(ys), shown)


def _grid(frame: Frame, *, x_name: str) -> Markup:
    parts: list[Markup] = []
    for value in frame.y_ticks:
        at = _n(frame.y(value))
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(_n(frame.left), at, _n(frame.right)))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" dy=".32em" text-anchor="end">{}</text>').format(
                _n(frame.left - 8), at, f"{value:g}"
            )
        )
    below = Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>')
    parts += [below.format(_n(frame.x(value)), _n(frame.bottom + 17), f"{value:g}") for value in frame.x_ticks]
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(
            _n(frame.right), _n(frame.bottom + 33), x_name
        )
    )
    return Markup("").join(parts)


def _y_name(frame: Frame, name: str) -> Markup:
    return Markup('<text class="axis" x="{}" y="{}">{}</text>').format(_n(frame.left + 4), _n(frame.top + 11), name)


def _path(xs: Sequence[float], ys: Sequence[float], *, step: bool) -> str:
    line = f"M{_n(xs[0])} {_n(ys[0])}"
    for x, y in zip(xs[1:], ys[1:], strict=True):
        line += f"H{_n(x)}V{_n(y)}" if step else f"L{_n(x)} {_n(y)}"
    return line


def _dot(x: float, y: float, style: str, radius: float) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(style, _n(x), _n(y), radius)


def _marker(x: float, y: float, kind: str, style: str, said: str = "") -> Markup:
    circle = Markup('<circle class="mark {}" cx="{}" cy="{}" r="3"><title>{}</title></circle>')
    diamond = Markup('<path class="mark {}" d="M{} {}l4 4l-4 4l-4 -4z"><title>{}</title></path>')
    return (
        circle.format(style, _n(x), _n(y), said) if kind == "circle" else diamond.format(style, _n(x), _n(y - 4), said)
    )


def _line(frame: Frame, series: Series) -> Markup:
    xs, ys = [frame.x(x) + series.shift for x in series.x], [frame.y(y) for y in series.y]
    parts: list[Markup] = []
    for x, both in zip(xs, series.interval, strict=False):
        if both is not None:
            low, high = (_n(frame.y(edge)) for edge in both)
            bar = Markup('<path class="whisker {}" d="M{x} {low}V{high}M{a} {low}H{b}M{a} {high}H{b}"/>')
            parts.append(bar.format(series.style, x=_n(x), low=low, high=high, a=_n(x - 2.5), b=_n(x + 2.5)))
    if len(xs) > 1:
        line = _path(xs, ys, step=series.step)
        parts.append(Markup('<path class="line {}" d="{}"/>').format(series.style, line))
    kind = series.marker or ("circle" if len(xs) == 1 else "")
    if kind:
        for x, y, raw_x, raw_y in zip(xs, ys, series.x, series.y, strict=True):
            parts.append(_marker(x, y, kind, series.style, f"{series.name}, {raw_x:g}: {raw_y:.4f}"))
    return Markup("").join(parts)


def _legend(series: Sequence[Series]) -> tuple[Markup, float]:
    """Swatch and name a series, wrapped to the width; returns it with its height."""
    x, y, parts = 4.0, 12.0, []
    for one in series:
        needed = 36 + _LETTER * len(one.name)
        if x > 4 and x + needed > WIDTH:
            x, y = 4.0, y + 18
        parts.append(Markup('<path class="line {}" d="M{} {}h22"/>').format(one.style, _n(x), _n(y - 4)))
        if one.marker:
            parts.append(_marker(x + 11, y - 4, one.marker, one.style))
        parts.append(Markup('<text class="key" x="{}" y="{}">{}</text>').format(_n(x + 28), _n(y), one.name))
        x += needed + 12
    return Markup("").join(parts), y + 6


def _end(frame: Frame, path: Series) -> Markup:
    """Ring the path's last point, so that its direction can be read."""
    return Markup('<circle class="ring {}" cx="{}" cy="{}" r="6"/>').format(
        path.style, _n(frame.x(path.x[-1])), _n(frame.y(path.y[-1]))
    )


def _mark(frame: Frame, point: Point) -> Markup:
    x, y = frame.x(point.x), frame.y(point.y)
    if point.kind == "test":
        star = Markup('<path class="star" d="M{} {}l3 5.4 6 1-4.3 4.4.9 6.2-5.6-2.7-5.6 2.7.9-6.2-4.3-4.4 6-1z"/>')
        return star.format(_n(x), _n(y - 9))
    return Markup('<rect class="square" x="{}" y="{}" width="7" height="7"><title>{}</title></rect>').format(
        _n(x - 3.5), _n(y - 3.5), f"{point.name}: {point.x:.3f}, {point.y:.3f}"
    )


def _box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _label(frame: Frame, point: Point, taken: list[tuple[float, float, float, float]]) -> Markup:
    """Write the name on the first free side of its point (right, left, above, below) and remember the place."""
    x, y = frame.x(point.x), frame.y(point.y)
    wide = _LETTER * len(point.name) + 4
    sides = [(x + 10 + wide / 2, y), (x - 10 - wide / 2, y), (x, y - 15), (x, y + 16), (x, y - 29), (x, y + 30)]
    boxes = [_box(cx, cy, wide, 13) for cx, cy in sides]
    inside = [box for box in boxes if box[0] >= frame.left and box[2] <= WIDTH and box[3] <= frame.bottom]
    free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
    box = (free or inside or boxes)[0]
    taken.append(box)
    return Markup('<text class="name {}" x="{}" y="{}" dy=".32em" text-anchor="middle">{}</text>').format(
        point.kind, _n((box[0] + box[2]) / 2), _n((box[1] + box[3]) / 2), point.name
    )


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
