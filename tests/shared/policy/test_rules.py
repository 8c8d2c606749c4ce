from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.policy.recall_policy import BOUNDS, WEIGHT_BOUND, RecallPolicy, policy_from_dict, policy_to_dict
from shared.policy.rules import REST, RulesState, Seen, Targets, state_from_dict, state_to_dict, step

POLICY = RecallPolicy(
    version=1,
    similarity={"text": "cosine", "lexical": "cosine", "category": "cosine"},
    weights={"text": 5.0, "lexical": 1.0, "category": 1.0, "popularity": 1.0},
    features=("text", "popularity"),
    depth=100,
    local_iterations=1,
    exposure_price=0.0,
    diversity=0.0,
    exploration=0.0,
    k=20,
)
START = RulesState(POLICY)
TARGETS = Targets(recall=0.30, coverage=0.50)
GOOD, LOW = Seen(0.35, 0.01), Seen(0.20, 0.01)
COVERED, NARROW = Seen(0.60, 0.02), Seen(0.20, 0.02)


def drive(seen, rounds, policy=POLICY, state=START, targets=TARGETS):
    """The steps of a run in which the round always looks the same."""
    taken = []
    for number in range(rounds):
        recall, coverage = seen(number) if callable(seen) else seen
        taken.append(step(policy, state, recall, coverage, targets))
        policy, state = taken[-1].policy, taken[-1].state
    return taken


# --- what it does


def test_low_recall_brings_features_in_one_by_one_and_then_reweighs_the_text():
    steps = drive((LOW, COVERED), 20)
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
    assert "lexical" not in drive((LOW, COVERED), 3, policy, RulesState(policy))[-1].policy.features


def test_low_coverage_widens_the_depth_then_prices_exposure_then_iterates():
    steps = drive((GOOD, NARROW), 30)
    knobs = [s.state.knob for s in steps if s.decision == "move"]
    assert knobs[:2] == ["depth", "exposure price"]
    assert knobs[-1] == "local iterations"
    assert (steps[0].policy.depth, steps[1].policy.exposure_price) == (150, 0.5)
    last = steps[-1]
    assert (last.policy.depth, last.policy.exposure_price, last.policy.local_iterations) == (500, 3.0, 2)
    assert last.decision == "hold"


def test_iterations_that_the_plan_accounts_for_are_no_knob():
    targets = replace(TARGETS, iterations_fixed=True)
    assert drive((GOOD, NARROW), 30, targets=targets)[-1].policy.local_iterations == 1


def test_recall_comes_before_coverage_until_nothing_is_left_to_try_for_it():
    steps = drive((LOW, NARROW), 12)
    knobs = [s.state.knob for s in steps]
    assert "feature" in knobs[0]
    assert knobs.index("depth") > max(n for n, knob in enumerate(knobs) if knob == "weight text")


def test_targets_that_are_met_are_left_alone():
    (taken,) = drive((GOOD, COVERED), 1)
    assert (taken.decision, taken.policy) == ("hold", POLICY)
    assert "meet the targets or are within the noise" in taken.reason


def test_one_knob_at_a_time_and_every_move_has_a_new_version_and_a_reason():
    policy = POLICY
    for taken in drive((LOW, NARROW), 12) + drive((GOOD, NARROW), 12):
        before, after = policy_to_dict(policy), policy_to_dict(taken.policy)
        changed = {name for name in before if before[name] != after[name]}
        if taken.decision == "move" and policy.version < taken.policy.version:
            assert len(changed - {"version"}) == 1
        policy = taken.policy
        assert taken.reason


# --- noise


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_it_moves_only_when_the_error_bar_lies_below_the_target(recall, bar, coverage, width):
    taken = step(POLICY, START, Seen(recall, bar), Seen(coverage, width), TARGETS)
    low = recall + bar < TARGETS.recall or coverage + width < TARGETS.coverage
    assert (taken.decision == "move") == low


def test_with_ten_times_the_noise_it_holds_where_it_moved():
    assert drive((Seen(0.20, 0.02), Seen(0.20, 0.05)), 1)[0].decision == "move"
    assert drive((Seen(0.20, 0.20), Seen(0.20, 0.50)), 1)[0].decision == "hold"


def test_under_huge_noise_it_stands_still_for_ever():
    rng = np.random.default_rng(0)

    def noisy(_):
        return Seen(0.25 + 0.5 * rng.standard_normal(), 5.0), Seen(0.25 + 0.5 * rng.standard_normal(), 5.0)

    assert all(taken.policy == POLICY for taken in drive(noisy, 200))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_moves_nothing(bad):
    moved = drive((LOW, COVERED), 1)[0]
    for recall in (Seen(bad, 0.01), Seen(0.0, bad)):
        assert step(moved.policy, moved.state, recall, None, TARGETS).policy == moved.policy


def test_what_cannot_be_told_holds_and_says_so():
    taken = step(POLICY, START, None, NARROW, TARGETS)
    assert (taken.decision, taken.policy, taken.reason) == ("hold", POLICY, "recall cannot be told from this report")
    taken = step(POLICY, START, GOOD, None, TARGETS)
    assert (taken.decision, taken.policy) == ("hold", POLICY)
    assert "coverage cannot be told" in taken.reason


# --- the rollback guard


def after_a_move(value=0.35, bar=0.01):
    return step(POLICY, START, Seen(value, bar), NARROW, TARGETS)


