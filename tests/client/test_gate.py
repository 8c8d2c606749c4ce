"""The gate: the client decides, from what its own ledger says."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from client.gate import Gate, admit, count_spend, gate_of
from shared.errors import DeclinedError, LedgerError, PlanError
from shared.privacy.ledger import Line


@pytest.fixture
def gate(plan):
    return Gate("run", plan(), "c" * 64)


def ask(gate, spend=None, client="1", release="update", **changes):
    said = {"run": gate.run, "plan": gate.plan.digest(), "catalogue": gate.catalogue} | changes
    admit(gate, spend or {}, client, release, **said)


def test_a_task_of_the_pinned_plan_passes(gate):
    for release in ("update", "measurement", "statistics"):
        ask(gate, release=release)


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"run": "other"}, "run 'other' is not the run 'run'"),
        ({"plan": "0" * 64}, "the plan changed"),
        ({"catalogue": "d" * 64}, "catalogue dddddddddddd is not here"),
    ],
)
def test_anything_else_is_declined_with_its_clause(gate, changes, clause):
    with pytest.raises(DeclinedError, match=clause):
        ask(gate, **changes)


@pytest.mark.parametrize(("release", "limit"), [("update", 3), ("measurement", 2), ("statistics", 1)])
def test_each_kind_has_its_own_participations(gate, release, limit):
    ask(gate, {("1", release): limit - 1}, release=release)
    for used in (limit, limit + 5):
        with pytest.raises(DeclinedError, match=f"{release}: all {limit} participations are used up"):
            ask(gate, {("1", release): used}, release=release)
    ask(gate, {("1", release): limit}, client="2", release=release)  # everybody pays for itself
    others = {("1", kind): 99 for kind in ("update", "measurement", "statistics") if kind != release}
    ask(gate, others, release=release)


@pytest.mark.parametrize("field", ["clip", "noise_multiplier", "participations"])
def test_one_other_number_is_another_plan(gate, plan, field):
    update = plan().update
    changed = replace(plan(), update=replace(update, **{field: getattr(update, field) + 1}))
    with pytest.raises(DeclinedError, match="the plan changed"):
        ask(gate, plan=changed.digest())


def line(event, number=1):
    return Line(number, event, "0" * 64)


def test_the_ledgers_first_line_pins_the_gate(gate):
    event = {"type": "plan", "run": "run", "plan": asdict(gate.plan), "catalogue": "c" * 64}
    assert gate_of(line(event)) == gate


def test_a_ledger_that_pins_nothing_is_no_gate(gate):
    with pytest.raises(LedgerError, match="does not name 'run'"):
        gate_of(line({"type": "plan"}))
    with pytest.raises(PlanError):
        gate_of(line({"type": "plan", "run": "run", "plan": {}, "catalogue": ""}))


def test_intents_are_the_spend_with_or_without_a_result():
    events = [
        {"type": "plan"},
        {"type": "intent", "client": "1", "release": "update"},
        {"type": "intent", "client": "1", "release": "update"},
        {"type": "result", "client": "1", "release": "update"},
        {"type": "intent", "client": "2", "release": "statistics"},
        {"type": "decline", "client": "2", "release": "update"},
        {"type": "head", "round": 1},
    ]
    assert count_spend(line(e, n) for n, e in enumerate(events, 1)) == {("1", "update"): 2, ("2", "statistics"): 1}
