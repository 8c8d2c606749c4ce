from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import PolicySection, first_policy
from shared.policy.control import step
from shared.policy.dual import CAP, PRICE_LIMIT, PRICE_STEP, SURE, UNSEEN_LIMIT
from shared.policy.memory import Memory
from shared.policy.recall_policy import policy_from_dict, policy_to_dict
from shared.policy.sight import Seen, Sight, Targets

ITEMS = 50
# Depth and chance places are at their limits, and the catalogue is so large that they reach little of it.
ALL = ("text", "lexical", "category", "popularity")
POLICY = first_policy(PolicySection(features=ALL, exploration=0.5, depth=1_000_000))
TARGETS = Targets(recall=0.0, coverage=0.9, items=1_000_000)
LISTS = 10_000.0  # 200 a bucket in a fair world
SHARP, VAGUE = Seen(0.3, 0.003), Seen(0.3, 0.03)
# Bucket 0 takes five times the cap, bucket 1 a little more than it, the others less.
COUNTS = (10_000, 2_100) + (40,) * (ITEMS - 2)


def a_sight(recall=SHARP, coverage=0.2, counts=COUNTS, sigma=0.0, **more):
    return Sight(recall, effective=Seen(coverage, 0.01), exposures=counts, exposure_sigma=sigma, lists=LISTS, **more)


def decide(policy=POLICY, sight=None, memory=None, targets=TARGETS):
    return step("dual", policy, memory or Memory(policy), sight or a_sight(), targets)


def test_prices_rise_where_exposure_exceeds_the_cap_in_proportion_to_the_excess():
    taken = decide()
    assert taken.decision == "move"
    assert taken.policy.exposure_prices[0] == PRICE_STEP  # one step at most
    assert 0 < taken.policy.exposure_prices[1] < PRICE_STEP
    assert set(taken.policy.exposure_prices[2:]) == {0}
    assert "2 of 50 buckets pay more, at most 0.10" in taken.reason


def test_only_what_exceeds_the_noise_is_priced():
    cap = CAP * LISTS / ITEMS
    sigma = (10_000 - cap) / SURE
    assert decide(sight=a_sight(sigma=sigma * 1.01)).policy.exposure_prices == ()
    assert sum(p > 0 for p in decide(sight=a_sight(sigma=sigma * 0.99)).policy.exposure_prices) == 1


def test_with_nothing_but_noise_no_bucket_is_priced():
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = tuple(int(c) for c in np.rint(200 + 1500 * rng.standard_normal(ITEMS)))
        assert decide(sight=a_sight(counts=counts, sigma=1500.0)).policy.exposure_prices == ()


def test_chance_places_answer_the_constraint_on_coverage_in_the_same_step():
    first = replace(POLICY, exploration=0.0)
    taken = decide(first)
    assert taken.policy.exploration > 0
    assert any(taken.policy.exposure_prices)
    assert taken.memory.knob == "exposure prices"
    assert "exploration share" in taken.reason


def test_prices_rise_report_after_report_up_to_a_limit():
    for recall, limit in ((SHARP, PRICE_LIMIT), (VAGUE, UNSEEN_LIMIT)):
        policy, memory, highest = POLICY, Memory(POLICY), []
        for _ in range(50):
            taken = decide(policy, a_sight(recall), memory)
            policy, memory = taken.policy, taken.memory
            highest.append(max(policy.exposure_prices))
        assert highest == sorted(highest)
        assert highest[-1] == limit


def test_a_constraint_that_does_not_bind_costs_nothing():
    priced = replace(POLICY, exposure_prices=(25, 4) + (0,) * (ITEMS - 2))
    lower = decide(priced, a_sight(coverage=0.95))
    assert (lower.decision, lower.policy.exposure_prices[:3]) == ("move", (15, 0, 0))
    assert "coverage 0.95" in lower.reason
    cheap = replace(priced, exposure_prices=(5, 5) + (0,) * 48)
    assert decide(cheap, a_sight(coverage=0.95)).policy.exposure_prices == ()


def test_within_the_noise_of_the_target_prices_stay():
    priced = replace(POLICY, exploration=0.0, exposure_prices=(25, 4) + (0,) * (ITEMS - 2))
    assert decide(priced, a_sight(coverage=0.905)).policy == priced


def test_prices_that_cost_recall_are_taken_back_and_rest():
    taken = decide()
    back = decide(taken.policy, a_sight(Seen(0.25, 0.003)), taken.memory)
    assert (back.decision, back.policy.exposure_prices) == ("rollback", ())
    assert decide(back.policy, a_sight(), back.memory).policy.exposure_prices == ()


def test_exposures_that_cannot_be_told_price_nothing():
    assert decide(sight=replace(a_sight(), exposures=None)).policy.exposure_prices == ()
    assert decide(sight=replace(a_sight(), lists=0.0)).policy.exposure_prices == ()


@given(
    st.lists(st.integers(-(10**6), 10**9), min_size=1, max_size=8),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.floats(0, 0.1),
    st.floats(0, 1e6),
)
def test_wherever_it_goes_a_client_accepts_the_policy(counts, sigma, coverage, bar, lists):
    policy, memory = POLICY, Memory(POLICY)
    for _ in range(5):
        sight = Sight(Seen(0.3, bar), None, Seen(coverage, bar), None, (), tuple(counts), sigma, lists)
        taken = step("dual", policy, memory, sight, TARGETS)
        policy, memory = taken.policy, taken.memory
        assert policy_from_dict(policy_to_dict(policy)) == policy
        assert len(policy.exposure_prices) in {0, len(counts)}


def test_low_recall_brings_features_in_first():
    policy = replace(POLICY, features=("text",))
    assert decide(policy, targets=replace(TARGETS, recall=0.5)).policy.features == ("text", "lexical")


@pytest.mark.parametrize("factor", [1, 10])
def test_with_ten_times_the_noise_it_stands_still(factor):
    sight = a_sight(Seen(0.3, 0.022 * factor), sigma=33.0 * factor)
    assert (decide(sight=sight).decision == "hold") == (factor == 10)
