"""One door to all controllers: what is decided, what waits for a person, what orders do to a memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.config import PolicySection, first_policy
from shared.policy.control import after_order, decide, memory_to_dict, step
from shared.policy.memory import REST, Arm, Memory
from shared.policy.orders import Ruling, propose
from shared.policy.sight import Seen, Sight, Targets

POLICY = first_policy(PolicySection())
TARGETS = Targets(recall=0.9, coverage=0.4, items=1000)
LOW = Sight(Seen(0.3, 0.01), effective=Seen(0.1, 0.01), lists=2e4)
CONTROLLERS = ("rules", "dual", "shadow", "static")
moving = pytest.mark.parametrize("controller", CONTROLLERS[:-1])
every = pytest.mark.parametrize("controller", CONTROLLERS)


def decided(controller="rules", policy=POLICY, memory=None, sight=LOW, **more):
    said = {"last": False, "pending": None, "approval": False} | more
    return decide(7, controller, policy, memory or Memory(policy), sight, TARGETS, **said)


@moving
def test_a_low_report_moves_every_controller_but_the_static_one(controller):
    assert decided(controller).step.decision == "move"


def test_the_static_controller_never_moves():
    for taken in (decided("static").step, step("static", POLICY, Memory(POLICY), LOW, TARGETS)):
        assert (taken.decision, taken.policy, taken.reason) == ("hold", POLICY, "the controller is static")


@moving
def test_a_frozen_policy_is_never_moved(controller):
    frozen = replace(POLICY, frozen=True)
    taken = decided(controller, frozen, sight=Sight(Seen(0.0, 0.0), Seen(0.0, 0.0))).step
    assert (taken.decision, taken.policy, taken.memory) == ("frozen", frozen, Memory(frozen))


@every
def test_an_aborted_report_and_the_last_round_leave_the_policy_as_it_is(controller):
    aborted, last = decided(controller, sight=None).step, decided(controller, last=True).step
    assert (aborted.decision, aborted.policy, aborted.memory) == ("none", POLICY, Memory(POLICY))
    assert (last.decision, last.policy, last.memory) == ("hold", POLICY, Memory(POLICY))


@moving
def test_with_approval_a_move_waits_and_nothing_changes_meanwhile(controller):
    made = decided(controller, approval=True)
    wanted = decided(controller).step
    assert (made.step.decision, made.step.policy, made.step.memory) == ("proposal", POLICY, Memory(POLICY))
    assert made.step.reason == f"proposal {made.proposal.id} waits for approval: {wanted.reason}"
    assert (made.proposal.policy, made.proposal.memory) == (wanted.policy, memory_to_dict(wanted.memory))
    later = decided(controller, approval=True, pending=made.proposal)
    assert (later.step.decision, later.step.memory, later.proposal) == ("hold", Memory(POLICY), None)
    assert made.proposal.id in later.step.reason


def test_a_rollback_waits_for_approval_too():
    moved = decided("rules").step
    fallen = replace(LOW, recall=Seen(0.2, 0.01))
    made = decided("rules", moved.policy, moved.memory, fallen, approval=True)
    assert (made.step.decision, made.proposal.decision) == ("proposal", "rollback")


def test_what_holds_needs_no_approval():
    fine = Sight(Seen(0.95, 0.01), Seen(0.9, 0.01))
    assert decided(sight=fine, approval=True) == decided(sight=fine)


# --- a memory after an order


def a_proposal(decision="move"):
    wanted = memory_to_dict(Memory(POLICY, before=POLICY, objective_before=Seen(0.3, 0.01), knob="depth"))
    return propose(7, POLICY, replace(POLICY, depth=300, version=2), wanted, decision, "because")


def test_once_approved_the_move_is_remembered_as_if_it_had_not_waited():
    ruling = Ruling("approved", "", POLICY, None, a_proposal())
    assert after_order(Memory(POLICY), ruling).knob == "depth"


def test_a_rejected_move_rests():
    ruling = Ruling("rejected", "", POLICY, None, a_proposal())
    assert after_order(Memory(POLICY), ruling) == Memory(POLICY, resting={"depth": REST})


def test_the_trial_of_a_rejected_knob_begins_anew_and_others_go_on():
    first = Memory(POLICY, arms={"depth": Arm(3, 0.3, 1e-6), "weight text up": Arm(3, 0.0, 1e-6)})
    memory = after_order(first, Ruling("rejected", "", POLICY, None, a_proposal()))
    assert memory.arms == {"weight text up": Arm(3, 0.0, 1e-6)}


def test_a_neighbour_that_a_person_turned_down_is_not_adopted_while_it_rests():
    targets = replace(TARGETS, recall=0.0, coverage=0.0, shadows=4)
    memory = Memory(POLICY, arms={"weight text up": Arm(3, 0.3, 1e-6)})
    sight = Sight(Seen(0.3, 0.01), Seen(0.9, 0.01), shadows=(Seen(0.0, 0.01),) * 4)
    made = decide(7, "shadow", POLICY, memory, sight, targets, last=False, pending=None, approval=True)
    assert made.proposal is not None
    assert made.proposal.policy.weights["text"] > POLICY.weights["text"]
    memory = after_order(memory, Ruling("rejected", "", POLICY, None, made.proposal))
    again = decide(8, "shadow", POLICY, memory, sight, targets, last=False, pending=None, approval=True)
    assert (again.step.decision, again.proposal) == ("hold", None)


def test_a_rejected_rollback_lets_the_move_stand():
    guarded = Memory(POLICY, before=POLICY, objective_before=Seen(0.3, 0.01), knob="depth", resting={"x": 1})
    ruling = Ruling("rejected", "", POLICY, None, a_proposal("rollback"))
    assert after_order(guarded, ruling) == Memory(POLICY, resting={"x": 1})


def test_a_persons_rollback_is_not_undone_by_the_guard():
    guarded = Memory(POLICY, POLICY, Seen(0.9, 0.01), "depth", {"x": 1}, {"y": Arm(1, 0.1, 0.1)})
    memory = after_order(guarded, Ruling("rolled back", "", POLICY, None))
    assert memory == Memory(POLICY, resting={"x": 1})
    assert step("rules", POLICY, memory, LOW, TARGETS).decision == "move"


@pytest.mark.parametrize("outcome", ["frozen", "thawed", "refused"])
def test_other_orders_leave_the_memory_as_it_is(outcome):
    memory = Memory(POLICY, knob="depth")
    assert after_order(memory, Ruling(outcome, "", POLICY, a_proposal())) == memory
