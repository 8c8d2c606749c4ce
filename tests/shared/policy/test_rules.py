from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import PolicySection, first_policy
from shared.policy.control import step
from shared.policy.coverage import DEPTH_LIMIT
from shared.policy.memory import Memory
from shared.policy.recall_policy import BOUNDS, WEIGHT_BOUND, policy_from_dict, policy_to_dict
from shared.policy.sight import Seen, Sight, Targets

WEIGHTS = {"text": 5.0, "lexical": 1.0, "category": 1.0, "popularity": 1.0}
POLICY = first_policy(PolicySection(features=("text", "popularity"), weights=WEIGHTS, depth=100))
START = Memory(POLICY)
TARGETS = Targets(recall=0.30, coverage=0.50, items=1000)
GOOD, LOW = Seen(0.35, 0.01), Seen(0.20, 0.005)
COVERED, NARROW = Seen(0.60, 0.02), Seen(0.20, 0.02)
SHARP = Seen(0.35, 0.005)
VAGUE = Seen(0.35, 0.03)  # too noisy to notice a loss of five percent


def drive(recall, coverage, rounds, policy=POLICY, targets=TARGETS, **more):
    """The steps of a run in which every report looks the same."""
    memory, taken = Memory(policy), []
    for _ in range(rounds):
        sight = Sight(recall, coverage, lists=20_000.0, **more)
        taken.append(step("rules", policy, memory, sight, targets))
        policy, memory = taken[-1].policy, taken[-1].memory
    return taken


def knobs(steps):
    return [s.memory.knob for s in steps if s.decision == "move"]


# --- what it does


def test_low_recall_brings_features_in_one_by_one_and_then_reweighs_the_text():
    steps = drive(LOW, COVERED, 20)
    assert [s.policy.features for s in steps[:3]] == [
        ("text", "lexical", "popularity"),
        ("text", "lexical", "category", "popularity"),
        ("text", "lexical", "category", "popularity"),
    ]
    assert steps[2].policy.weights["text"] == pytest.approx(5.5)
    assert steps[-1].policy.weights["text"] == pytest.approx(7.5)  # the limit, half as much again
    assert steps[-1].decision == "hold"
    assert "every knob is at its limit or rests" in steps[-1].reason


def test_a_feature_of_weight_zero_is_no_help():
    policy = replace(POLICY, weights=dict(POLICY.weights) | {"lexical": 0.0})
    assert "lexical" not in drive(LOW, COVERED, 3, policy)[-1].policy.features


def test_low_coverage_deepens_then_leaves_places_to_chance_then_prices_exposure_then_iterates():
    steps = drive(GOOD, NARROW, 30)
    turned = list(dict.fromkeys(knobs(steps)))
    assert turned == ["depth", "exploration", "exposure price", "local iterations"]
    last = steps[-1].policy
    assert (last.depth, last.exploration, last.exposure_price, last.local_iterations) == (1000, 0.2, 3.0, 2)
    assert steps[-1].decision == "hold"


def test_while_nobody_would_notice_a_loss_only_what_is_bounded_is_turned():
    steps = drive(VAGUE, NARROW, 30)
    assert set(knobs(steps)) == {"depth", "exploration"}
    assert steps[-1].policy.exploration == 0.05
    assert "might cost more recall than is noticed under +-0.030" in steps[-1].reason
    low = drive(Seen(0.20, 0.02), COVERED, 10)
    assert low[-1].policy.weights == POLICY.weights
    assert low[-1].policy.features == ("text", "lexical", "category", "popularity")


def test_iterations_that_the_plan_accounts_for_are_no_knob():
    targets = replace(TARGETS, iterations_fixed=True)
    assert drive(GOOD, NARROW, 30, targets=targets)[-1].policy.local_iterations == 1


def test_recall_comes_before_coverage_until_nothing_is_left_to_try_for_it():
    turned = knobs(drive(LOW, NARROW, 12))
    assert "feature" in turned[0]
    assert turned.index("depth") > max(n for n, knob in enumerate(turned) if knob == "weight text")


def test_targets_that_are_met_are_left_alone():
    (taken,) = drive(GOOD, COVERED, 1)
    assert (taken.decision, taken.policy) == ("hold", POLICY)
    assert "meet the targets or are within the noise" in taken.reason


def test_one_knob_at_a_time_and_every_move_has_a_new_version_and_a_reason():
    policy = POLICY
    for taken in drive(LOW, NARROW, 24):
        before, after = policy_to_dict(policy), policy_to_dict(taken.policy)
        changed = {name for name in before if before[name] != after[name]}
        assert len(changed - {"version"}) == (taken.decision == "move")
        assert taken.policy.version - policy.version == (taken.decision == "move")
        assert taken.reason
        policy = taken.policy


# --- fairness


def test_a_gap_is_only_reported_until_fairness_gives_it_a_weight():
    gap = Seen(0.100, 0.005)
    assert knobs(drive(SHARP, COVERED, 3, gap=gap)) == []
    steps = drive(SHARP, COVERED, 12, targets=replace(TARGETS, fairness=1.0), gap=gap)
    assert set(knobs(steps)) == {"weight popularity"}
    assert steps[0].policy.weights["popularity"] == pytest.approx(1.5)
    assert steps[-1].policy.weights["popularity"] == pytest.approx(4.0)
    assert "gap 0.100 +- 0.005 between activity groups, weighed 1" in steps[0].reason


