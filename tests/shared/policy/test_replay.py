"""Whatever a controller did, a ledger's lines say it again bit for bit; whatever was changed in them shows."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from shared.config import PolicySection, first_policy
from shared.policy.control import after_order, decide, neighbours
from shared.policy.memory import Memory, memory_to_dict
from shared.policy.orders import Order, apply_order, order_to_dict, proposal_to_dict, with_version
from shared.policy.recall_policy import policy_to_dict
from shared.policy.replay import replay
from shared.policy.sight import Seen, Sight, Targets, sight_to_dict

POLICY = first_policy(PolicySection())
ITEMS = 30
TARGETS = Targets(recall=0.5, coverage=0.4, items=ITEMS, fairness=0.5)


class Run:
    """A server's decisions and orders as its ledger holds them."""

    def __init__(self, controller="rules", *, approval=False):
        self.controller, self.approval = controller, approval
        self.targets = replace(TARGETS, shadows=4 if controller == "shadow" else 0)
        self.policy, self.memory, self.pending = POLICY, Memory(POLICY), None
        self.versions, self.events = {}, []

    def decide(self, round_, sight, *, last=False):
        self.versions = with_version(self.versions, self.policy)
        made = decide(
            round_,
            self.controller,
            self.policy,
            self.memory,
            sight,
            self.targets,
            last=last,
            pending=self.pending,
            approval=self.approval,
        )
        event = {
            "type": "decision",
            "round": round_,
            "controller": self.controller,
            "targets": asdict(self.targets),
            "approval": self.approval,
            "last": last,
            "sight": None if sight is None else sight_to_dict(sight),
            "memory": memory_to_dict(self.memory),
            "before": policy_to_dict(self.policy),
            "after": policy_to_dict(made.step.policy),
            "decision": made.step.decision,
            "reason": made.step.reason,
            "proposal": None if made.proposal is None else proposal_to_dict(made.proposal),
        }
        self.policy, self.memory, self.pending = made.step.policy, made.step.memory, made.proposal or self.pending
        self.versions = with_version(self.versions, self.policy)
        self.add(event)
        return made

    def order(self, round_, kind, **more):
        order = Order("a", kind, "Ada", "today", "", **more)
        ruling = apply_order(order, self.policy, self.pending, self.versions)
        before = self.policy
        self.policy, self.pending = ruling.policy, ruling.pending
        self.memory = after_order(self.memory, ruling)
        self.versions = with_version(self.versions, self.policy)
        self.add(
            {
                "type": "order",
                "round": round_,
                "file": "a.json",
                "order": order_to_dict(order),
                "outcome": ruling.outcome,
                "reason": ruling.reason,
                "before": policy_to_dict(before),
                "after": policy_to_dict(self.policy),
                "pending": None if self.pending is None else proposal_to_dict(self.pending),
                "memory": memory_to_dict(self.memory),
            }
        )
        return ruling

    def add(self, event):
        if event["type"] == "decision":
            self.ask(event["round"])
            self.ask(event["round"], "measurement")
        self.events.append(json.loads(json.dumps(event, allow_nan=False)))

    def ask(self, round_, release="update"):
        """Training or measuring, whatever comes of it; nothing is decided."""
        said = {"round": round_, "release": release}
        self.events += [{"type": "intent", **said}, {"type": "result", **said}]


def a_sight(run, rng):
    counts = tuple(int(c) for c in rng.integers(-50, 3000, ITEMS))
    seen = [Seen(float(v), float(b)) for v, b in rng.random((3, 2)) * [0.5, 0.03]]
    asked = neighbours(run.controller, run.policy, run.memory, run.targets)
    shadows = tuple(Seen(float(d), 0.004) for d in rng.normal(0.0, 0.05, len(asked)))
    return Sight(seen[0], None, seen[1], seen[2], shadows, counts, float(rng.random() * 30), 2000.0)


def a_run(controller="rules", seed=0, rounds=30):
    run, rng = Run(controller), np.random.default_rng(seed)
    for number in range(1, rounds):
        run.decide(5 * number, a_sight(run, rng) if rng.random() > 0.1 else None)
    run.decide(5 * rounds, a_sight(run, rng), last=True)
    return run


