"""What stands out of the noise, and how rarely it is noise."""

from __future__ import annotations

import numpy as np
import pytest

from server.trending import FALSE, LONGEST, read_trending
from shared.privacy.calibration import make_plan
from shared.privacy.plan import RELEASES, Target

ITEMS = 500
PEOPLE = 300


def a_plan(epsilon: float | None = 8.0, trust: str = "distributed"):
    return make_plan(
        Target(
            kind="simulation",
            unit="user",
            trust=trust,
            epsilon=epsilon,
            delta=1e-5,
            population=PEOPLE,
            smallest_cohort=270,
            collusion=0.0,
            rounds=1,
            update_participations=1,
            measurement_participations=0,
            trending_participations=1,
            shares={**dict.fromkeys(RELEASES, 0.0), "update": 0.5, "trending": 0.5},
            update_dimension=100,
            clip=1.0,
        )
    )


def noisy(plan, true, rng):
    sigma = plan.sum_sigma("trending", PEOPLE)
    return np.rint(np.asarray(true) * plan.trending.steps + rng.normal(0, sigma, len(true))).astype(np.int64)


@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
def test_where_nobody_came_to_anything_a_list_is_almost_always_empty(trust):
    plan, rng = a_plan(trust=trust), np.random.default_rng(0)
    wrong = sum(bool(read_trending(plan, noisy(plan, np.zeros(ITEMS), rng), PEOPLE)) for _ in range(400))
    assert 0 < wrong / 400 < FALSE + 0.05  # of true nothing, any item at all is false: its rate is FALSE


def test_of_what_is_listed_few_are_items_that_nobody_came_to():
    plan, rng = a_plan(), np.random.default_rng(1)
    sigma = plan.sum_sigma("trending", PEOPLE) / plan.trending.steps
    true = np.zeros(ITEMS)
    true[:60] = np.linspace(2, 8, 60) * sigma
    shares, found = [], []
    for _ in range(200):
        listed = read_trending(plan, noisy(plan, true, rng), PEOPLE)
        shares.append(np.mean(np.array(listed) >= 60))
        found.append(np.mean(np.isin(np.arange(30, 60), listed)))
    assert np.mean(shares) < FALSE
    assert np.mean(found) > 0.95


def test_the_hottest_come_first():
    plan = a_plan()
    sigma = plan.sum_sigma("trending", PEOPLE)
    total = np.zeros(ITEMS, np.int64)
    total[[7, 3, 11]] = np.array([50, 90, 70]) * int(sigma)
    assert read_trending(plan, total, PEOPLE) == (3, 11, 7)


def test_a_list_has_an_end():
    assert len(read_trending(a_plan(), np.full(ITEMS, 10**9), PEOPLE)) == LONGEST
    assert len(read_trending(a_plan(None), np.ones(ITEMS, np.int64), PEOPLE)) == LONGEST


def test_without_privacy_everything_that_anybody_came_to_is_listed_and_nothing_else():
    total = np.zeros(ITEMS, np.int64)
    total[[4, 2]] = [1, 2]
    assert read_trending(a_plan(None), total, PEOPLE) == (2, 4)
    assert read_trending(a_plan(None), np.zeros(ITEMS, np.int64), PEOPLE) == ()
