"""Charts say in words what they show, hold every number inside the drawing, and survive any number."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import pytest

from shared.audit.charts import FINEST, Line, Mark, Row, histogram, rows, steps, thinned, ticks

NAME = "{http://www.w3.org/2000/svg}"


def drawn(chart):
    return ET.fromstring(str(chart))  # noqa: S314 - our own drawing


def words_of(chart):
    return [text.text for text in drawn(chart).iter(f"{NAME}text")]


def numbers_of(chart):
    """Every coordinate of the drawing."""
    tree = drawn(chart)
    values = [
        value for element in tree.iter() for key, value in element.items() if key in {"x", "y", "d", "width", "height"}
    ]
    return [float(number) for value in values for number in re.findall(r"-?\d+\.?\d*", value)]


def line(**changes):
    return Line(**{"name": "updates", "style": "kind-update", "x": (1, 2, 3), "y": (1.0, 2.0, 2.5), **changes})


def some_steps(*lines, claimed=3.0):
    return steps(lines or [line()], [Mark("claimed", "claimed-line", claimed)], label="in words", x_name="round")


def test_a_chart_is_an_image_with_its_content_in_words():
    for chart in (
        some_steps(),
        histogram([(0.0, 1.0, 3)], [], label="in words", names=("epsilon", "persons")),
        rows([Row("a", bar=1.0)], [], [("bound", "bar")], label="in words"),
    ):
        assert drawn(chart).get("role") == "img"
        assert drawn(chart).get("aria-label") == "in words"


def test_names_are_escaped():
    chart = some_steps(line(name='<script>alert("x")</script>'))
    assert "<script>" not in chart
    assert '<script>alert("x")</script>' in words_of(chart)


@pytest.mark.parametrize(
    ("high", "expected"), [(8.0, (0, 2, 4, 6, 8)), (0.9, (0, 0.2, 0.4, 0.6, 0.8, 1)), (0.0, (0, 1))]
)
def test_ticks_are_round_numbers_from_zero_that_reach_the_largest_value(high, expected):
    assert ticks(high) == pytest.approx(expected)


@pytest.mark.parametrize("high", [1e-9, 3e-4, 7.7, 123.4, 9_890.0, 1e12])
def test_there_are_never_many_ticks(high):
    assert 3 <= len(ticks(high)) <= 8
    assert ticks(high)[-1] >= high * (1 - 1e-8)


def test_steps_hold_a_value_until_the_next_and_to_the_end():
    paths = [p.get("d") for p in drawn(some_steps(line(), line(name="once", x=(1,), y=(2.0,)))).iter(f"{NAME}path")]
    ends = [float(re.findall(r"H([\d.]+)", path)[-1]) for path in paths[-2:]]
    assert "V" in paths[-2]
    assert ends[1] == pytest.approx(696, abs=7)  # seen once, held to the last round


def test_a_claim_above_all_lines_is_inside_the_drawing():
    assert max(numbers_of(some_steps(claimed=50.0))) <= 720


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(bad):
    chart = some_steps(line(y=(1.0, bad, 2.0)), claimed=bad)
    assert all(math.isfinite(value) for value in numbers_of(chart))
    assert some_steps(line(y=(bad, bad, bad))) is None
    assert histogram([(bad, bad, 3)], [], label="", names=("", "")) is None
    shown = rows([Row("a", bar=1.0, reach=(0.5, bad), tick=bad, point=bad)], [Mark("m", "s", bad)], [], label="")
    assert shown is None or all(math.isfinite(value) for value in numbers_of(shown))


def test_ten_thousand_rounds_are_a_few_hundred_points_the_last_among_them():
    long = thinned(line(x=tuple(range(10_000)), y=tuple(float(i) for i in range(10_000))))
    assert len(long.x) == FINEST
    assert (long.x[0], long.x[-1]) == (0, 9_999)
    assert thinned(line(x=(1, 2, 3, 4), y=(1.0, 1.0, 1.0, 2.0))).x == (1, 4)


def test_nothing_to_draw_is_no_chart():
    assert some_steps(line(x=(), y=())) is None
    assert histogram([], [], label="", names=("", "")) is None
    assert rows([], [], [], label="") is None


def test_a_histogram_counts_in_heights():
    chart = histogram([(0.0, 1.0, 5), (1.0, 2.0, 10)], [], label="", names=("epsilon", "persons"))
    heights = [float(box.get("height")) for box in drawn(chart).iter(f"{NAME}rect")]
    assert heights[1] == pytest.approx(2 * heights[0])


def test_where_all_spent_alike_there_is_one_bar_with_a_width():
    chart = histogram([(8.0, 8.0, 600)], [Mark("most", "most-line", 8.0)], label="", names=("epsilon", "persons"))
    boxes = list(drawn(chart).iter(f"{NAME}rect"))
    assert len(boxes) == 1
    assert float(boxes[0].get("width")) > 5


def test_a_row_that_reaches_beyond_the_claim_is_longer_than_the_line_of_the_claim():
    chart = rows([Row("a", bar=9.0, tick=9.5)], [Mark("claimed", "claimed-line", 8.0)], [], label="")
    box = next(iter(drawn(chart).iter(f"{NAME}rect")))
    claim = next(p for p in drawn(chart).iter(f"{NAME}path") if p.get("class") == "claimed-line")
    assert float(box.get("x")) + float(box.get("width")) > float(re.findall(r"M([\d.]+)", claim.get("d"))[0])


def test_the_axis_reaches_as_far_as_it_is_told():
    assert "1" in words_of(rows([Row("a", point=0.1)], [], [], label="", most=1.0))


def test_the_same_numbers_are_the_same_bytes():
    assert some_steps() == some_steps()