def test_popularity_comes_in_where_it_is_off():
    policy = replace(POLICY, features=("text",))
    steps = drive(SHARP, COVERED, 2, policy, replace(TARGETS, fairness=1.0), gap=Seen(0.10, 0.005))
    assert knobs(steps) == ["feature popularity", "weight popularity"]


@pytest.mark.parametrize("features", [("text",), ("text", "popularity")])
@pytest.mark.parametrize(("recall", "bar"), [(GOOD, 0.02), (VAGUE, 0.001)])
def test_a_gap_moves_nothing_while_nobody_would_notice_what_that_costs(recall, bar, features):
    (taken,) = drive(
        recall, COVERED, 1, replace(POLICY, features=features), replace(TARGETS, fairness=1.0), gap=Seen(0.10, bar)
    )
    assert taken.decision == "hold"
    assert taken.reason.startswith("gap 0.100 +- 0.0")
    assert "might cost more recall than is noticed under +-0.0" in taken.reason


def test_a_gap_within_its_noise_moves_nothing():
    assert knobs(drive(SHARP, COVERED, 3, targets=replace(TARGETS, fairness=1.0), gap=Seen(0.02, 0.006))) == []


# --- noise


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_it_moves_only_when_the_error_bar_lies_below_the_target(recall, bar, coverage, width):
    taken = step("rules", POLICY, START, Sight(Seen(recall, bar), Seen(coverage, width), lists=2e4), TARGETS)
    low = recall + bar < TARGETS.recall or coverage + width < TARGETS.coverage
    assert (taken.decision == "move") == (low and bar <= 0.25 * recall)


def test_with_ten_times_the_noise_it_stands_still_rather_than_wander():
    rng = np.random.default_rng(0)
    for factor, decisions in ((1, {"move", "hold"}), (10, {"hold"})):
        policy, memory, made = POLICY, START, set()
        for _ in range(60):
            recall = Seen(0.28 + 0.011 * factor * rng.standard_normal(), 0.022 * factor)
            effective = Seen(0.08 + 0.017 * factor * rng.standard_normal(), 0.033 * factor)
            taken = step("rules", policy, memory, Sight(recall, effective=effective, lists=2e4), TARGETS)
            policy, memory = taken.policy, taken.memory
            made.add(taken.decision)
        assert decisions <= made <= decisions | ({"rollback"} if factor == 1 else set())
        assert (policy == POLICY) == (factor == 10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_moves_nothing(bad):
    (moved,) = drive(LOW, COVERED, 1)
    for recall in (Seen(bad, 0.01), Seen(0.0, bad)):
        assert step("rules", moved.policy, moved.memory, Sight(recall), TARGETS).policy == moved.policy


def test_what_cannot_be_told_holds_and_says_so():
    taken = step("rules", POLICY, START, Sight(None, NARROW), TARGETS)
    assert (taken.decision, taken.policy, taken.reason) == ("hold", POLICY, "recall cannot be told")
    taken = step("rules", POLICY, START, Sight(GOOD), TARGETS)
    assert (taken.decision, taken.policy) == ("hold", POLICY)
    assert "coverage cannot be told" in taken.reason


# --- limits


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.3), st.floats(0, 1), st.floats(0, 0.3)), max_size=20))
def test_wherever_it_goes_a_client_accepts_the_policy(reports):
    wide = replace(POLICY, depth=900_000, exploration=0.48, weights=dict(POLICY.weights) | {"text": 900.0})
    targets = replace(TARGETS, fairness=2.0)
    for first in (POLICY, wide):
        policy, memory = first, Memory(first)
        for recall, bar, coverage, width in reports:
            sight = Sight(Seen(recall, bar), Seen(coverage, width), gap=Seen(width, bar), lists=100.0 * coverage)
            taken = step("rules", policy, memory, sight, targets)
            policy, memory = taken.policy, taken.memory
            assert policy_from_dict(policy_to_dict(policy)) == policy
            assert first.depth <= policy.depth <= DEPTH_LIMIT * first.depth
            assert policy.weights["text"] <= 1.5 * first.weights["text"]
            assert 0 <= policy.exposure_price <= 3.0
            assert 1 <= policy.local_iterations <= 2
            assert (policy.k, policy.diversity, policy.exposure_prices) == (20, 0.0, ())


def test_the_protocols_bounds_are_the_last_limit():
    first = replace(POLICY, depth=900_000, exploration=0.48, weights=dict(POLICY.weights) | {"text": 900.0})
    targets = replace(TARGETS, items=10_000_000)
    wide = drive(GOOD, NARROW, 40, first, targets)[-1].policy
    assert (wide.depth, wide.exploration) == (BOUNDS["depth"][1], BOUNDS["exploration"][1])
    assert drive(LOW, COVERED, 40, first)[-1].policy.weights["text"] == WEIGHT_BOUND
