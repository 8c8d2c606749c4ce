"""The page's charts as inline SVG: no plotting library, no network, the same bytes for the same numbers.

Each is ``role="img"`` with its content in words as ``aria-label``. Series differ in dash or shape besides their colour,
which the style sheet gives by class, so that no meaning hangs on colour alone and a black-and-white print reads as
well. All text is escaped by ``Markup.format``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

Scale = Callable[[float], float]

WIDTH: Final = 720.0
LEFT: Final = 52.0  # of the plot area
RIGHT: Final = 706.0
FINEST: Final = 400  # points of a line: more cannot be seen, and a run may have 10,000 rounds
_LATIN: Final = 6.6  # width of a letter at the charts' 12 px
_HAN: Final = 12.2


@dataclass(frozen=True)
class Line:
    """Steps: y holds from its x to the next.

    Attributes:
        style: class of the style sheet.
        x, y: of the same length; y that is not finite is left out.
    """

    name: str
    style: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Mark:
    """A value worth a line across the chart."""

    name: str
    style: str
    at: float


@dataclass(frozen=True)
class Row:
    """One bar, one interval or one point over the x axis, under its name.

    Attributes:
        bar: from zero to here, thick; None = none.
        reach: (from, to) of a thin line with ends; None = none.
        point: a diamond; None = none.
        tick: a short upright line, the most that can be; None = none.
    """

    name: str
    bar: float | None = None
    reach: tuple[float, float] | None = None
    point: float | None = None
    tick: float | None = None


def ticks(high: float, wanted: int = 5) -> tuple[float, ...]:
    """Round numbers from zero to ``high`` or just above: steps of 1, 2 or 5 times a power of ten."""
    if not 0.0 < high < math.inf:
        return (0.0, 1.0)
    rough = high / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return tuple(round(place * step, 12) for place in range(math.ceil(high / step - 1e-9) + 1))


def steps(lines: Sequence[Line], marks: Sequence[Mark], *, label: str, x_name: str) -> Markup | None:
    """Step lines over whole x; None = there is not one finite point.

    Args:
        lines: the last is drawn on top.
        marks: drawn from left to right at their height.
        label: the chart in words.
        x_name: what x counts.
    """
    drawn = [thinned(line) for line in lines]
    drawn = [line for line in drawn if line.x]
    if not drawn:
        return None
    legend, top = _legend([(line.name, _swatch(line.style)) for line in drawn])
    marks = [mark for mark in marks if math.isfinite(mark.at)]
    up = ticks(max([y for line in drawn for y in line.y] + [mark.at for mark in marks]))
    first, last = min(line.x[0] for line in drawn), max(line.x[-1] for line in drawn)
    bottom = top + 230.0
    ys, xs = _scale((0.0, up[-1]), (bottom, top + 14)), _scale((first, last), (LEFT + 10, RIGHT - 10))
    parts = [legend, *(_across(ys(value), f"{value:g}") for value in up)]
    parts += [_below(xs(value), bottom, f"{value:g}") for value in _whole(first, last)]
    parts += [_text("axis", RIGHT, bottom + 34, x_name, "end")]
    for mark in marks:
        parts.append(Markup('<path class="{}" d="M{} {}H{}"/>').format(mark.style, LEFT, _n(ys(mark.at)), RIGHT))
        parts.append(_text("key", LEFT + 12, ys(mark.at) - 5, mark.name))
    for line in drawn:
        path = _stairs([xs(x) for x in line.x], [ys(y) for y in line.y], end=xs(last))
        parts.append(Markup('<path class="line {}" d="{}"/>').format(line.style, path))
    return _svg(parts, bottom + 40, label)


def histogram(
    bins: Sequence[tuple[float, float, int]], marks: Sequence[Mark], *, label: str, names: tuple[str, str]
) -> Markup | None:
    """Bars over intervals of x; None = there are none.

    Args:
        bins: (low, high, how many); of no width where all are alike.
        marks: drawn upright at their place.
        label: the chart in words.
        names: of x and of what is counted.
    """
    finite = [one for one in bins if math.isfinite(one[0]) and math.isfinite(one[1])]
    marks = [mark for mark in marks if math.isfinite(mark.at)]
    if not finite:
        return None
    across = ticks(max([high for _, high, _ in finite] + [mark.at for mark in marks]))
    up = ticks(max(count for *_, count in finite))
    top, bottom = 20.0 + 18.0 * len(marks), 20.0 + 18.0 * len(marks) + 180.0
    xs, ys = _scale((0.0, across[-1]), (LEFT, RIGHT - 10)), _scale((0.0, up[-1]), (bottom, top))
    parts = [_across(ys(value), f"{value:g}") for value in up if value == round(value)]
    parts += [_below(xs(value), bottom, f"{value:g}") for value in across]
    parts += [_text("axis", RIGHT, bottom + 34, names[0], "end"), _text("axis", LEFT, 12, names[1])]
    for low, high, count in finite:
        start, width = (xs(low) - 9.0, 18.0) if high == low else (xs(low), max(xs(high) - xs(low) - 1.0, 1.0))
        box = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>')
        said = f"{low:.3g} - {high:.3g}: {count}"
        parts.append(box.format(_n(start), _n(ys(count)), _n(width), _n(bottom - ys(count)), said))
    for place, mark in enumerate(marks):
        line = Markup('<path class="{}" d="M{} {}V{}"/>')
        name_y = 30.0 + 18.0 * place
        parts.append(line.format(mark.style, _n(xs(mark.at)), _n(name_y - 8), _n(bottom)))
        parts.append(_text("key", xs(mark.at) - 6, name_y, mark.name, "end"))
    return _svg(parts, bottom + 40, label)


def rows(
    drawn: Sequence[Row], marks: Sequence[Mark], legend: Sequence[tuple[str, str]], *, label: str, most: float = 0.0
) -> Markup | None:
    """Bars, intervals and points under one another over one axis from zero; None = there is no row.

    Args:
        drawn: from top to bottom.
        marks: drawn upright through all rows.
        legend: (name, kind) with kind "bar", "reach", "point" or "tick".
        label: the chart in words.
        most: the axis reaches at least this far.
    """
    if not drawn:
        return None
    key, top = _legend([(name, _symbol(kind)) for name, kind in legend])
    marks = [mark for mark in marks if math.isfinite(mark.at)]
    ends = [most, *(mark.at for mark in marks)]
    for row in drawn:
        ends += [value for value in (row.bar, row.point, row.tick, *(row.reach or ())) if value is not None]
    across = ticks(max([end for end in ends if math.isfinite(end)], default=1.0))
    xs, bottom = _scale((0.0, across[-1]), (14.0, RIGHT - 10)), top + 30.0 + 44.0 * len(drawn)
    parts = [key]
    for value in across:
        parts.append(Markup('<path class="grid" d="M{} {}V{}"/>').format(_n(xs(value)), _n(top + 22), _n(bottom)))
        parts.append(_below(xs(value), bottom, f"{value:g}"))
    for mark in marks:
        line = Markup('<path class="{}" d="M{} {}V{}"/>').format(mark.style, _n(xs(mark.at)), _n(top + 18), _n(bottom))
        parts += [line, _text("key", min(xs(mark.at) + 4, RIGHT), top + 12, mark.name, "end")]
    for place, row in enumerate(drawn):
        parts += [_text("name", 14, top + 42 + 44 * place, row.name), *_row(row, xs, top + 56 + 44 * place, across[-1])]
    return _svg(parts, bottom + 24, label)


def thinned(line: Line) -> Line:
    """Without points that are not finite or change nothing, and of many evenly chosen ones, the last among them."""
    finite = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    ends = {0, len(finite) - 1}
    kept = [both for place, both in enumerate(finite) if place in ends or both[1] != finite[place - 1][1]]
    if len(kept) > FINEST:
        kept = [kept[round(place * (len(kept) - 1) / (FINEST - 1))] for place in range(FINEST)]
    return Line(line.name, line.style, tuple(x for x, _ in kept), tuple(y for _, y in kept))


def _scale(data: tuple[float, float], drawn: tuple[float, float]) -> Scale:
    """Data to SVG units, linearly; data beyond the range stays at its edge."""
    (low, high), (start, end) = data, drawn

    def place(value: float) -> float:
        part = 0.5 if high == low else (min(max(value, low), high) - low) / (high - low)
        return start + part * (end - start)

    return place


def _row(row: Row, xs: Scale, y: float, most: float) -> list[Markup]:
    parts = []
    if row.reach is not None:
        low, high = (_n(xs(min(edge, most))) for edge in row.reach)
        bar = Markup('<path class="reach" d="M{low} {y}H{high}M{low} {a}V{b}M{high} {a}V{b}"/>')
        parts.append(bar.format(low=low, high=high, y=_n(y), a=_n(y - 4), b=_n(y + 4)))
    if row.bar is not None:
        box = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="12"/>')
        parts.append(box.format(_n(xs(0.0)), _n(y - 6), _n(max(xs(min(row.bar, most)) - xs(0.0), 1.5))))
    if row.tick is not None and math.isfinite(row.tick):
        parts.append(Markup('<path class="limit" d="M{} {}V{}"/>').format(_n(xs(row.tick)), _n(y - 9), _n(y + 9)))
    if row.point is not None and math.isfinite(row.point):
        parts.append(_diamond(xs(row.point), y))
    return parts


def _stairs(xs: Sequence[float], ys: Sequence[float], *, end: float) -> str:
    """Steps through the points, the last one held up to ``end``; one at the very end is still seen."""
    path = f"M{_n(xs[0])} {_n(ys[0])}" + "".join(f"H{_n(x)}V{_n(y)}" for x, y in zip(xs[1:], ys[1:], strict=True))
    return f"{path}H{_n(max(end, xs[-1] + 6.0))}"


def _whole(first: float, last: float) -> list[float]:
    """Whole numbers for the axis between two of them."""
    step = max(1, round(ticks(max(last - first, 1.0), 8)[1]))
    return [float(value) for value in range(int(first), int(last) + 1) if (value - int(first)) % step == 0]


def _legend(entries: Sequence[tuple[str, Markup]]) -> tuple[Markup, float]:
    """Swatch and name each, wrapped to the width; with the height it takes."""
    x, y, parts = 4.0, 14.0, []
    for name, symbol in entries:
        needed = 48.0 + sum(_HAN if ord(letter) > 0x2E7F else _LATIN for letter in name)
        if x > 4.0 and x + needed > WIDTH:
            x, y = 4.0, y + 20.0
        parts.append(Markup('<g transform="translate({} {})">{}</g>').format(_n(x), _n(y - 4), symbol))
        parts.append(_text("key", x + 32, y, name))
        x += needed
    return Markup("").join(parts), y + 8.0 if entries else 0.0


def _swatch(style: str) -> Markup:
    return Markup('<path class="line {}" d="M0 0h26"/>').format(style)


def _symbol(kind: str) -> Markup:
    if kind == "bar":
        return Markup('<rect class="bar" x="0" y="-6" width="26" height="12"/>')
    if kind == "reach":
        return Markup('<path class="reach" d="M0 0H26M0 -4V4M26 -4V4"/>')
    return _diamond(13, 0) if kind == "point" else Markup('<path class="limit" d="M13 -9V9"/>')


def _diamond(x: float, y: float) -> Markup:
    return Markup('<path class="point" d="M{} {}l6 6l-6 6l-6 -6z"/>').format(_n(x), _n(y - 6))


def _across(y: float, name: str) -> Markup:
    line = Markup('<path class="grid" d="M{} {}H{}"/>').format(_n(LEFT), _n(y), _n(RIGHT))
    return line + _text("tick", LEFT - 8, y + 4, name, "end")


def _below(x: float, bottom: float, name: str) -> Markup:
    return _text("tick", x, bottom + 17, name, "middle")


def _text(style: str, x: float, y: float, said: str, anchor: str = "start") -> Markup:
    drawn = Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>')
    return drawn.format(style, _n(x), _n(y), anchor, said)


def _svg(parts: Sequence[Markup], height: float, label: str) -> Markup:
    head = Markup('<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}" xmlns="{}">')
    opened = head.format(label, _n(WIDTH), _n(height), "http://www.w3.org/2000/svg")
    return opened + Markup("").join(parts) + Markup("</svg>")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
