"""The frontier as a picture: recall@20 and ndcg@10 against epsilon, "no DP" at the right edge.

Colours are those of Okabe and Ito (2008), told apart with every common colour blindness; every line also has a marker
or dash of its own and its name at its end, so that no meaning hangs on colour alone. The same data give the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.files import write_atomically
from simulations.frontier.rows import OURS, TUNED, Epsilon, Row, headline, said

SHOWN: Final = ("recall@20", "ndcg@10")
NO_DP_GAP: Final = 1.0  # between the largest epsilon and "no DP", in doublings of epsilon


@dataclass(frozen=True)
class Style:
    """How one recommender is drawn."""

    colour: str
    marker: str
    dash: str


STYLES: Final = {
    OURS: Style("#0072B2", "o", "-"),
    TUNED: Style("#56B4E9", "D", "-"),
    "DP-EASE": Style("#D55E00", "s", "--"),
    "TF-IDF + private popularity": Style("#009E73", "^", "-."),
    "EASE": Style("#000000", "", ":"),
    "popularity": Style("#666666", "", ":"),
}
"""What is drawn, in this order; the rest of the table is not."""


@dataclass(frozen=True)
class Line:
    """One recommender: places from left to right, means and ranges over seeds; ``flat`` = one value at any epsilon."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    flat: bool


def place(epsilon: Epsilon, epsilons: Sequence[Epsilon]) -> float:
    """Where an epsilon stands: by doublings, and "no DP" one doubling (``NO_DP_GAP``) right of the largest."""
    if epsilon is not None:
        return math.log2(epsilon)
    return max((math.log2(known) for known in epsilons if known is not None), default=0.0) + NO_DP_GAP


def lines(rows: Sequence[Row], metric: str) -> list[Line]:
    """The lines of one metric, in the order of ``STYLES``; what has no epsilon at all is flat."""
    reading, epsilons = headline(rows), [row.epsilon for row in rows]
    out = []
    for name in STYLES:
        mine = sorted((row for row in rows if row.name == name), key=lambda row: place(row.epsilon, epsilons))
        if not mine:
            continue
        spreads = [row.metrics[reading][metric] for row in mine]
        out.append(
            Line(
                name,
                tuple(place(row.epsilon, epsilons) for row in mine),
                tuple(spread.mean for spread in spreads),
                tuple(spread.low for spread in spreads),
                tuple(spread.high for spread in spreads),
                flat=not name.startswith(OURS) and all(row.epsilon is None for row in mine),
            )
        )
    return out


def spaced(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights near the wanted ones, in their order, no two closer than ``gap``: labels that do not overlap."""
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    groups: list[tuple[list[int], float]] = []  # members from the lowest up, height of the lowest
    for at in order:
        groups.append(([at], wanted[at]))
        while len(groups) > 1 and groups[-1][1] < groups[-2][1] + gap * len(groups[-2][0]) - 1e-12:
            upper, _ = groups.pop()
            members = groups.pop()[0] + upper
            middle = sum(wanted[member] - gap * number for number, member in enumerate(members)) / len(members)
            groups.append((members, middle))
    heights = {at: low + gap * number for members, low in groups for number, at in enumerate(members)}
    return [heights[at] for at in range(len(wanted))]


def draw(rows: Sequence[Row], title: str, stem: Path) -> None:
    """Write ``stem``.png and ``stem``.svg.

    Args:
        rows: of the frontier.
        title: over the picture; says data and split.
        stem: without ending; its folder is there.
    """

    def panels(figure: Any) -> None:  # noqa: ANN401 - of a library imported late
        figure.suptitle(title, fontsize=11)
        for axes, metric in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
            _panel(axes, rows, metric)

    picture(panels, (11.5, 4.8), stem)


def picture(panels: Callable[[Any], None], size: tuple[float, float], stem: Path) -> None:
    """Draw a figure and write it as ``stem``.png and ``stem``.svg.

    Args:
        panels: draws on the empty figure.
        size: of the figure, inches.
        stem: without ending; its folder is there.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - heavy import
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    look = {
        "font.size": 10.0,
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "fedrecall",
    }
    with rc_context(look):
        figure = Figure(figsize=size, layout="constrained")
        panels(figure)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    for ending, drawn in (("png", png), ("svg", svg)):
        write_atomically(stem.with_name(f"{stem.name}.{ending}"), drawn.getvalue())


def dress(
    axes: Any,  # noqa: ANN401 - of a library imported late
    places: Sequence[tuple[float, Epsilon]],
    without: float | None,
    metric: str,
    below: str,
) -> None:
    """The epsilons under a panel, what stands over and under it, and its lines.

    Args:
        axes: the panel.
        places: where each epsilon stands, from left to right.
        without: where the runs without privacy stand, apart; None = there are none.
        metric: over the panel.
        below: under the panel.
    """
    shown = [(where, said(epsilon)) for where, epsilon in places] + ([] if without is None else [(without, "no DP")])
    axes.set_xticks([where for where, _ in shown], [name for _, name in shown])
    if places and without is not None:
        axes.axvline(without - NO_DP_GAP / 2, color="#BBBBBB", linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set_xlabel(below)
    axes.set_title(metric, loc="left", fontsize=10)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)


def _panel(axes: Any, rows: Sequence[Row], metric: str) -> None:  # noqa: ANN401 - of a library imported late
    drawn, asked = lines(rows, metric), list(dict.fromkeys(row.epsilon for row in rows))
    places = sorted((place(epsilon, asked), epsilon) for epsilon in asked if epsilon is not None)
    right = place(None, asked)
    left = places[0][0] if places else right - NO_DP_GAP
    for line in drawn:
        _line(axes, line, left, right)
    top = 1.08 * max(value for line in drawn for value in line.high) or 1.0  # all zero: any height does
    axes.set_ylim(0.0, top)
    axes.set_xlim(left - 0.2, right + 0.15)
    dress(axes, places, right if None in asked else None, metric, "epsilon (user level, log scale)")
    heights = spaced([line.y[-1] for line in drawn], 0.055 * top)
    for line, height in zip(drawn, heights, strict=True):
        axes.annotate(
            line.name,
            xy=(right if line.flat else line.x[-1], line.y[-1]),
            xytext=(right + 0.25, height),
            color=STYLES[line.name].colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#BBBBBB", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )


def _line(axes: Any, line: Line, left: float, right: float) -> None:  # noqa: ANN401 - as above
    style = STYLES[line.name]
    if line.flat:
        axes.plot([left - 0.2, right + 0.15], [line.y[0]] * 2, color=style.colour, linestyle=style.dash, linewidth=1.2)
        return
    # The mean of equal numbers may lie a rounding error beside them.
    whiskers = [
        [max(0.0, mean - low) for mean, low in zip(line.y, line.low, strict=True)],
        [max(0.0, high - mean) for mean, high in zip(line.y, line.high, strict=True)],
    ]
    axes.errorbar(
        line.x,
        line.y,
        yerr=whiskers,
        color=style.colour,
        linestyle=style.dash,
        marker=style.marker,
        markersize=5,
        linewidth=1.8,
        elinewidth=1.0,
        capsize=2.5,
    )
