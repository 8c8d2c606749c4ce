"""The one-off statistics: popularity as it was sent, and thresholds that part users into three."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.statistics import read_statistics, terciles
from shared.privacy.calibration import make_plan
from shared.privacy.clipping import clip_to_grid
from shared.privacy.plan import RELEASES, Target
from shared.recall.report import HISTORY_BINS, HISTORY_WEIGHT, POPULARITY_WEIGHT


def bins_of(lengths):
    return np.bincount([int(n).bit_length() - 1 for n in lengths], minlength=HISTORY_BINS).astype(np.float64)


def groups(lengths, activity):
    low, high = activity
    return np.mean(lengths < low), np.mean((lengths >= low) & (lengths < high)), np.mean(lengths >= high)


@pytest.mark.parametrize(("mean", "spread"), [(4.0, 1.0), (3.0, 0.7), (5.0, 0.3), (2.0, 0.5)])
def test_without_noise_terciles_part_users_into_three_of_about_the_same_size(mean, spread):
    lengths = np.maximum(1, np.rint(np.exp(np.random.default_rng(0).normal(mean, spread, 3000)))).astype(int)
    for share in groups(lengths, terciles(bins_of(lengths), 0.0)):
        assert share == pytest.approx(1 / 3, abs=0.12 if mean > 2 else 0.2)  # short ones are few


def test_with_noise_they_still_do():
    rng = np.random.default_rng(1)
    lengths = np.maximum(1, np.rint(np.exp(rng.normal(4, 1, 943)))).astype(int)
    for _ in range(50):
        found = terciles(bins_of(lengths) + rng.normal(0, 9.0, HISTORY_BINS), 9.0)
        assert max(groups(lengths, found)) < 0.5
        assert min(groups(lengths, found)) > 0.18


def test_where_noise_hides_them_there_are_none():
    bins = bins_of(np.full(100, 20))
    assert terciles(bins, 20.0) == (0, 0)
    assert terciles(np.zeros(HISTORY_BINS), 0.0) == (0, 0)
    assert terciles(-bins, 1.0) == (0, 0)
    assert terciles(bins, 1.0) != (0, 0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=HISTORY_BINS, max_size=HISTORY_BINS), st.floats(0, 100))
def test_whatever_the_noise_thresholds_are_in_order_or_unknown(bins, noise):
    low, high = terciles(np.array(bins), noise)
    assert (low, high) == (0, 0) or 1 <= low <= high <= 2**HISTORY_BINS


@pytest.mark.parametrize("epsilon", [None, 8.0])
def test_popularity_comes_back_as_it_was_sent(epsilon):
    plan = make_plan(
        Target(
            kind="simulation",
            unit="user",
            trust="distributed",
            epsilon=epsilon,
            delta=1e-4,
            population=300,
            smallest_cohort=270,
            collusion=0.0,
            rounds=1,
            update_participations=1,
            measurement_participations=0,
            shares={**dict.fromkeys(RELEASES, 0.0), "update": 0.9, "statistics": 0.1},
            update_dimension=100,
            clip=1.0,
        )
    )
    row = np.zeros(10 + HISTORY_BINS)
    row[[2, 5]] = POPULARITY_WEIGHT / np.sqrt(2)
    row[10 + 3] = HISTORY_WEIGHT
    total = clip_to_grid(np.tile(row, (300, 1)), 1.0, plan.statistics.steps).sum(0, dtype=np.int64)
    made = read_statistics(plan, total, 300)
    assert made.popularity == pytest.approx(np.where(np.isin(np.arange(10), [2, 5]), 300 / np.sqrt(2), 0), abs=0.1)
    assert made.noise == pytest.approx(plan.sum_sigma("statistics", 300) / plan.statistics.steps / POPULARITY_WEIGHT)
    if epsilon is None:
        assert 8 <= made.activity[0] <= made.activity[1] <= 16
    quiet = replace(plan, statistics=replace(plan.statistics, noise_multiplier=1e6))
    assert read_statistics(quiet, total, 300).activity == (0, 0)
