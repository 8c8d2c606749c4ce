from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from shared.audit.chain_checks import chain_findings
from shared.audit.evidence import Head
from shared.audit.reading import read_evidence
from shared.config import PolicySection, first_policy
from shared.policy.control import decide
from shared.policy.memory import Memory, memory_to_dict
from shared.policy.recall_policy import policy_to_dict
from shared.policy.sight import Targets


@pytest.fixture
def run(written, tmp_path):
    return written(tmp_path / "run")


@pytest.fixture
def clean(run):
    return read_evidence(run, keys=run / "keys.toml")


def found(evidence):
    """Outcome by check; what is asserted of a fail is the finding itself."""
    return {finding.check: finding for finding in chain_findings(evidence)}


def failed(evidence):
    return sorted(finding.check for finding in chain_findings(evidence) if finding.outcome == "fail")


def with_server(evidence, **changes):
    return replace(evidence, server=replace(evidence.server, **changes))


def with_client(evidence, **changes):
    return replace(evidence, clients=(replace(evidence.clients[0], **changes),))


def with_charge(evidence, place, **changes):
    charges = list(evidence.server.charges)
    charges[place] = replace(charges[place], **changes)
    return with_server(evidence, charges=tuple(charges))


def test_a_clean_run_passes_every_check_of_the_ledger(clean):
    assert {finding.outcome for finding in chain_findings(clean)} == {"pass"}
    assert {finding.clause for finding in chain_findings(clean)} == {7}


def test_each_check_is_made_once(clean):
    names = [finding.check for finding in chain_findings(clean)]
    assert len(names) == len(set(names))


# --- chain and keys


def test_a_ledger_that_does_not_verify_fails_at_the_line_where_it_breaks(clean):
    finding = found(with_server(clean, broken="the line was edited after it was written", lines=6))["chain-server"]
    assert (finding.outcome, finding.places[0].lines) == ("fail", (7,))
    assert finding.values == {"line": 7, "why": "the line was edited after it was written"}


def test_of_many_clients_ledgers_the_first_broken_one_is_told_and_all_are_counted(clean):
    [log] = clean.clients
    logs = tuple(replace(log, file=f"{n}.jsonl", key=f"{n:064x}", broken="forged" if n > 1 else None) for n in range(4))
    finding = found(replace(clean, clients=logs))["chain-client"]
    assert finding.values == {"file": "2.jsonl", "line": log.lines + 1, "why": "forged", "count": 2}
    assert [place.file for place in finding.places] == ["2.jsonl", "3.jsonl"]


def test_without_one_side_its_checks_cannot_tell(clean):
    nobody = found(replace(clean, clients=()))
    for check in ("chain-client", "order-client", "client-ledgers", "payments-asked", "results-paid", "sealed-once"):
        assert nobody[check].outcome == "cannot tell", check
    for check in ("chain-server", "order", "gaps", "tail-server", "receipts", "decisions"):
        assert nobody[check].outcome == "pass", check
    alone = found(replace(clean, server=None))
    for check in ("chain-server", "keys-server", "order", "gaps", "tail-server", "decisions", "receipts"):
        assert alone[check].outcome == "cannot tell", check
    assert alone["chain-client"].outcome == "pass"


def test_who_signed_cannot_be_told_without_the_auditors_own_keys(clean):
    made = found(replace(clean, keys={}))
    assert (made["keys-server"].outcome, made["keys-client"].outcome) == ("cannot tell", "cannot tell")
    assert made["keys-server"].values["key"] == clean.server.key


def test_another_key_than_the_auditors_is_another_server(clean):
    finding = found(replace(clean, keys={"server": "0" * 64}))["keys-server"]
    assert (finding.outcome, finding.values["expected"]) == ("fail", "0" * 64)


def test_another_key_than_the_auditors_is_another_client(clean):
    finding = found(replace(clean, keys={**clean.keys, "3": "0" * 64}))["keys-client"]
    assert finding.outcome == "fail"
    assert (finding.values["client"], finding.values["expected"]) == ("3", "0" * 64)
    assert {place.file for place in finding.places} == {"clients.jsonl", "ledger.jsonl"}


def test_a_ledger_whose_key_and_clients_the_auditor_does_not_list_stays_open(clean):
    (log,) = clean.clients
    other = tuple(replace(one, client="99") for one in log.payments)
    more = replace(clean, clients=(log, replace(log, key="e" * 64, payments=other, results=(), file="other.jsonl")))
    finding = found(more)["keys-client-unlisted"]
    assert (finding.outcome, finding.values, finding.places[0].file) == ("cannot tell", {"count": 1}, "other.jsonl")
    assert "keys-client-unlisted" not in found(clean)


