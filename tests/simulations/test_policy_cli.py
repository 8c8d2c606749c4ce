"""``fedrecall-sim policy``: what a person sees, what they may order, and one sentence for what they may not."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from typer.testing import CliRunner

from server.aggregation import OptimizerState
from server.checkpoint import State, save_state
from server.oversight import CHECKPOINT, LEDGER, give_order, read_order
from shared.config import PolicySection, first_policy
from shared.keys import own_key
from shared.policy.control import decide, memory_to_dict
from shared.policy.memory import Memory
from shared.policy.orders import Order, propose
from shared.policy.recall_policy import policy_to_dict
from shared.policy.sight import Seen, Sight, Targets, sight_to_dict
from shared.privacy.ledger import create_ledger
from shared.terminal import USAGE
from simulations import cli, policy_cli

FIRST = first_policy(PolicySection())
POLICY = replace(FIRST, version=2, depth=300)
PRICED = replace(POLICY, version=3, exposure_prices=(0, 5, 0, 120))
PENDING = propose(4, POLICY, PRICED, memory_to_dict(Memory(FIRST, knob="prices")), "move", "coverage is low")
BEFORE, AFTER = policy_to_dict(FIRST), policy_to_dict(POLICY)
EVENTS = [
    {"type": "decision", "round": 2, "controller": "dual", "before": BEFORE, "after": AFTER, "reason": "prices rise"},
    {
        "type": "order",
        "round": 3,
        "file": "2026-x.json",
        "order": {"kind": "thaw", "who": "bob", "when": "2026-01-01", "why": "why not"},
        "outcome": "refused",
        "reason": "the policy is not frozen",
        "before": AFTER,
        "after": AFTER,
    },
]


def a_decision(**changes):
    """A first decision as a server writes it."""
    sight, targets = Sight(Seen(0.3, 0.01)), Targets(recall=0.9, coverage=0.4, items=1000)
    made = decide(2, "rules", FIRST, Memory(FIRST), sight, targets, last=False, pending=None, approval=False)
    event = {"type": "decision", "round": 2, "controller": "rules", "targets": asdict(targets), "approval": False}
    event |= {"last": False, "sight": sight_to_dict(sight), "memory": memory_to_dict(Memory(FIRST)), "proposal": None}
    event |= {"before": BEFORE, "after": policy_to_dict(made.step.policy), "decision": made.step.decision}
    return event | {"reason": made.step.reason} | changes


@pytest.fixture
def folder(tmp_path):
    """A run after round 4, version 2 in force, a proposal waiting; ``folder(policy=...)`` changes its state."""
    run = tmp_path / "run"
    run.mkdir()

    def make(events=EVENTS, **fields):
        ledger = create_ledger(run / LEDGER, own_key(tmp_path / "key.pem"), {"kind": "simulation"})
        ledger.append(events, head=4)
        ledger.close()
        nothing = np.zeros(3, np.float32)
        known = {"policy": POLICY, "controller": Memory(FIRST), "pending": PENDING, "ledgers": {LEDGER: ledger.count}}
        state = State(4, nothing, OptimizerState(0, nothing, nothing), nothing, **(known | fields))
        save_state(state, run / CHECKPOINT)
        return run

    return make


def invoke(capsys, monkeypatch, *words):
    """Exit code, stdout and stderr of the command, as a shell sees them."""
    monkeypatch.setattr("sys.argv", ["fedrecall-sim", "policy", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


@pytest.fixture
def call(capsys, monkeypatch):
    return lambda *words: invoke(capsys, monkeypatch, *words)


def waiting(folder):
    return [read_order(path) for path in sorted(folder.glob("orders/*.json"))]


# --- show


def test_show_says_what_is_in_force_where_it_came_from_and_what_waits(folder, call):
    code, out, err = call("show", folder())
    assert (code, err) == (0, "")
    for said in (
        "After round 4: version 2 is in force.",
        "    1  round 0, configuration: the first policy",
        "*   2  round 2, controller dual: prices rise",
        "       depth: 200 -> 300",
        f"Proposal {PENDING.id} of round 4 (move): coverage is low",
        "       exposure_prices.highest: 0 -> 1.2",
        f"--proposal {PENDING.id}   (or reject)",
        "  after round 3, bob, thaw: refused; the policy is not frozen",
    ):
        assert said in out


def test_show_says_frozen_ended_and_nothing_waits(folder, call):
    run = folder(policy=replace(POLICY, frozen=True), pending=None, stopped="finished")
    out = call("show", run)[1]
    assert "version 2 is in force, frozen: no controller moves it; the run has ended (finished)." in out
    assert "No proposal waits." in out


def test_show_lists_orders_that_wait_and_files_that_are_none(folder, call):
    run = folder()
    call("freeze", run)
    (run / "orders" / "x\x1b[2J.json").write_text("rubbish")
    out = call("show", run)[1]
    assert re.search(r"waits: \d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}-freeze\n", out)
    assert r"waits: x\x1b[2J, which is no order" in out


def test_show_as_json_holds_every_policy_whole(folder, call):
    seen = json.loads(call("show", folder(), "--json")[1])
    assert (seen["round"], seen["in_force"], seen["frozen"], seen["stopped"]) == (4, 2, False, None)
    assert [version["policy"] for version in seen["versions"]] == [BEFORE, AFTER]
    assert seen["policy"] == AFTER
    assert seen["proposal"]["policy"] == policy_to_dict(PENDING.policy)
    assert seen["orders"][0]["outcome"] == "refused"
    assert seen["waiting"] == []


def test_show_says_that_all_of_it_replays(folder, call):
    run = folder(events=[{"type": "intent", "round": 2, "release": "update"}, a_decision()])
    assert call("show", run)[1].endswith("\n\n1 decisions and orders, all replay.\n")
    assert json.loads(call("show", run, "--json")[1])["replay"] == {"lines": 1, "wrong": []}


def test_show_says_what_does_not_replay(folder, call):
    run = folder(events=[a_decision(reason="because\x1b[2J I say so")])
    out = call("show", run)[1]
    assert "1 decisions and orders; these do not replay:\n  decision of round 2: reason is because\\x1b[2J I say" in out
    (sentence,) = json.loads(call("show", run, "--json")[1])["replay"]["wrong"]
    assert sentence.startswith("decision of round 2: reason is because\x1b[2J I say so, a replay gives recall 0.300")


def test_what_stands_behind_the_checkpoint_is_not_replayed_yet(folder, call):
    run = folder(events=[a_decision(), {"type": "decision"}], ledgers={LEDGER: 2})
    assert "1 decisions and orders, all replay." in call("show", run)[1]


# --- orders


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_an_answer_names_the_proposal_that_waits(verb, folder, call):
    run = folder()
    code, out, _ = call(verb, run, "--why", "looked at it")
    assert code == 0
    assert out.startswith(f"Before the next round: proposal {PENDING.id} ")
    (order,) = waiting(run)
    assert (order.kind, order.proposal, order.why) == (verb, PENDING.id, "looked at it")
    assert order.who
    assert order.when.endswith("+00:00")
    assert str(run / "orders" / order.id) in out


def test_a_rollback_names_the_version_that_the_person_saw(folder, call):
    run = folder()
    assert call("rollback", run, 1)[0] == 0
    (order,) = waiting(run)
    assert (order.version, order.seen, order.proposal) == (1, 2, None)


def test_orders_lie_in_the_order_in_which_they_were_given(folder, call):
    run = folder()
    for words in (("freeze", run), ("thaw", run), ("freeze", run)):
        assert call(*words)[0] == 0
    assert [order.kind for order in waiting(run)] == ["freeze", "thaw", "freeze"]


def test_an_order_as_json(folder, call):
    run = folder()
    answer = json.loads(call("freeze", run, "--json")[1])
    (order,) = waiting(run)
    assert answer["order"]["id"] == order.id
    assert answer["file"] == str(run / "orders" / f"{order.id}.json")
    assert "version 2 frozen" in answer["expected"]


@pytest.mark.parametrize(
    ("words", "changed", "sentence"),
    [
        (("approve",), {"pending": None}, "no proposal waits, so there is nothing to approve"),
        (("approve", "--proposal", "00000000"), {}, f"the proposal that waits is {PENDING.id}, not 00000000"),
        (("approve",), {"policy": replace(POLICY, frozen=True)}, "the policy is frozen: thaw it before"),
        (("thaw",), {}, "the policy is not frozen"),
        (("freeze",), {"stopped": "finished"}, "the run has ended (finished): its policy is frozen"),
        (("rollback", "7"), {}, "version 7 was never in force; known are 1, 2"),
        (("rollback", "2"), {}, "version 2 is in force already"),
        (("freeze", "--why", "two\nlines"), {}, "order.why"),
    ],
)
def test_wrong_use_is_one_sentence_and_leaves_no_order(words, changed, sentence, folder, call):
    run = folder(**changed)
    verb, *rest = words
    code, out, err = call(verb, run, *rest)
    assert (code, out) == (USAGE, "")
    assert err.startswith("fedrecall-sim: ")
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert not (run / "orders").exists()


@pytest.mark.parametrize("verb", ["show", "freeze"])
def test_a_folder_that_is_no_run_is_said(verb, tmp_path, call):
    code, _, err = call(verb, tmp_path)
    assert code == USAGE
    assert "no run here that has closed a round" in err


def test_a_second_freeze_is_refused_while_the_first_one_waits(folder, call):
    run = folder()
    give_order(run, Order("2026-a", "freeze", "ann", "2026-01-01", ""))
    assert "the policy is frozen already" in call("freeze", run)[2]


@pytest.mark.parametrize("words", [["rollback"], ["rollback", "x", "0"], ["approve"], ["delete", "x"]])
def test_missing_and_wrong_arguments_are_usage_errors(words):
    assert CliRunner().invoke(cli.app, ["policy", *words]).exit_code == USAGE


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("no name")])
def test_an_account_without_a_name_is_its_number(error, folder, call, monkeypatch):
    def nameless():
        raise error

    monkeypatch.setattr(policy_cli.getpass, "getuser", nameless)
    run = folder()
    call("freeze", run)
    assert re.fullmatch(r"uid \d+", waiting(run)[0].who)
