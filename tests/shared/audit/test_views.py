"""What is shown of a clause: its outcome, counts of findings, evidence, and commands that can be typed as shown."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from shared.audit.findings import CLAUSES, Finding, Place
from shared.audit.verify import verify
from shared.audit.views import clauses, facts, files, path_of, upper

COMMAND = "fedrecall-audit verify 'my runs/1'"


@cache
def audit(make):
    return verify(make(), subject="my runs/1", command=COMMAND)


@pytest.fixture
def report(made):
    return audit(made)


def shown(report, clause, *findings):
    return clauses(replace(report, findings=findings))[clause - 1]


def test_there_are_always_twelve(report):
    assert [view.number for view in clauses(report)] == list(CLAUSES)
    assert [view.number for view in clauses(replace(report, findings=(), outcomes={}))] == list(CLAUSES)
    assert clauses(replace(report, outcomes={}))[0].outcome is None


def test_outcomes_are_counted_apart_from_what_no_ledger_can_show(report):
    findings = [Finding(10, "arithmetic", "pass"), Finding(10, "float", "fail"), Finding(10, "timing", "cannot tell")]
    assert shown(report, 10, *findings).counts.en == "1 passed, 1 failed, 1 for you to judge"
    assert shown(report, 10, *findings).counts.zh == "通过 1，不通过 1，由您判断 1"
    assert shown(report, 10).counts.en == ""


@pytest.mark.parametrize(
    ("file", "typed"),
    [
        ("ledger.jsonl", "my runs/1/ledger.jsonl"),
        ("clients.jsonl", "my runs/1/clients.jsonl"),
        ("home/clients/7/ledger.jsonl", "my runs/1/" + "home/clients/7/ledger.jsonl"),
        ("given/7.jsonl", "given/7.jsonl"),
    ],
)
def test_a_file_of_the_run_is_named_as_it_can_be_typed(report, file, typed):
    assert path_of(report, Place(file)) == typed


def test_a_single_ledger_is_its_own_name(report):
    assert path_of(replace(report, subject="ledger.jsonl"), Place("ledger.jsonl")) == "ledger.jsonl"


def test_commands_are_quoted_for_a_shell(report):
    bad = Finding(7, "chain-server", "fail", {"line": 3, "why": "edited"}, (Place("ledger.jsonl", (3, 4)),))
    view = shown(report, 7, bad)
    assert view.command == f"{COMMAND} --clause 7"
    assert view.findings[0].explain == "fedrecall-audit explain 'my runs/1/ledger.jsonl:3'"
    assert [text.en for text in view.findings[0].evidence] == ["ledger.jsonl, lines 3, 4"]


def test_the_verdict_is_seen_again_by_the_whole_audit(report):
    assert clauses(report)[10].command == COMMAND
    assert clauses(replace(report, command=""))[0].command == ""


def test_a_file_as_a_whole_has_no_line_to_explain(report):
    view = shown(report, 9, Finding(9, "white-box", "cannot tell", {}, (Place("attack.json"),))).findings[0]
    assert view.explain == ""
    assert [text.zh for text in view.evidence] == ["attack.json"]


def test_facts_say_what_is_claimed_and_never_flatter(report):
    told = {name.en: value.en for name, value in facts(replace(report, claimed=7.991, recomputed=7.99001))}
    assert told["Claimed epsilon"] == "8.00"
    assert told["Recomputed upper bound"] == "7.9901"
    assert told["Delta"] == "1e-05 (1 in 100,000)"
    assert told["Judged as"] == "simulation"


def test_without_a_plan_or_a_claim_facts_are_said_to_be_none(report):
    told = {name.en: value.en for name, value in facts(replace(report, plan=None, claimed=None, delta=None))}
    assert (told["Claimed epsilon"], told["Delta"]) == ("none", "none")
    assert "Trust" not in told


def test_the_first_ledgers_are_named_and_the_rest_counted(report):
    many = replace(report, files=tuple((f"{number}.jsonl", 2) for number in range(8)))
    assert [text.en for text in files(many)][-2:] == ["4.jsonl: 2 lines", "and 3 ledgers more: 6 lines"]


def test_an_upper_bound_is_rounded_up():
    assert upper(1.001).en == "1.01"
    assert upper(None).zh == "无"