@pytest.mark.parametrize("controller", ["rules", "dual", "shadow", "static"])
def test_every_decision_of_every_controller_replays_bit_for_bit_through_json(controller):
    run = a_run(controller)
    assert replay(run.events) == []
    made = {event["decision"] for event in run.events if event["type"] == "decision"}
    assert made >= ({"hold", "none"} if controller == "static" else {"hold", "none", "move"})


def test_an_empty_ledger_has_nothing_wrong():
    assert replay([]) == []


def a_change(path, value):
    def change(event):
        *parents, leaf = path
        for name in parents:
            event = event[name]
        event[leaf] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sight", "recall", "value"), 0.9),
        (("sight", "recall", "half_width"), 0.4),
        (("after", "depth"), 77),
        (("after", "version"), 5),
        (("before", "k"), 10),
        (("memory", "knob"), "depth"),
        (("memory", "resting"), {"feature lexical": 2}),
        (("decision",), "hold"),
        (("reason",), "because I say so"),
        (("last",), True),
        (("approval",), True),
        (("controller",), "static"),
        (("targets", "recall"), 0.1),
        (("targets", "recall"), 0.6),
    ],
)
def test_a_line_that_was_changed_shows(path, value):
    events = copy.deepcopy(a_run().events)
    event = [e for e in events if e.get("decision") == "move"][1]
    a_change(path, value)(event)
    wrong = replay(events)
    assert wrong
    assert any(f"decision of round {event['round']}" in sentence or "round" in sentence for sentence in wrong)


def test_the_sentence_names_what_differs():
    events = copy.deepcopy(a_run().events)
    event = next(e for e in events if e.get("decision") == "move")
    event["reason"] = "because I say so"
    (sentence,) = replay(events)
    assert sentence.startswith(f"decision of round {event['round']}: reason is because I say so, a replay gives recall")


def test_a_line_that_was_left_out_shows():
    events = a_run().events
    gone = [n for n, e in enumerate(events) if e.get("decision") == "move"][1]
    assert any("another policy" in sentence for sentence in replay(events[:gone] + events[gone + 1 :]))


def test_a_ledger_begins_with_the_first_version():
    events = a_run().events
    second = next(n for n, e in enumerate(events) if e.get("decision") == "move") + 1
    assert "does not begin with version 1" in replay(events[second:])[0]


@pytest.mark.parametrize("name", ["sight", "memory", "before", "after", "targets", "reason"])
def test_rubbish_is_a_sentence_and_no_error(name):
    for rubbish in ({}, [], 3, "x", None):
        events = copy.deepcopy(a_run(rounds=3).events)
        (event,) = [e for e in events if e.get("round") == 5 and e["type"] == "decision"]
        if event[name] != rubbish:
            event[name] = rubbish
            assert replay(events)
    del event[name]
    assert "cannot be read" in replay(events)[0]


def test_a_round_that_was_killed_and_decided_again_counts_once():
    run, rng = Run(), np.random.default_rng(3)
    run.decide(5, a_sight(run, rng))
    policy, memory = run.policy, run.memory
    run.decide(10, Sight(Seen(0.3, 0.01)))
    assert run.policy != policy
    run.policy, run.memory = policy, memory  # killed before the checkpoint
    run.decide(10, Sight(Seen(0.32, 0.01)))
    run.decide(15, a_sight(run, rng))
    assert replay(run.events) == []


def a_lost_decision(run, rng, round_):
    """Written, and killed before the checkpoint."""
    policy, memory, pending = run.policy, run.memory, run.pending
    run.decide(round_, Sight(Seen(0.3, 0.01), Seen(0.1, 0.01), lists=2e4))
    assert (run.policy, run.pending) != (policy, pending)
    run.policy, run.memory, run.pending = policy, memory, pending


@pytest.mark.parametrize("approval", [False, True])
@pytest.mark.parametrize("times", [1, 2])
def test_a_round_that_was_killed_decided_and_then_aborted_was_never_decided(approval, times):
    run, rng = Run(approval=approval), np.random.default_rng(3)
    run.decide(5, Sight(Seen(0.6, 0.01)))
    for _ in range(times):
        a_lost_decision(run, rng, 10)
    run.ask(10)  # resumed, too few answers
    for number in range(11, 15):
        run.ask(number)
    run.decide(15, Sight(Seen(0.3, 0.01)))
    assert run.policy.version == 2 - approval
    assert replay(run.events) == []


