"""Drawings: inside their frame, well-formed, even ticks, and readable in both colour schemes."""

from __future__ import annotations

import re
from importlib import resources
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.report import charts


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e6), st.integers(1, 12), st.booleans())
def test_ticks_cover_the_range_with_even_round_steps(low, span, wanted, whole):
    found = charts.ticks(low, low + span, wanted, whole=whole)
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= low + span - 1e-6 * step
    assert all(abs((after - before) - step) < 1e-4 * step for before, after in pairwise(found))
    assert len(found) <= wanted + 3


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(-1e3, 1e3)), max_size=20))
def test_a_line_chart_draws_inside_its_frame_or_not_at_all(points):
    xs, ys = tuple(float(x) for x, _ in points), tuple(y for _, y in points)
    svg = charts.line_chart([charts.Series("a", "estimate", xs, ys, marker="circle")], label="chart")
    if not points:
        assert svg is None
        return
    root = ET.fromstring(svg)  # noqa: S314 - our own drawing
    _, _, width, height = (float(edge) for edge in root.get("viewBox").split())
    for circle in root.iter("{http" + "://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.get("cx")) <= width
        assert 0 <= float(circle.get("cy")) <= height


def test_score_bars_share_their_zero_and_negative_parts_go_left():
    one = ET.fromstring(charts.bars([("text", 2.0, 0), ("price", -1.0, 1)], extent=(1.0, 2.0), label="parts"))  # noqa: S314 - ours
    rects = [rect for rect in one if rect.tag.endswith("rect")]
    assert [(rect.get("class"), float(rect.get("x"))) for rect in rects] == [("part-0", 80.0), ("part-1", 0.0)]
    assert [float(rect.get("width")) for rect in rects] == [159.0, 79.0]


def _luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one, other):
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("ink", "paper"),
        ("ink", "card"),
        ("ink", "tint"),
        ("ink", "warn-bg"),
        ("ink", "bad-bg"),
        ("soft", "paper"),
        ("soft", "card"),
        ("soft", "tint"),
        ("accent", "paper"),
        ("card", "accent"),
        ("warn", "warn-bg"),
        ("bad", "bad-bg"),
        ("good", "good-bg"),
    ],
)
def test_text_has_the_contrast_that_wcag_aa_asks_for(scheme, text, ground):
    style = resources.files("simulations.report").joinpath("style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", blocks[0]))
    colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    assert _contrast(colours[text], colours[ground]) >= 4.5
