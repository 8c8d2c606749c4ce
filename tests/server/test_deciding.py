"""What the controller sees of a measurement, and the ledger line that a decision leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from server.deciding import recall_seen, settle, sight_of
from server.evaluation import Estimate, Measurement
from shared.config import PolicySection, first_policy
from shared.policy.memory import Memory
from shared.policy.replay import replay
from shared.policy.sight import Seen, Sight, Targets

POLICY = first_policy(PolicySection())
TARGETS = Targets(recall=0.35, coverage=0.4, items=4)
ESTIMATES = {"recall@20": 0.3, "ndcg@10": 0.2, "effective_coverage@20": 0.1, "gap@10": 0.05, "gini@20": 0.9}
MEASURED = Measurement(
    k=20,
    at_least=17,
    attainable=0.7,
    estimates={name: Estimate(value, value - 0.02, value + 0.02, 0.02) for name, value in ESTIMATES.items()},
    cannot_tell={"coverage@20": "zero and one look alike"},
    shadows=(Estimate(-0.01, -0.02, 0.0, 0.01),),
    exposures=(5, -3, 0, 90),
    exposure_sigma=7.5,
    lists=200.5,
)


@dataclass
class Desk:
    events: list = field(default_factory=list)

    @property
    def ledger(self):
        return SimpleNamespace(append=self.events.extend)


def settled(measured, desk=None, *, last=False, pending=None, **section):
    config = SimpleNamespace(policy=PolicySection(**section))
    job, state = SimpleNamespace(config=config, targets=TARGETS), SimpleNamespace(policy=POLICY)
    state.controller, state.pending, state.activity = Memory(POLICY), pending, (36, 101)
    return settle(job, desk or Desk(), state, 5, measured, last=last)


def test_a_sight_is_what_was_estimated_with_the_bars_before_they_are_cut():
    assert sight_of(MEASURED, 101) == Sight(
        recall=Seen(0.3, 0.02),
        coverage=None,
        effective=Seen(0.1, 0.02),
        gap=Seen(0.05, 0.02),
        shadows=(Seen(-0.01, 0.01),),
        exposures=(5, -3, 0, 90),
        exposure_sigma=7.5,
        lists=200.5,
        active=101,
    )


def test_what_cannot_be_told_is_none():
    nothing = Measurement(20, 1, 1.0, {}, dict.fromkeys(ESTIMATES, "too few users report"))
    assert sight_of(nothing, 0) == Sight(None)
    assert recall_seen(nothing) is None
    assert recall_seen(None) is None
    assert recall_seen(MEASURED) == Seen(0.3, 0.02)


@pytest.mark.parametrize("controller", ["rules", "dual", "static"])
@pytest.mark.parametrize("measured", [MEASURED, None])
@pytest.mark.parametrize("more", [{}, {"approval": True}, {"last": True}])
def test_the_line_in_the_ledger_replays_by_itself(controller, measured, more):
    desk = Desk()
    decided = settled(measured, desk, controller=controller, **more)
    (event,) = desk.events
    assert replay(desk.events) == []
    assert (event["type"], event["round"], event["decision"]) == ("decision", 5, decided.step.decision)
    assert event["estimate"] == (None if measured is None else measured.to_dict())
    if measured is not None and not more and controller != "static":
        assert event["decision"] == "move"
        assert event["after"] != event["before"]


def test_a_proposal_stands_in_the_line_of_the_round_that_made_it():
    desk = Desk()
    decided = settled(MEASURED, desk, approval=True)
    assert desk.events[0]["proposal"]["id"] == decided.proposal.id
    assert desk.events[0]["after"] == desk.events[0]["before"]
    settled(MEASURED, desk, approval=True, pending=decided.proposal)
    assert (desk.events[1]["decision"], desk.events[1]["proposal"]) == ("hold", None)
