"""How a server stands: read from its files when it is asked, figures of rounds alone."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.aggregation import OptimizerState
from server.checkpoint import State, save_state
from server.enrolling import approve, invite, revoke
from server.metrics import Vitals, exposition, facts_of, ready
from server.promise import plan_of
from shared.config import PolicySection, first_policy
from shared.errors import RunError
from shared.keys import own_key
from shared.policy.memory import Memory
from shared.privacy.accounting import ACCOUNTANT
from shared.privacy.ledger import create_ledger
from shared.privacy.plan import plan_to_dict

VITALS = Vitals({"superlink": True, "superexec": True}, {"superlink": 2}, 4, "run-1", "")
ROW = {
    "round": 2,
    "cohort": {"asked": 5, "answered": 4, "declined": 1, "failed": 0},
    "epsilon": {"everyone": 1.5, "recipients": 1.5, "recipients_amplified": None, "by_kind": {"update": 1.0}},
    "seconds": 3.25,
    "policy": {"weights": {"text": 10.0}},
}


def state_after(round_, **changes):
    nothing, policy = np.zeros(3, np.float32), first_policy(PolicySection())
    state = State(round_, nothing, OptimizerState(0, nothing, nothing), nothing, policy, Memory(policy))
    return replace(state, **changes)


@pytest.fixture
def running(house):
    folder = house.runs / "run-1"
    folder.mkdir()
    plan = plan_of(house.config(), {"update": 3, "profile": 0})
    first = {"kind": "deployment", "plan": plan_to_dict(plan)}
    create_ledger(folder / "ledger.jsonl", own_key(house.ledger_key), first).close()
    save_state(state_after(2), folder / "checkpoint.safetensors")
    rows = [{"round": 1}, ROW]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return house


def samples(facts):
    families = text_string_to_metric_families(exposition(facts).decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_before_the_first_run_there_is_nothing_but_the_house(house, now):
    facts = facts_of(house, replace(VITALS, run="", online=None), 0, now)
    said = facts.to_dict()
    assert (said["run"], said["round"], said["epsilon"], said["claim"]) == ("", None, None, None)
    assert said["clients"] == {"enrolled": 0, "online": None, "revoked": 0}
    found = samples(facts)
    assert found["fedrecall_clients_enrolled",] == 0
    assert ("fedrecall_round",) not in found
    assert ("fedrecall_clients_online",) not in found


def test_the_last_row_and_the_checkpoint_are_told(running, now):
    said = facts_of(running, VITALS, 0, now).to_dict()
    assert (said["round"], said["cohort"], said["seconds"]) == (2, ROW["cohort"], 3.25)
    assert said["policy"] == {"version": 1, "frozen": False, "proposal": None}
    found = samples(facts_of(running, VITALS, 3, now))
    assert found["fedrecall_round",] == 2
    assert found["fedrecall_round_seconds",] == 3.25
    assert found["fedrecall_cohort", "declined"] == 1
    assert found["fedrecall_restarts_total", "superlink"] == 2
    assert found["fedrecall_operator_refused_total",] == 3
    assert found["fedrecall_alive", "superexec"] == 1
    assert found["fedrecall_certificate_seconds",] == pytest.approx(398 * 86_400)


def test_no_epsilon_is_told_without_what_it_means(running, now):
    facts = facts_of(running, VITALS, 0, now)
    claim = facts.to_dict()["claim"]
    terms = {name: claim[name] for name in ("unit", "adjacency", "trust", "delta", "accountant", "participations")}
    assert terms == {
        "unit": "user",
        "adjacency": "zero-out",
        "trust": "distributed",
        "delta": 1e-5,
        "accountant": ACCOUNTANT,
        "participations": facts.plan.update.participations,
    }
    assert "the server included" in claim["covers"]
    families = {family.name: family for family in text_string_to_metric_families(exposition(facts).decode())}
    found = families["fedrecall_epsilon"]
    assert claim["covers"] in found.documentation
    assert {sample.labels["against"]: sample.value for sample in found.samples} == {"everyone": 1.5, "recipients": 1.5}
    for sample in found.samples:
        assert sample.labels == {"against": sample.labels["against"], **{name: str(terms[name]) for name in terms}}


def test_a_row_that_is_being_written_is_not_read(running, now):
    with (running.runs / "run-1" / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "coh')
    assert facts_of(running, VITALS, 0, now).last == ROW


def test_a_long_run_is_read_from_its_end(running, now):
    path = running.runs / "run-1" / "rounds.jsonl"
    path.write_text((json.dumps({"filler": "x" * 1000}) + "\n") * 3000 + json.dumps(ROW) + "\n")
    assert facts_of(running, VITALS, 0, now).last == ROW


def test_paused_ended_and_waiting_are_told(running, now):
    running.paused.touch()
    save_state(state_after(3, stopped="finished"), running.runs / "run-1" / "checkpoint.safetensors")
    facts = facts_of(running, replace(VITALS, waiting="the run has ended"), 0, now)
    assert (facts.paused, facts.stopped, facts.to_dict()["waiting"]) == (True, "finished", "the run has ended")
    assert samples(facts)["fedrecall_run_ended",] == 1


def test_clients_and_invitations_are_counted_never_named(running, now, answer):
    clients = [approve(running, answer(invite(running, "ann", 1, now), n), "bob", now) for n in (1, 2)]
    revoke(running, clients[0].name, "ann", now)
    invite(running, "ann", 1, now)
    invite(running, "ann", 3, now)
    facts = facts_of(running, VITALS, 0, now + timedelta(days=2))
    assert (facts.clients, facts.revoked, facts.invitations) == (1, 1, 1)
    told = exposition(facts).decode() + json.dumps(facts.to_dict())
    for client in clients:
        assert client.name not in told
        assert client.identity not in told


def test_a_broken_checkpoint_is_said(running, now):
    (running.runs / "run-1" / "checkpoint.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match="no readable checkpoint"):
        facts_of(running, VITALS, 0, now)


@pytest.mark.parametrize(("alive", "is_ready"), [({}, False), ({"a": True}, True), ({"a": True, "b": False}, False)])
def test_ready_means_that_everything_answers(alive, is_ready):
    assert ready(replace(VITALS, alive=alive)) is is_ready