def test_keys_of_clients_that_no_ledger_names_tell_nothing(clean):
    assert found(replace(clean, keys={"stranger": "0" * 64}))["keys-client"].outcome == "cannot tell"


# --- order and gaps


def test_a_round_may_be_asked_again_if_it_counts_its_attempts(clean):
    first = clean.server.charges[1]
    again = replace(first, line=100, attempt=2, task="f" * 64, hash="e" * 64)
    charges = (*clean.server.charges[:2], again, *clean.server.charges[2:])
    sums = (*clean.server.sums, replace(clean.server.sums[1], line=101, attempt=2, receipts=()))
    made = found(with_server(clean, charges=charges, sums=sums))
    assert made["order"].outcome == "pass"
    assert made["order"].values == {"charges": 5, "retries": 1}
    assert made["gaps"].outcome == "pass"


def test_a_round_that_goes_back_fails(clean):
    finding = found(with_charge(clean, 3, round=1))["order"]
    assert finding.outcome == "fail"
    assert finding.values == {"round": 1, "release": "measurement", "attempt": 1, "count": 1}


@pytest.mark.parametrize("attempt", [2, 7])
def test_attempts_that_do_not_count_up_from_one_fail(clean, attempt):
    assert found(with_charge(clean, 1, attempt=attempt))["order"].outcome == "fail"


def test_a_client_that_answers_an_earlier_round_after_a_later_one_fails(clean):
    payments = list(clean.clients[0].payments)
    payments[-1] = replace(payments[-1], round=0, release="measurement")
    finding = found(with_client(clean, payments=tuple(payments)))["order-client"]
    assert (finding.outcome, finding.values["client"]) == ("fail", payments[-1].client)


def test_a_charge_without_a_result_is_a_gap(clean):
    sums = clean.server.sums
    finding = found(with_server(clean, sums=(sums[0], *sums[2:])))["gaps"]
    assert finding.outcome == "fail"
    assert finding.values == {"round": 1, "release": "update", "count": 1}
    assert finding.places[0].lines == (clean.server.charges[1].line,)


def test_a_killed_run_that_asks_its_round_again_is_no_gap(clean):
    first = clean.server.charges[1]
    again = replace(first, line=first.line + 1, attempt=2, task="f" * 64, hash="e" * 64)
    charges = (*clean.server.charges[:2], again, *clean.server.charges[2:])
    sums = tuple(replace(one, attempt=2) if one.round == 1 else one for one in clean.server.sums)
    finding = found(with_server(clean, charges=charges, sums=sums))["gaps"]
    assert (finding.outcome, finding.values["killed"]) == ("pass", 1)


def test_a_round_that_goes_on_without_its_result_was_not_killed(clean):
    sums = clean.server.sums
    finding = found(with_server(clean, sums=(*sums[:2], sums[3])))["gaps"]
    assert (finding.outcome, finding.values["round"], finding.values["release"]) == ("fail", 2, "update")


def test_one_off_statistics_that_a_kill_lost_are_paid_for_and_no_gap(clean):
    assert found(with_server(clean, sums=clean.server.sums[1:]))["gaps"].outcome == "pass"


def test_a_run_that_ends_in_the_middle_of_a_round_was_killed_unless_it_says_it_finished(clean):
    cut = with_server(clean, sums=clean.server.sums[:-1], ends=())
    assert found(cut)["gaps"].outcome == "pass"
    assert found(with_server(cut, ends=clean.server.ends))["gaps"].outcome == "fail"


def test_a_missing_round_is_named(clean):
    charges = tuple(replace(one, round=one.round + 3) if one.round else one for one in clean.server.charges)
    finding = found(with_server(clean, charges=charges))["gaps-rounds"]
    assert (finding.outcome, finding.values) == ("fail", {"round": 1, "count": 3})
    huge = tuple(replace(one, round=2**50) if one.round == 2 else one for one in clean.server.charges)
    assert found(with_server(clean, charges=huge))["gaps-rounds"].values == {"round": 2, "count": 2**50 - 2}


