"""What a person may order about the policy: each rule of ``shared/policy/orders.py``, and whatever order comes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import PolicySection, first_policy
from shared.errors import ProtocolError
from shared.policy.orders import (
    LONGEST,
    Order,
    apply_order,
    order_from_dict,
    order_to_dict,
    proposal_from_dict,
    proposal_to_dict,
    propose,
    versions_of,
    waiting,
    with_version,
)
from shared.policy.recall_policy import policy_to_dict

POLICY = replace(first_policy(PolicySection()), version=3, depth=100)
FROZEN = replace(POLICY, frozen=True)
FIRST = replace(POLICY, version=1, depth=50)
VERSIONS = {1: FIRST, 2: replace(POLICY, version=2, depth=70), 3: POLICY}
WANTED = replace(POLICY, version=4, depth=150)
PENDING = propose(10, POLICY, WANTED, {"knob": "depth"}, "move", "coverage is low")
RIGHT = {
    "approve": {"proposal": PENDING.id},
    "reject": {"proposal": PENDING.id},
    "freeze": {},
    "thaw": {},
    "rollback": {"version": 1, "seen": 3},
}


def order(kind, **fields):
    return Order(f"20260101T000000-{kind}", kind, "ann", "2026-01-01T00:00:00+00:00", "because", **RIGHT[kind] | fields)


def ruled(kind, policy=POLICY, pending=PENDING, versions=VERSIONS, **fields):
    return apply_order(order(kind, **fields), policy, pending, versions)


# --- what an order does


def test_an_approved_proposal_is_in_force_as_the_next_version():
    ruling = ruled("approve")
    assert ruling.outcome == "approved"
    assert ruling.policy == WANTED
    assert (ruling.pending, ruling.proposal) == (None, PENDING)
    assert ruling.reason == f"proposal {PENDING.id} approved: version 3 -> 4"


def test_a_rejected_proposal_is_gone_and_the_policy_stays():
    ruling = ruled("reject")
    assert (ruling.outcome, ruling.policy, ruling.pending, ruling.proposal) == ("rejected", POLICY, None, PENDING)
    assert "version 3 stays" in ruling.reason


def test_freezing_keeps_the_version_and_thawing_brings_the_same_policy_back():
    ruling = ruled("freeze")
    assert (ruling.outcome, ruling.policy, ruling.pending) == ("frozen", FROZEN, PENDING)
    again = ruled("thaw", policy=ruling.policy)
    assert (again.outcome, again.policy, again.pending) == ("thawed", POLICY, PENDING)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_rollback_is_a_new_version_with_the_old_content_and_drops_what_waits(frozen):
    ruling = ruled("rollback", policy=replace(POLICY, frozen=frozen))
    assert ruling.outcome == "rolled back"
    assert ruling.policy == replace(FIRST, version=4, frozen=frozen)
    assert (ruling.pending, ruling.proposal) == (None, PENDING)
    assert ruling.reason == f"version 3 -> 4, as it was at version 1; proposal {PENDING.id} dropped"


def test_a_rollback_without_a_proposal_drops_nothing():
    assert ruled("rollback", pending=None).reason == "version 3 -> 4, as it was at version 1"


# --- what is refused


@pytest.mark.parametrize(
    ("ruling", "sentence"),
    [
        (
            ruled("approve", pending=None),
            f"proposal {PENDING.id} does not wait: it was answered, dropped by a rollback",
        ),
        (ruled("reject", pending=None), f"proposal {PENDING.id} does not wait"),
        (ruled("approve", proposal="00000000"), f"the proposal that waits is {PENDING.id}, not 00000000"),
        (ruled("reject", proposal="00000000"), "not 00000000"),
        (ruled("approve", policy=FROZEN), "the policy is frozen: thaw it before anything is approved"),
        (ruled("freeze", policy=FROZEN), "the policy is frozen already"),
        (ruled("thaw"), "the policy is not frozen"),
        (ruled("rollback", version=9), "version 9 was never in force; known are 1, 2, 3"),
        (ruled("rollback", version=3), "version 3 is in force already"),
        (ruled("rollback", seen=2), "version 3 is in force, not 2 as when the order was given"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(ruling, sentence):
    assert ruling.outcome == "refused"
    assert sentence in ruling.reason


kinds = st.sampled_from(["approve", "reject", "freeze", "thaw", "rollback"])
proposals = st.sampled_from([PENDING.id, "00000000"])


@st.composite
def orders(draw):
    kind = draw(kinds)
    named = {"proposal": draw(proposals)} if kind in {"approve", "reject"} else {}
    if kind == "rollback":
        named = {"version": draw(st.integers(1, 8)), "seen": draw(st.integers(1, 8))}
    return order(kind, **named)


@given(st.lists(orders(), max_size=12))
def test_whatever_comes_history_only_grows_and_a_refusal_changes_nothing(given_orders):
    policy, pending, versions = POLICY, PENDING, dict(VERSIONS)
    for one in given_orders:
        ruling = apply_order(one, policy, pending, versions)
        moved = ruling.outcome in {"approved", "rolled back"}
        assert ruling.policy.version == policy.version + moved
        assert moved or replace(ruling.policy, frozen=policy.frozen) == policy
        assert ruling.policy.frozen == (policy.frozen if one.kind not in {"freeze", "thaw"} else one.kind == "freeze")
        if ruling.outcome == "refused":
            assert (ruling.policy, ruling.pending, ruling.proposal) == (policy, pending, None)
        assert ruling.pending is None or ruling.pending == pending
        policy, pending, versions = ruling.policy, ruling.pending, with_version(versions, ruling.policy)
    assert sorted(versions) == list(range(1, policy.version + 1))


# --- proposals and versions


def test_a_proposal_is_named_by_what_it_is():
    same = propose(10, POLICY, WANTED, {"knob": "other"}, "move", "coverage is low")
    assert same.id == PENDING.id
    others = [
        propose(11, POLICY, WANTED, {}, "move", "coverage is low"),
        propose(10, FIRST, WANTED, {}, "move", "coverage is low"),
        propose(10, POLICY, replace(WANTED, depth=151), {}, "move", "coverage is low"),
        propose(10, POLICY, WANTED, {}, "move", "recall is low"),
    ]
    assert len({PENDING.id, *(other.id for other in others)}) == 5
    assert PENDING.base == 3
    assert waiting(PENDING) == f"proposal {PENDING.id} of round 10 waits for a person's approval"


def test_versions_come_from_decisions_and_orders_and_are_never_frozen():
    events = [
        {"type": "plan"},
        {"type": "decision", "before": policy_to_dict(FIRST), "after": policy_to_dict(VERSIONS[2])},
        {"type": "order", "before": policy_to_dict(VERSIONS[2]), "after": policy_to_dict(FROZEN)},
    ]
    assert versions_of(events, FROZEN) == VERSIONS
    assert versions_of([], FROZEN) == {3: POLICY}


def test_a_decision_of_a_killed_round_never_was_in_force_unless_it_was_taken_again():
    lost = {"type": "decision", "before": policy_to_dict(POLICY), "after": policy_to_dict(WANTED)}
    assert versions_of([lost], POLICY) == {3: POLICY}
    other = replace(WANTED, depth=170)
    again = lost | {"after": policy_to_dict(other)}
    assert versions_of([lost, again], other) == {3: POLICY, 4: other}


# --- as JSON


@pytest.mark.parametrize("kind", RIGHT)
def test_an_order_survives_json(kind):
    assert order_from_dict(json.loads(json.dumps(order_to_dict(order(kind))))) == order(kind)


def test_a_proposal_survives_json():
    assert proposal_from_dict(json.loads(json.dumps(proposal_to_dict(PENDING)))) == PENDING


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "delete"}, "order.kind: 'delete', must be one of approve, reject, freeze, thaw, rollback"),
        ({"kind": ["approve"]}, "order.kind"),
        ({"who": None}, "order.who: None, must be at most 100 printable characters on one line"),
        ({"why": "two\nlines"}, "order.why"),
        ({"why": "\x1b[2J"}, "order.why"),
        ({"why": "x" * (LONGEST["why"] + 1)}, "must be at most 500 printable characters"),
        ({"version": None}, "order.version: 'None', must be a version's number, 1 or more"),
        ({"version": True}, "order.version"),
        ({"version": 0}, "order.version"),
        ({"seen": 1.0}, "order.seen"),
        ({"proposal": "1234abcd"}, "order.proposal: '1234abcd', means nothing to rollback; must be null"),
        ({"more": 1}, "expected exactly the fields"),
    ],
)
def test_a_broken_order_is_named_by_its_field(change, sentence):
    with pytest.raises(ProtocolError) as error:
        order_from_dict(order_to_dict(order("rollback")) | change)
    assert sentence in str(error.value)


@pytest.mark.parametrize("change", [{"proposal": None}, {"proposal": 7}, {"version": 1}, {"seen": 1}])
def test_an_answer_names_a_proposal_and_nothing_else(change):
    with pytest.raises(ProtocolError):
        order_from_dict(order_to_dict(order("approve")) | change)


rubbish = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(list(order_to_dict(order("thaw")))), rubbish), rubbish)
def test_no_rubbish_is_an_order(fields, other):
    for raw in (other, order_to_dict(order("rollback")) | fields):
        try:
            read = order_from_dict(raw)
        except ProtocolError:
            continue
        assert order_to_dict(read) == raw


@given(st.dictionaries(st.sampled_from(list(proposal_to_dict(PENDING))), rubbish, min_size=1), rubbish)
def test_no_rubbish_is_a_proposal(fields, other):
    for raw in (other, proposal_to_dict(PENDING) | fields):
        try:
            read = proposal_from_dict(raw)
        except ProtocolError:
            continue
        assert proposal_to_dict(read)["id"] == raw["id"]
