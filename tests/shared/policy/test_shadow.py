from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import PolicySection, first_policy
from shared.policy.control import neighbours, step
from shared.policy.memory import Arm, Memory
from shared.policy.recall_policy import policy_from_dict, policy_to_dict
from shared.policy.shadow import OUT, Z95, racing
from shared.policy.sight import Seen, Sight, Targets

POLICY = first_policy(PolicySection(features=("text", "popularity")))
TARGETS = Targets(recall=0.0, coverage=0.0, items=1000, shadows=4)
RECALL = Seen(0.3, 0.003)


def race(truth, reports, *, bar=0.002, seed=0, policy=POLICY, targets=TARGETS, coverage=None, lists=2e4):
    """Run it where knob ``name`` changes recall by ``truth(name)``; the steps taken."""
    rng, memory, steps = np.random.default_rng(seed), Memory(policy), []
    for _ in range(reports):
        asked = racing(policy, memory, targets)
        noise = bar / Z95 * rng.standard_normal(targets.shadows)
        seen = [Seen(truth(turn.knob) + e, bar) for turn, e in zip(asked, noise, strict=False)]
        seen += [Seen(e, bar) for e in noise[len(seen) :]]
        sight = Sight(RECALL, effective=coverage, shadows=tuple(seen), lists=lists)
        steps.append(step("shadow", policy, memory, sight, targets))
        policy, memory = steps[-1].policy, steps[-1].memory
    return steps


def test_every_report_scores_exactly_as_many_neighbours_as_the_plan_fixed():
    for shadows in (1, 4, 8):
        targets = replace(TARGETS, shadows=shadows)
        asked = neighbours("shadow", POLICY, Memory(POLICY), targets)
        assert len(asked) == shadows
        assert len({str(policy_to_dict(policy)) for policy in asked} | {str(policy_to_dict(POLICY))}) == shadows + 1
    knobs = [turn.knob for turn in racing(POLICY, Memory(POLICY), replace(TARGETS, shadows=100))]
    resting = Memory(POLICY, resting=dict.fromkeys(knobs[1:], 1))
    asked = neighbours("shadow", POLICY, resting, TARGETS)
    assert asked[1:] == (POLICY,) * 3  # nothing else is left to score: the policy in force fills up


@pytest.mark.parametrize("controller", ["rules", "dual", "static"])
def test_no_other_controller_asks_for_neighbours(controller):
    assert neighbours(controller, POLICY, Memory(POLICY), TARGETS) == ()


def test_neighbours_differ_by_one_knob_and_a_client_accepts_them():
    everywhere = replace(TARGETS, shadows=100)
    for policy in (POLICY, replace(POLICY, features=("text",)), replace(POLICY, exposure_price=10.0, diversity=1.0)):
        before = policy_to_dict(policy)
        for turn in racing(policy, Memory(policy), everywhere):
            after = policy_to_dict(turn.policy)
            assert policy_from_dict(after) == turn.policy
            assert sum(after[name] != before[name] for name in before) == 1


def test_all_neighbours_get_their_turn():
    seen = set()
    memory = Memory(POLICY)
    for _ in range(6):
        asked = racing(POLICY, memory, TARGETS)
        seen |= {turn.knob for turn in asked}
        sight = Sight(RECALL, shadows=(Seen(0.0, 0.01),) * 4)
        memory = step("shadow", POLICY, memory, sight, TARGETS).memory
    assert seen == {turn.knob for turn in racing(POLICY, Memory(POLICY), replace(TARGETS, shadows=100))}


def test_a_winner_is_adopted_once_its_lower_bound_is_above_the_policy_in_force():
    steps = race(lambda knob: 0.01 if knob == "feature category" else -0.01, 6)
    (moved,) = [s for s in steps if s.decision == "move"]
    assert "category" in moved.policy.features
    assert moved.policy.version == 2
    assert "feature category changed recall by +0.0" in moved.reason
    assert moved.memory.arms == {}  # trials were against the policy that is left behind


def test_a_gain_within_the_noise_is_not_adopted():
    steps = race(lambda _: 0.001, 8, bar=0.022)
    assert {s.decision for s in steps} == {"hold"}
    assert steps[-1].policy == POLICY


def test_who_surely_loses_is_out_and_rests():
    steps = race(lambda knob: -0.05 if knob == "weight text up" else 0.0, 1)
    assert steps[0].memory.resting == {"weight text up": OUT}
    assert "1 surely lost" in steps[0].reason
    assert "weight text up" not in [turn.knob for turn in racing(POLICY, steps[0].memory, replace(TARGETS, shadows=99))]