def test_a_result_that_nothing_was_charged_for_fails(clean):
    finding = found(with_server(clean, charges=clean.server.charges[1:]))["result-unasked"]
    assert (finding.outcome, finding.values["round"], finding.values["release"]) == ("fail", 0, "statistics")
    late = with_charge(clean, 0, line=clean.server.lines)
    assert found(late)["result-unasked"].outcome == "fail"


# --- replays


@pytest.mark.parametrize("what", ["charges", "sums"])
def test_a_servers_line_that_comes_twice_is_a_replay(clean, what):
    lines = getattr(clean.server, what)
    finding = found(with_server(clean, **{what: (*lines, lines[-1])}))["replays"]
    assert finding.outcome == "fail"
    assert finding.values["what"] == what.removesuffix("s")


def test_one_task_in_two_rounds_is_a_replay(clean):
    finding = found(with_charge(clean, 2, task=clean.server.charges[1].task))["replays"]
    assert (finding.outcome, finding.values["what"], finding.values["round"]) == ("fail", "task", 2)


@pytest.mark.parametrize(("what", "name"), [("payments", "payment"), ("results", "sealed")])
def test_a_clients_line_that_comes_twice_is_a_replay_in_whatever_ledger(clean, what, name):
    lines = getattr(clean.clients[0], what)
    finding = found(with_client(clean, **{what: (*lines, lines[3])}))["replays"]
    assert (finding.outcome, finding.values["what"]) == ("fail", name)
    other = replace(clean.clients[0], file="other.jsonl", key="0" * 64)
    assert found(replace(clean, clients=(*clean.clients, other)))["replays"].outcome == "fail"


# --- the tail


def test_without_an_end_lines_may_have_been_cut_off(clean):
    finding = found(with_server(clean, ends=()))["tail-server"]
    assert (finding.outcome, finding.values) == ("cannot tell", {"unsigned": 0})


def test_an_end_that_no_head_signs_proves_nothing(clean):
    server = clean.server
    cut = with_server(clean, heads=server.heads[:-1], lines=server.lines - 1)
    assert found(cut)["tail-server"].outcome == "cannot tell"


def test_nothing_stands_behind_the_end(clean):
    server = clean.server
    longer = with_server(clean, heads=(*server.heads, Head(server.lines + 1, 2, "0" * 64)), lines=server.lines + 1)
    finding = found(longer)["tail-server"]
    assert (finding.outcome, finding.values) == ("fail", {"count": 2})
    event = with_server(clean, heads=server.heads[:-1])  # the last line is no head
    assert found(event)["tail-server"].outcome == "fail"


# --- decisions


def a_decision():
    policy, targets = first_policy(PolicySection()), Targets(recall=0.5, coverage=0.4, items=30)
    made = decide(2, "static", policy, Memory(policy), None, targets, last=False, pending=None, approval=False).step
    event = {
        "type": "decision",
        "round": 2,
        "controller": "static",
        "approval": False,
        "targets": asdict(targets),
        "last": False,
        "estimate": None,
        "sight": None,
        "memory": memory_to_dict(Memory(policy)),
        "before": policy_to_dict(policy),
        "after": policy_to_dict(made.policy),
        "decision": made.decision,
        "reason": made.reason,
        "proposal": None,
    }
    return json.loads(json.dumps(event))


def test_every_decision_is_decided_again(clean):
    told = (*clean.server.events, (10, a_decision()))
    finding = found(with_server(clean, events=told))["decisions"]
    assert (finding.outcome, finding.values) == ("pass", {"decisions": 1, "orders": 0})


def test_an_edited_decision_fails_at_its_line(clean):
    told = (*clean.server.events, (10, {**a_decision(), "reason": "because"}))
    finding = found(with_server(clean, events=told))["decisions"]
    assert (finding.outcome, finding.values["count"]) == ("fail", 1)
    assert "a replay gives" in finding.values["what"]
    assert finding.places[0].lines == (10,)


@pytest.mark.parametrize("event", [{}, {"targets": {"recall": 10**400}}, {"before": None}, {"sight": {"recall": "x"}}])
def test_a_decision_that_is_none_fails_without_a_traceback(clean, event):
    told = (*clean.server.events, (10, {**(a_decision() if event else {}), "type": "decision", "round": 2, **event}))
    assert found(with_server(clean, events=told))["decisions"].outcome == "fail"


def test_nothing_fails_of_a_run_that_charged_nothing(clean):
    empty = with_server(clean, charges=(), sums=(), events=(), ends=(), heads=(), lines=1)
    assert failed(replace(empty, clients=())) == []