def test_the_first_decision_of_a_ledger_may_be_lost():
    run = Run()
    a_lost_decision(run, np.random.default_rng(3), 5)
    run.ask(5)
    run.decide(10, Sight(Seen(0.3, 0.01)))
    assert replay(run.events) == []


def test_an_order_before_a_killed_round_that_was_then_aborted_replays():
    run, rng = Run(), np.random.default_rng(3)
    run.decide(5, Sight(Seen(0.6, 0.01)))
    a_lost_decision(run, rng, 10)
    run.order(9, "freeze")
    run.ask(10)
    run.order(10, "thaw")
    run.ask(11)
    run.decide(15, Sight(Seen(0.3, 0.01)))
    assert replay(run.events) == []


def test_a_decision_whose_round_was_closed_is_not_lost_to_the_rounds_after_it():
    run, rng = Run(), np.random.default_rng(3)
    policy, memory = run.policy, run.memory
    run.decide(5, Sight(Seen(0.3, 0.01)))
    run.ask(6)
    run.policy, run.memory = policy, memory
    run.decide(10, a_sight(run, rng))
    assert any("begins with another policy" in sentence for sentence in replay(run.events))


@pytest.mark.parametrize("rubbish", [None, "5", 5.0, True, [5], {}, float("nan")])
def test_a_round_that_is_no_number_makes_nothing_lost_and_is_no_error(rubbish):
    events = a_run(rounds=4).events
    intents = [n for n, e in enumerate(events) if e["type"] == "intent"]
    for n in intents:
        events[n] = {"type": "intent", "round": rubbish}
    assert replay(events) == []
    for n in intents:
        events[n] = {"type": "intent"}
    assert replay(events) == []
    decision = next(n for n, e in enumerate(events) if e["type"] == "decision")
    events[decision]["round"] = rubbish
    events.insert(decision + 1, {"type": "intent", "round": 5})
    assert isinstance(replay(events), list)


# --- with persons in between


def a_supervised_run():
    run, low = Run(approval=True), Sight(Seen(0.3, 0.01))
    first = run.decide(5, low).proposal
    run.decide(10, low)
    run.order(10, "approve", proposal=first.id)
    second = run.decide(15, low).proposal
    run.order(15, "reject", proposal=second.id)
    run.order(15, "freeze")
    run.decide(20, low)
    run.order(20, "thaw")
    run.order(20, "rollback", version=1, seen=2)
    run.order(20, "approve", proposal="00000000")
    third = run.decide(25, low).proposal
    run.order(25, "approve", proposal=third.id)
    run.decide(30, low, last=True)
    return run


def test_orders_replay_too():
    run = a_supervised_run()
    assert replay(run.events) == []
    outcomes = [event["outcome"] for event in run.events if event["type"] == "order"]
    assert outcomes == ["approved", "rejected", "frozen", "thawed", "rolled back", "refused", "approved"]


@pytest.mark.parametrize("position", range(7))
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("after", "depth"), 77),
        (("before", "depth"), 77),
        (("outcome",), "whatever"),
        (("memory", "knob"), "x"),
        (("pending",), {}),
        (("order", "kind"), "rollback"),
        (("order",), None),
    ],
)
def test_an_order_that_was_changed_shows(position, path, value):
    events = copy.deepcopy(a_supervised_run().events)
    event = [e for e in events if e["type"] == "order"][position]
    if event["outcome"] == "refused" and path == ("order",):
        return  # a refused order changes nothing, whatever it was
    if path == ("order", "kind") and event["order"]["kind"] == value:
        value = "thaw"
    a_change(path, value)(event)
    assert replay(events)


def test_an_order_that_nobody_gave_shows():
    events = a_supervised_run().events
    gone = next(n for n, e in enumerate(events) if e["type"] == "order")
    assert replay(events[:gone] + events[gone + 1 :])
