"""What the charts of an audit are told: curves, spend, bounds apart from estimates, and any content of attack.json."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest

from shared.audit import figures
from shared.audit.over_time import Curve
from shared.audit.verify import verify

BOUND = {
    "method": "steinke-2023",
    "view": "all rounds",
    "epsilon": 2.449,
    "guesses": 1000,
    "right": 893,
    "power_cap": 5.81,
}
ESTIMATE = {"method": "gdp", "view": "all rounds", "epsilon": 7.1}


@cache
def audit(make):
    return verify(make(), subject="runs/1")


@pytest.fixture
def report(made):
    return audit(made)


def attacked(report, **canaries):
    return replace(report, attack={"canaries": canaries})


def label(figure):
    return re.search(r'aria-label="([^"]+)"', str(figure.chart))[1]


def test_every_kind_has_a_line_and_the_total_is_drawn_last(report):
    figure = figures.over_time(report, "en")
    assert [name for name, _ in figure.table][-1] == "all together"
    assert {name for name, _ in figure.table} == {"updates", "measurements", "statistics", "all together"}
    assert label(figure).startswith("Steps: epsilon by round, 0 to 2; all together it ends at")


def test_the_last_epsilon_is_rounded_up(report):
    curve = Curve("all", (0, 1), (1.0, 7.991))
    assert figures.over_time(replace(report, epsilon_over_time=(curve,)), "en").table == [["all together", "8.00"]]


def test_without_a_claim_no_line_of_a_claim_is_drawn(report):
    assert "claimed-line" in figures.over_time(report, "en").chart
    assert "claimed-line" not in figures.over_time(replace(report, claimed=None), "en").chart


def test_participations_stand_beside_what_is_allowed(report):
    assert ["updates", "2", "2"] in figures.spending(report, "en").table
    assert ["模型更新", "2", "2"] in figures.spending(report, "zh").table


def test_a_bound_is_a_bar_and_its_numbers_never_flatter(report):
    figure = figures.empirical(attacked(report, bounds=[BOUND], confidence=0.95), "en")
    assert figure.table == [["Steinke et al. 2023, seeing all rounds", "2.44", "5.81", "893 / 1000", "95%", "-"]]
    assert str(figure.chart).count('<rect class="bar"') == 2  # the bar and its key


def test_an_estimate_is_a_point_and_never_a_bar(report):
    figure = figures.empirical(attacked(report, bounds=[BOUND], estimates=[ESTIMATE]), "en")
    assert str(figure.chart).count('<rect class="bar"') == 2
    assert str(figure.chart).count('<path class="point"') == 2
    assert len(figure.table) == 1


def test_a_bound_above_its_cap_leaves_nothing_undecided(report):
    chart = str(figures.empirical(attacked(report, bounds=[{**BOUND, "epsilon": 9.0}]), "en").chart)
    assert chart.count('<path class="reach"') == 1  # the key alone


def test_membership_shows_its_interval_and_what_epsilon_allows(report):
    mode = {"mode": "distributed", "advantage": 0.04, "low": -0.1, "high": 0.1, "implied": 0.4}
    chart = str(figures.membership(replace(report, attack={"imia": {"modes": [mode]}}), "zh").chart)
    assert "分布式" in chart
    assert chart.count('<path class="limit"') == 2


@pytest.mark.parametrize("attack", [None, {}, {"canaries": []}, {"imia": {"modes": [3]}}])
def test_nothing_to_show_is_no_chart(report, attack):
    told = replace(report, attack=attack, spend=None, epsilon_over_time=())
    made = [f(told, "en") for f in (figures.over_time, figures.spending, figures.empirical, figures.membership)]
    assert all(figure.chart is None for figure in made)
