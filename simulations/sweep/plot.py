"""A section of a sweep as a picture: recall@20, ndcg@10 and coverage@20 against epsilon, with confidence intervals.

Looks as the frontier's picture does (``simulations/frontier/plot.py``): colours of Okabe and Ito (2008), a marker of
its own for every line, the same data give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from simulations.frontier.plot import STYLES, Style, dress, picture, place
from simulations.frontier.rows import METRICS, OURS, Epsilon, Row
from simulations.sweep.rows import interval

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")  # eight and seven: 56 lines before two look alike
MOST_LINES: Final = len(_COLOURS) * len(_MARKERS)
_FLAT: Final = ("popularity", "EASE")
_APART: Final = 0.035  # doublings between two lines at one epsilon: whiskers must not hide one another
_SPREAD: Final = 0.6  # of the way to the next epsilon, for all lines at one together


def settings(rows: Sequence[Row]) -> tuple[str, ...]:
    """Our lines; the first ``MOST_LINES`` are drawn: as many as can be told apart."""
    return tuple(dict.fromkeys(row.name for row in rows if row.name.startswith(OURS)))


def style(number: int) -> Style:
    """How our line of this number is drawn."""
    return Style(_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)], "-")


def apart(lines: int, places: Sequence[float]) -> float:
    """Doublings between neighbouring lines at one epsilon, whose place they stay near.

    Args:
        lines: how many are drawn.
        places: of the epsilons, ascending.
    """
    near = min((later - earlier for earlier, later in pairwise(places)), default=1.0)
    return min(_APART, _SPREAD * min(near, 1.0) / max(lines, 1))


def draw(rows: Sequence[Row], on: str, title: str, stem: Path) -> None:
    """Write ``stem``.png and ``stem``.svg.

    Args:
        rows: of a section.
        on: what was measured, a key of a row's metrics.
        title: over the picture.
        stem: without ending; its folder is there.
    """
    names = settings(rows)[:MOST_LINES]
    deep = 1 + len(names) // 3  # rows of the legend

    def panels(figure: Any) -> None:  # noqa: ANN401 - of a library imported late
        figure.suptitle(title, fontsize=11)
        all_axes = figure.subplots(1, len(METRICS))
        for axes, metric in zip(all_axes, METRICS, strict=True):
            _panel(axes, rows, names, on, metric)
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)

    picture(panels, (12.0, 4.2 + 0.22 * deep), stem)


def _panel(axes: Any, rows: Sequence[Row], names: Sequence[str], on: str, metric: str) -> None:  # noqa: ANN401 - as above
    ours = [row for row in rows if row.name.startswith(OURS) and on in row.metrics]
    asked: list[Epsilon] = list(dict.fromkeys(row.epsilon for row in ours)) or [None]
    places = sorted((place(epsilon, asked), epsilon) for epsilon in asked if epsilon is not None)
    right = place(None, asked) if None in asked else places[-1][0]
    left = places[0][0] if places else right
    step = apart(len(names), [where for where, _ in places])
    top = 0.0
    for number, name in enumerate(names):
        shift = step * (number - (len(names) - 1) / 2)
        top = max(top, _line(axes, [row for row in ours if row.name == name], asked, metric, on, style(number), shift))
    for row in rows:
        if row.name in _FLAT and on in row.metrics:
            top = max(top, _flat(axes, row, on, metric))
    axes.set_ylim(0.0, 1.08 * top or 1.0)  # all zero: any height does
    axes.set_xlim(left - 0.4, right + 0.4)
    dress(axes, places, right if None in asked else None, metric, "epsilon asked for, of one run (log scale)")


def _line(
    axes: Any,  # noqa: ANN401 - as above
    rows: Sequence[Row],
    asked: Sequence[Epsilon],
    metric: str,
    on: str,
    look: Style,
    shift: float,
) -> float:
    """Draw one of ours; its highest point."""
    mine = sorted(rows, key=lambda row: place(row.epsilon, asked))
    if not mine:
        return 0.0
    found = [interval(row.metrics[on][metric].each) for row in mine]
    halves = [one.half or 0.0 for one in found]
    axes.errorbar(
        [place(row.epsilon, asked) + shift for row in mine],
        [one.mean for one in found],
        yerr=halves,
        label=mine[0].name,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markersize=5,
        linewidth=1.6,
        elinewidth=1.0,
        capsize=2.5,
    )
    return max(one.mean + half for one, half in zip(found, halves, strict=True))


def _flat(axes: Any, row: Row, on: str, metric: str) -> float:  # noqa: ANN401 - as above
    """Draw a yardstick across the picture, with its interval where seeds differ; its highest point."""
    found, look = interval(row.metrics[on][metric].each), STYLES[row.name]
    dash = "--" if row.name == "EASE" else look.dash
    label = f"{row.name} ({'no-privacy ceiling' if row.name == 'EASE' else 'floor'})"
    axes.axhline(found.mean, color=look.colour, linestyle=dash, linewidth=1.2, label=label)
    if found.half:
        axes.axhspan(found.mean - found.half, found.mean + found.half, color=look.colour, alpha=0.08, linewidth=0)
    return found.mean + (found.half or 0.0)