def test_a_move_that_cost_recall_is_taken_back():
    moved = after_a_move()
    back = step(moved.policy, moved.state, Seen(0.31, 0.01), NARROW, TARGETS)
    assert back.decision == "rollback"
    assert back.policy == replace(POLICY, version=3)
    assert "recall fell from 0.350 +- 0.010 to 0.310 +- 0.010 after depth was turned" in back.reason


@pytest.mark.parametrize(
    ("recall", "bar"),
    [
        (0.34, 0.001),  # a loss of less than five percent is the price of a move
        (0.31, 0.05),  # a loss within the noise of the two measurements
        (0.40, 0.01),
    ],
)
def test_a_loss_within_the_noise_or_the_tolerance_is_none(recall, bar):
    moved = after_a_move()
    assert step(moved.policy, moved.state, Seen(recall, bar), NARROW, TARGETS).decision != "rollback"


def test_the_noise_of_both_measurements_counts():
    moved = after_a_move(bar=0.045)
    assert step(moved.policy, moved.state, Seen(0.29, 0.045), NARROW, TARGETS).decision != "rollback"
    moved = after_a_move(bar=0.03)
    assert step(moved.policy, moved.state, Seen(0.29, 0.03), NARROW, TARGETS).decision == "rollback"


def test_a_move_waits_for_the_next_report_that_can_tell():
    moved = after_a_move()
    silent = step(moved.policy, moved.state, None, None, TARGETS)
    assert step(silent.policy, silent.state, Seen(0.2, 0.01), None, TARGETS).decision == "rollback"


def test_a_knob_that_was_taken_back_rests_for_so_many_measurements():
    moved = after_a_move()
    back = step(moved.policy, moved.state, Seen(0.31, 0.01), NARROW, TARGETS)
    turned = [s.state.knob for s in drive((GOOD, NARROW), REST + 1, back.policy, back.state)]
    assert turned[:REST] == ["exposure price"] * REST
    assert turned[REST] == "depth"


# --- limits


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.3), st.floats(0, 1), st.floats(0, 0.3)), max_size=60))
def test_wherever_it_goes_a_client_accepts_the_policy(reports):
    wide = replace(POLICY, depth=900_000, weights=dict(POLICY.weights) | {"text": 900.0})
    for first in (POLICY, wide):
        policy, state = first, RulesState(first)
        for recall, bar, coverage, width in reports:
            taken = step(policy, state, Seen(recall, bar), Seen(coverage, width), TARGETS)
            policy, state = taken.policy, taken.state
            assert policy_from_dict(policy_to_dict(policy)) == policy
            assert first.depth <= policy.depth <= 5 * first.depth
            assert policy.weights["text"] <= 1.5 * first.weights["text"]
            assert 0 <= policy.exposure_price <= 3.0
            assert 1 <= policy.local_iterations <= 2
            assert (policy.k, policy.diversity, policy.exploration) == (20, 0.0, 0.0)


def test_the_protocols_bounds_are_the_last_limit():
    first = replace(POLICY, depth=900_000, weights=dict(POLICY.weights) | {"text": 900.0})
    assert drive((GOOD, NARROW), 40, first, RulesState(first))[-1].policy.depth == BOUNDS["depth"][1]
    assert drive((LOW, COVERED), 40, first, RulesState(first))[-1].policy.weights["text"] == WEIGHT_BOUND


def test_a_frozen_policy_is_never_moved():
    frozen = replace(POLICY, frozen=True)
    taken = step(frozen, START, Seen(0.0, 0.0), Seen(0.0, 0.0), TARGETS)
    assert (taken.decision, taken.policy, taken.state) == ("frozen", frozen, START)


# --- an auditor replays it


def test_the_same_reports_give_the_same_decisions_bit_for_bit_through_json():
    rng = np.random.default_rng(1)
    reports = [tuple(Seen(float(v), float(b)) for v, b in rng.random((2, 2)) * [1.0, 0.1]) for _ in range(50)]
    policy, state, decisions = POLICY, START, set()
    for taken, (recall, coverage) in zip(drive(lambda n: reports[n], 50), reports, strict=True):
        written = json.loads(json.dumps({"policy": policy_to_dict(policy), "memory": state_to_dict(state)}))
        policy, state = policy_from_dict(written["policy"]), state_from_dict(written["memory"])
        assert step(policy, state, recall, coverage, TARGETS) == taken
        policy, state = taken.policy, taken.state
        decisions.add(taken.decision)
    assert decisions == {"move", "rollback", "hold"}


def test_a_memory_survives_json():
    moved = after_a_move()
    for state in (START, moved.state, replace(moved.state, resting={"depth": 2})):
        assert state_from_dict(json.loads(json.dumps(state_to_dict(state)))) == state


@pytest.mark.parametrize(
    "changes",
    [
        {"first": None},
        {"before": []},
        {"recall_before": {"value": 1}},
        {"recall_before": 1},
        {"resting": None},
        {"resting": {"depth": "soon"}},
        {"resting": [1]},
    ],
)
def test_what_is_no_memory_is_a_protocol_error(changes):
    with pytest.raises(ProtocolError):
        state_from_dict(state_to_dict(START) | changes)
    with pytest.raises(ProtocolError, match="memory cannot be read"):
        state_from_dict({})