def test_bounds_hold_for_all_neighbours_and_reports_at_once():
    """Nothing is better or worse: in 19 of 20 runs of 40 reports nothing may be adopted or thrown out."""
    wrong = 0
    for seed in range(40):
        steps = race(lambda _: 0.0, 40, seed=seed)
        wrong += any(s.decision == "move" or s.memory.resting for s in steps)
    assert wrong <= 4


def test_reports_add_up():
    memory = Memory(POLICY, arms={"weight text up": Arm(3, 0.001, 3e-6)})
    turn = next(t for t in racing(POLICY, Memory(POLICY), TARGETS) if t.knob == "weight text up")
    asked = racing(POLICY, memory, TARGETS)
    assert turn.knob not in [t.knob for t in asked]  # others were scored less often
    seen = tuple(Seen(0.001 * n, 0.002) for n in range(4))
    arms = step("shadow", POLICY, memory, Sight(Seen(0.3, 0.05), shadows=seen), TARGETS).memory.arms
    assert {knob: arm.reports for knob, arm in arms.items()} == {"weight text up": 3} | {t.knob: 1 for t in asked}
    assert [arms[t.knob].total for t in asked] == [0.0, 0.001, 0.002, 0.003]
    assert arms[asked[0].knob].variance == pytest.approx((0.002 / Z95) ** 2)


def test_while_coverage_is_low_a_widening_neighbour_may_surely_cost_a_little():
    targets = replace(TARGETS, coverage=0.9)
    widest = replace(POLICY, depth=1000, exploration=0.5)  # no other way is left

    def truth(knob):
        return -0.005 if knob == "exposure price up" else -0.02

    for coverage, turned in ((Seen(0.1, 0.01), True), (Seen(0.95, 0.01), False)):
        steps = race(truth, 8, policy=widest, targets=targets, coverage=coverage, lists=1.0)
        assert ("exposure price up" in {s.memory.knob for s in steps}) == turned


@pytest.mark.parametrize(
    ("knob", "field", "limit"), [("exposure price up", "exposure_price", 3.0), ("diversity up", "diversity", 0.3)]
)
def test_however_often_it_widens_it_does_not_go_further_than_so_far(knob, field, limit):
    """Each step may surely cost a little while coverage is low; all of them together may not cost everything."""
    targets = replace(TARGETS, coverage=0.9)
    for begun in (0.0, limit, 2 * limit):
        widest = replace(POLICY, depth=1000, exploration=0.5, **{field: begun})
        steps = race(
            lambda turned: -0.005 if turned == knob else -0.02,
            150,
            policy=widest,
            targets=targets,
            coverage=Seen(0.1, 0.01),
            lists=1.0,
        )
        assert max(getattr(s.policy, field) for s in steps) == pytest.approx(max(begun, limit))


def test_chance_places_need_no_race():
    steps = race(lambda _: 0.0, 2, bar=0.05, targets=replace(TARGETS, coverage=0.4), coverage=Seen(0.1, 0.03))
    assert [s.memory.knob for s in steps] == ["depth", "exploration"]


def test_reports_without_differences_move_nothing():
    taken = step("shadow", POLICY, Memory(POLICY), Sight(RECALL), TARGETS)
    assert (taken.decision, taken.policy, taken.memory.arms) == ("hold", POLICY, {})


@pytest.mark.parametrize("factor", [1, 10])
def test_with_ten_times_the_noise_it_stands_still(factor):
    sight = Sight(Seen(0.3, 0.022 * factor), effective=Seen(0.1, 0.03), shadows=(Seen(0.2, 0.022),) * 4, lists=2e4)
    taken = step("shadow", POLICY, Memory(POLICY), sight, replace(TARGETS, coverage=0.4))
    assert (taken.decision == "hold") == (factor == 10)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 0.1)), min_size=4, max_size=4), st.integers(1, 6))
def test_wherever_it_goes_a_client_accepts_the_policy(seen, reports):
    policy, memory = POLICY, Memory(POLICY)
    for _ in range(reports):
        sight = Sight(RECALL, shadows=tuple(Seen(*pair) for pair in seen))
        taken = step("shadow", policy, memory, sight, TARGETS)
        policy, memory = taken.policy, taken.memory
        assert policy_from_dict(policy_to_dict(policy)) == policy
