"""The guard that all controllers share, and the memory that every decision carries."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from shared.config import PolicySection, first_policy
from shared.errors import ProtocolError
from shared.policy.control import step
from shared.policy.memory import REST, Arm, Memory, is_blind, memory_from_dict, memory_to_dict, notices
from shared.policy.sight import Seen, Sight, Targets

POLICY = first_policy(PolicySection(features=("text", "lexical", "category", "popularity"), depth=200))
TARGETS = Targets(recall=0.90, coverage=0.0, items=1000)  # always low: text is reweighed


def after_a_move(value=0.35, bar=0.01, policy=POLICY, targets=TARGETS, **more):
    taken = step("rules", policy, Memory(policy), Sight(Seen(value, bar), **more), targets)
    assert taken.decision == "move"
    return taken


def then(moved, value, bar, targets=TARGETS, **more):
    return step("rules", moved.policy, moved.memory, Sight(Seen(value, bar), **more), targets)


def test_a_move_that_cost_recall_is_taken_back():
    back = then(after_a_move(), 0.31, 0.01)
    assert back.decision == "rollback"
    assert back.policy == replace(POLICY, version=3)
    assert "recall fell from 0.350 +- 0.010 to 0.310 +- 0.010 after weight text was turned" in back.reason


@pytest.mark.parametrize(
    ("recall", "bar"),
    [
        (0.34, 0.001),  # a loss of less than five percent is the price of a move
        (0.31, 0.05),  # a loss within the noise of the two measurements
        (0.40, 0.01),
    ],
)
def test_a_loss_within_the_noise_or_the_tolerance_is_none(recall, bar):
    assert then(after_a_move(), recall, bar).decision != "rollback"


def test_the_noise_of_both_measurements_counts():
    policy = replace(POLICY, features=("text",))  # a feature comes in whether or not a loss would be noticed
    assert then(after_a_move(bar=0.045, policy=policy), 0.29, 0.045).decision != "rollback"
    assert then(after_a_move(bar=0.03, policy=policy), 0.29, 0.03).decision == "rollback"


def test_a_move_waits_for_the_next_report_that_can_tell():
    moved = after_a_move()
    for silent in (None, Seen(0.35, 0.3)):
        held = step("rules", moved.policy, moved.memory, Sight(silent), TARGETS)
        assert (held.decision, held.memory) == ("hold", moved.memory)
        assert then(held, 0.2, 0.01).decision == "rollback"


def test_a_knob_that_was_taken_back_rests_for_so_many_measurements():
    taken = then(after_a_move(), 0.31, 0.01)
    decisions = []
    for _ in range(REST + 1):
        taken = then(taken, 0.35, 0.01)
        decisions.append(taken.decision)
    assert decisions == ["hold"] * REST + ["move"]


def test_with_a_weight_on_fairness_a_wider_gap_is_a_loss_too():
    targets = replace(TARGETS, fairness=1.0)
    moved = after_a_move(gap=Seen(0.05, 0.005), targets=targets)
    assert then(moved, 0.35, 0.01, gap=Seen(0.05, 0.005), targets=targets).decision != "rollback"
    back = then(moved, 0.35, 0.01, gap=Seen(0.12, 0.005), targets=targets)
    assert back.decision == "rollback"
    assert back.reason.startswith("recall less the weighted gap fell from 0.300 +- 0.011 to 0.230")


def test_a_turn_of_bounded_cost_is_not_blamed_for_more_than_it_can_cost():
    narrow, targets = {"coverage": Seen(0.1, 0.01), "lists": 20_000.0}, Targets(0.0, 0.5, 1000)
    vague, sharp = (after_a_move(bar=bar, targets=targets, **narrow) for bar in (0.022, 0.005))
    assert (vague.memory.knob, sharp.memory.knob) == ("depth", "depth")
    assert then(vague, 0.30, 0.022, targets).decision == "hold"
    assert then(sharp, 0.30, 0.005, targets).decision == "rollback"


@pytest.mark.parametrize(("bar", "noticed", "blind"), [(0.005, True, False), (0.02, False, False), (0.1, False, True)])
def test_what_a_bar_lets_be_seen(bar, noticed, blind):
    seen = Seen(0.3, bar)
    assert (notices(seen), is_blind(seen)) == (noticed, blind)


def test_a_memory_survives_json():
    moved = after_a_move().memory
    for memory in (Memory(POLICY), moved, replace(moved, resting={"depth": 2}, arms={"x": Arm(2, 0.25, 1e-5)})):
        assert memory_from_dict(json.loads(json.dumps(memory_to_dict(memory)))) == memory


@pytest.mark.parametrize(
    "changes",
    [
        {"first": None},
        {"before": []},
        {"objective_before": {"value": 1}},
        {"objective_before": 1},
        {"resting": None},
        {"resting": {"depth": "soon"}},
        {"resting": [1]},
        {"arms": {"depth": 1}},
        {"arms": {"depth": {"reports": 1}}},
    ],
)
def test_what_is_no_memory_is_a_protocol_error(changes):
    with pytest.raises(ProtocolError):
        memory_from_dict(memory_to_dict(Memory(POLICY)) | changes)
    with pytest.raises(ProtocolError, match="memory cannot be read"):
        memory_from_dict({})
