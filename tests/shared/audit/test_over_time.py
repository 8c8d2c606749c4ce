"""Epsilon over time: of whoever had spent most by then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.audit.executed import Exchange, bound, executed
from shared.audit.over_time import POINTS, curves


def test_a_curve_never_falls_and_ends_at_what_the_worst_client_spent(made):
    (run,) = executed(made())
    for curve in curves(run):
        assert list(curve.epsilon) == sorted(curve.epsilon)
    everything = curves(run)[0]
    assert everything.kind == "all"
    assert everything.epsilon[-1] == pytest.approx(bound(run.plan.claimed(run.plan.full()), run.plan.delta))


def test_a_cohort_that_had_spent_less_leaves_the_curve_where_it_was(made):
    (run,) = executed(made())
    update = run.plan.update
    turns = tuple(Exchange(number, "update", update, (str(number % 2),)) for number in range(1, 5))
    curve = curves(replace(run, exchanges=turns))[0]
    assert curve.rounds == (1, 2, 3, 4)
    assert curve.epsilon[0] == curve.epsilon[1] < curve.epsilon[2] == curve.epsilon[3]


def test_a_long_run_is_thinned_to_what_a_page_shows_with_both_ends(made):
    (run,) = executed(made())
    many = tuple(Exchange(number, "update", run.plan.update, (str(number),)) for number in range(1, 5001))
    curve = curves(replace(run, exchanges=many))[0]
    assert len(curve.rounds) <= POINTS
    assert (curve.rounds[0], curve.rounds[-1]) == (1, 5000)


def test_without_privacy_there_is_no_curve(made, planned):
    (run,) = executed(made(planned(epsilon=None)))
    assert curves(run) == ()
