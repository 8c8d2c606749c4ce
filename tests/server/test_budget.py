"""How much of the budget measurements get: enough to tell recall, never more than updates can spare."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.budget import ERROR, HOPELESS, LEAST, MOST, measurement_share, measuring, profile_signal, recall_spread
from shared.privacy.calibration import make_plan
from shared.privacy.plan import RELEASES, Target
from shared.recall.report import ReportLayout, smallest_exposure

LAYOUT = ReportLayout(20, 1000)


def target(**changes):
    first = Target(
        kind="simulation",
        unit="user",
        trust="distributed",
        epsilon=8.0,
        delta=1e-5,
        population=943,
        smallest_cohort=849,
        collusion=0.1,
        rounds=40,
        update_participations=40,
        measurement_participations=8,
        shares={},
        update_dimension=1000,
        clip=0.5,
        users=943,
    )
    return replace(first, **changes)


def planned(aim, share):
    shares = {**dict.fromkeys(RELEASES, 0.0), "update": 1.0 - share, "measurement": share}
    return make_plan(replace(aim, shares=shares))


def error_of(aim, share, layout=LAYOUT):
    """Standard error of recall in the smallest cohort of the plan that a share makes."""
    made = planned(aim, share)
    users = aim.smallest_cohort * max(aim.users, aim.population) / aim.population
    sigma = made.sum_sigma("measurement", aim.smallest_cohort) / made.measurement.steps
    return sigma * recall_spread(layout) / users


@pytest.mark.parametrize(
    "changes", [{}, {"population": 2000, "smallest_cohort": 900}, {"measurement_participations": 4}]
)
def test_within_bounds_it_is_the_smallest_share_that_keeps_the_error(changes):
    aim = target(**changes, users=0)
    share = measurement_share(aim, LAYOUT)
    assert LEAST < share < MOST
    assert error_of(aim, share) == pytest.approx(ERROR, rel=1e-3)


def test_the_default_run_gives_updates_most():
    assert 0.05 <= measurement_share(target(), LAYOUT) <= 0.15


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"population": 9000, "smallest_cohort": 8100}, LEAST),  # it takes less than the least
        ({"epsilon": 4.0}, MOST),  # it takes more than the most
        ({"epsilon": 0.5}, LEAST),  # out of reach
        ({"population": 50, "smallest_cohort": 45}, LEAST),  # likewise
        ({"epsilon": None}, LEAST),
        ({"epsilon": -3.0}, LEAST),  # refused elsewhere, with its sentence
        ({"epsilon": 1e9}, LEAST),
        ({"delta": 0.0}, LEAST),
    ],
)
def test_bounds(changes, share):
    assert measurement_share(target(**{"users": 0, **changes}), LAYOUT) == share


def test_out_of_reach_means_that_even_the_most_would_tell_nothing():
    aim = target(epsilon=0.5)
    assert error_of(aim, MOST) > HOPELESS
    assert error_of(target(epsilon=4.0), MOST) <= HOPELESS


@settings(max_examples=25, deadline=None)
@given(
    epsilon=st.sampled_from([1.0, 4.0, 8.0, 30.0]),
    trust=st.sampled_from(["distributed", "central", "local"]),
    measured=st.integers(1, 50),
    shadows=st.integers(0, 8),
    users=st.sampled_from([0, 943, 20_000]),
)
def test_any_public_facts_give_a_share_within_bounds(epsilon, trust, measured, shadows, users):
    aim = target(epsilon=epsilon, trust=trust, measurement_participations=measured, users=users)
    assert LEAST <= measurement_share(aim, ReportLayout(20, 1000, shadows, trust == "central")) <= MOST


def test_shadows_and_more_measurements_cost_more():
    aim = target(users=0, population=2000, smallest_cohort=1100)
    share = measurement_share(aim, LAYOUT)
    assert measurement_share(aim, ReportLayout(20, 1000, 4)) > share
    assert measurement_share(replace(aim, measurement_participations=9), LAYOUT) > share


def test_the_sentence_states_share_error_and_m():
    made = planned(target(), 0.1)
    said = measuring(made, LAYOUT, 943)
    assert "8 a client at most, 10% of the budget" in said
    assert f"standard error of {error_of(target(), 0.1):.3f}" in said
    assert said.endswith(f"coverage from {smallest_exposure(made, LAYOUT)} exposures an item (m).")


def test_the_sentence_says_where_exposures_drown():
    made = planned(target(epsilon=1.0), 0.05)
    assert "exposures drown in noise: that takes" in measuring(made, LAYOUT, 943)
    assert math.isfinite(float(made.measurement.noise_multiplier))


# --- what the noise leaves of the profiles: the encoder's sizes follow from it

PROFILE = {"update": 0.6, "measurement": 0.1, "statistics": 0.0, "profile": 0.3}


@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
@pytest.mark.parametrize("users", [943, 9430])
def test_the_signal_of_profiles_is_people_over_the_noise_in_the_sum_of_the_smallest_cohort(trust, users):
    aim = target(trust=trust, shares=PROFILE, users=users)
    made = make_plan(aim)
    sigma = made.sum_sigma("profile", 849) / made.profile.steps
    assert profile_signal(aim) == pytest.approx(849 * users / 943 / sigma, rel=1e-4)


def test_under_unit_interaction_a_profile_bears_twice_the_noise():
    user, event = (target(trust="local", shares=PROFILE, unit=unit) for unit in ("user", "interaction"))
    assert profile_signal(event) == pytest.approx(profile_signal(user) / 2)


def test_without_noise_the_signal_is_infinite_and_without_a_release_there_is_none():
    assert math.isinf(profile_signal(target(epsilon=None, shares=PROFILE)))
    assert profile_signal(target(shares={**PROFILE, "profile": 0.0})) == 0.0
    for absurd in ({"epsilon": -3.0}, {"epsilon": 1e9}, {"delta": 0.0}):  # refused elsewhere, with its sentence
        assert profile_signal(target(shares=PROFILE, **absurd)) == 0.0
