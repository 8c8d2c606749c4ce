"""How a report's parts share one sensitivity: no report is longer than one, whatever it says."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.privacy.calibration import make_plan
from shared.privacy.clipping import clip_to_grid
from shared.privacy.plan import RELEASES, Target
from shared.recall.report import (
    ACTIVITY,
    CENTRE,
    HISTORY_WEIGHT,
    LARGEST_SHADOWS,
    POPULARITY_WEIGHT,
    SCALARS,
    USEFUL,
    ReportLayout,
    activity_group,
    smallest_exposure,
    useful_users,
)

LAYOUTS = [
    ReportLayout(k, k, s, c) for k, s, c in product([1, 10, 20, 1000], [0, 1, 4, LARGEST_SHADOWS], [False, True])
]
layouts = st.builds(ReportLayout, st.integers(1, 300), st.just(300), st.integers(0, LARGEST_SHADOWS), st.booleans())


def a_report(layout, recall, ndcg, shadows, group):
    """What a user with these numbers reports: the k first buckets shown."""
    said = {"recall": recall - CENTRE, "ndcg": ndcg - CENTRE, "users": 1.0}
    said |= {f"ndcg:{g}": (ndcg - CENTRE) * (g == group) for g in ACTIVITY}
    said |= {f"users:{g}": float(g == group) for g in ACTIVITY}
    row = np.zeros(layout.length)
    row[: len(SCALARS)] = [said[name] * layout.weight(name) for name in SCALARS]
    row[layout.shadowed] = (np.array(shadows) - CENTRE) * layout.weight("shadow")
    row[layout.exposures][: layout.k] = layout.weight("exposure")
    return row


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_longest_report_leaves_exactly_room_for_what_the_server_adds(layout, end):
    row = a_report(layout, end, 1.0 - end, [end] * layout.shadows, "middle")
    added = (layout.k * layout.weight("distinct")) ** 2
    assert (added > 0) == layout.central
    assert math.fsum(x * x for x in row) + added == pytest.approx(1.0, abs=1e-12)


@given(
    layout=layouts,
    numbers=st.lists(st.floats(0, 1), min_size=2 + LARGEST_SHADOWS, max_size=2 + LARGEST_SHADOWS),
    group=st.sampled_from(ACTIVITY),
)
def test_no_report_is_longer(layout, numbers, group):
    row = a_report(layout, numbers[0], numbers[1], numbers[2 : 2 + layout.shadows], group)
    assert np.linalg.norm(row) <= 1.0 + 1e-12
    grid = clip_to_grid(row[None], 1.0, 1 << 16)[0]
    assert grid / (1 << 16) == pytest.approx(row, abs=2 / (1 << 16))  # the clip leaves it whole


@given(layout=layouts)
def test_every_part_has_a_place_and_a_weight(layout):
    places = [*range(len(SCALARS)), *range(layout.length)[layout.shadowed], *range(layout.length)[layout.exposures]]
    assert places == list(range(layout.length))
    parts = [*SCALARS, "exposure", *(["shadow"] if layout.shadows else []), *(["distinct"] if layout.central else [])]
    assert min(layout.weight(part) for part in parts) > 0


def test_numbers_are_centred_so_that_they_may_weigh_twice_as_much():
    # In the same share of the norm a one has the weight w, and a number in 0..1 sent less a half has 2 w.
    layout = ReportLayout(20, 100)
    assert layout.weight("ndcg:low") / layout.weight("users:low") == pytest.approx(2 * math.sqrt(0.07 / 0.06))


def test_recall_weighs_more_than_any_other_mean():
    for layout in LAYOUTS:
        others = [layout.weight(name) for name in ("ndcg", *(f"ndcg:{g}" for g in ACTIVITY))]
        assert layout.weight("recall") > max(others)


def test_one_more_place_in_the_list_makes_each_count_less():
    assert ReportLayout(40, 100).weight("exposure") == pytest.approx(ReportLayout(10, 100).weight("exposure") / 2)


def test_statistics_are_one_vector_of_length_one():
    assert pytest.approx(1.0, abs=1e-15) == POPULARITY_WEIGHT**2 + HISTORY_WEIGHT**2
    assert min(POPULARITY_WEIGHT, HISTORY_WEIGHT) > 0


@pytest.mark.parametrize(
    ("length", "group"), [(0, "low"), (34, "low"), (35, "middle"), (91, "middle"), (92, "high"), (10_000, "high")]
)
def test_thresholds_belong_to_the_group_above_them(length, group):
    assert activity_group(length, (35, 92)) == group


def test_where_thresholds_are_unknown_there_is_one_group():
    assert {activity_group(length, (0, 0)) for length in (0, 1, 500)} == {"high"}


def plan(users=1000, epsilon=8.0, smallest=0.9, trust="distributed"):
    return make_plan(
        Target(
            kind="simulation",
            unit="user",
            trust=trust,
            epsilon=epsilon,
            delta=1e-6,
            population=users,
            smallest_cohort=math.ceil(smallest * users),
            collusion=0.1,
            rounds=40,
            update_participations=40,
            measurement_participations=8,
            shares={**dict.fromkeys(RELEASES, 0.0), "update": 0.9, "measurement": 0.1},
            update_dimension=1000,
            clip=0.5,
        )
    )


def test_m_is_one_deviation_of_the_noise_in_an_item_and_of_the_plan_alone():
    made, layout = plan(), ReportLayout(20, 500)
    noise = made.sum_sigma("measurement", made.smallest_cohort) / made.measurement.steps / layout.weight("exposure")
    assert smallest_exposure(made, layout) - 1 < noise <= smallest_exposure(made, layout)
    assert useful_users(made, layout) == USEFUL * smallest_exposure(made, layout)


def test_more_budget_asks_for_fewer_exposures_and_none_for_one():
    layout = ReportLayout(20, 500)
    assert smallest_exposure(plan(epsilon=8.0), layout) < smallest_exposure(plan(epsilon=2.0), layout)
    assert smallest_exposure(plan(epsilon=None), layout) == 1


def test_under_trust_local_the_noise_of_all_clients_adds_up():
    layout = ReportLayout(20, 500)
    alone, together = (smallest_exposure(plan(trust=trust), layout) for trust in ("local", "distributed"))
    assert alone > 20 * together
