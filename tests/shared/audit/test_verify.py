"""One audit of all checks: what fails decides, what no ledger shows is listed, what is missing leaves the rest open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.audit.findings import CLAUSES, EXIT_CODES, Finding
from shared.audit.reading import read_evidence
from shared.audit.texts import LANGUAGES, clause_title, sentence, uncovered
from shared.audit.verify import BEYOND, OF_CHARGES, verify


@pytest.fixture
def folder(written, tmp_path):
    return written(tmp_path / "run")


def audited(folder, **given):
    return verify(read_evidence(folder, **given), subject="run", command="fedrecall-audit verify run")


def complete(folder):
    """With keys, without an attack."""
    return audited(folder, keys=folder / "keys.toml", empirical=False)


def test_a_clean_run_passes_every_clause_that_a_ledger_can_prove(folder):
    report = complete(folder)
    assert [f for f in report.findings if f.outcome != "pass" and f.check not in BEYOND] == []
    assert report.outcomes == {clause: "pass" for clause in CLAUSES if clause not in {9, 12}} | {12: "cannot tell"}
    assert (report.outcome, report.exit_code) == ("pass", 0)
    assert (report.run, report.standing, report.files) == (
        "r",
        "simulation",
        (("ledger.jsonl", 14), ("clients.jsonl", 86)),
    )
    assert report.recomputed == pytest.approx(8.0, rel=1e-3)
    assert report.claimed >= report.recomputed - 1e-9


def test_keys_and_an_attack_are_what_a_clean_run_lacks_otherwise(folder):
    report = audited(folder)
    open_ = {f.check for f in report.findings if f.outcome == "cannot tell"} - BEYOND
    assert open_ == {"keys-server", "keys-client", "attack"}
    assert (report.outcome, report.exit_code) == ("cannot tell", 4)
    assert report.verdict.values["clauses"] == "7, 9"


def test_one_check_that_fails_fails_the_run(folder):
    summary = folder / "summary.json"
    summary.write_text(summary.read_text().replace('"epsilon": 7.99', '"epsilon": 1.99', 1))
    report = complete(folder)
    assert report.outcomes[1] == "fail"
    assert {outcome for clause, outcome in report.outcomes.items() if clause not in {1, 11, 12}} == {"pass"}
    assert (report.outcome, report.exit_code) == ("fail", 3)
    assert report.verdict.check == "verdict-simulation"


def test_whatever_fails_is_worse_than_whatever_is_missing(folder):
    summary = folder / "summary.json"
    summary.write_text(summary.read_text().replace('"epsilon": 7.99', '"epsilon": 1.99', 1))
    assert audited(folder).exit_code == EXIT_CODES["fail"]


def test_a_ledger_alone_leaves_clauses_open_but_fails_nothing(folder):
    for ledger in ("ledger.jsonl", "clients.jsonl"):
        report = audited(folder / ledger)
        assert report.outcome == "cannot tell"
        assert "fail" not in report.outcomes.values()


def test_where_ledgers_disagree_on_what_a_run_is_it_passes_as_neither(made):
    evidence = made()
    report = verify(replace(evidence, server=replace(evidence.server, kind="deployment")))
    assert report.standing == "unknown"
    assert report.verdict.check == "verdict-unknown"
    assert report.outcome == "fail"


def test_no_evidence_at_all_is_no_verdict(made):
    report = verify(replace(made(), server=None, clients=(), printed=None))
    assert (report.outcome, report.standing, report.run, report.plan) == ("cannot tell", "unknown", "", None)


def test_what_no_ledger_shows_comes_last_and_decides_nothing(folder):
    report = complete(folder)
    hazards = [finding.check in BEYOND for finding in report.of(10)]
    assert hazards == sorted(hazards)
    assert report.outcomes[10] == "pass"


def test_a_finding_made_while_reading_counts(made):
    odd = Finding(7, "file-refused", "fail", {"file": "x.jsonl", "why": "a pipe"})
    assert verify(replace(made(), reading=(odd,))).outcomes[7] == "fail"


@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
@pytest.mark.parametrize("kind", ["simulation", "deployment"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_that_is_found_has_a_sentence(made, planned, trust, kind, language):
    evidence = made(planned(trust=trust, kind=kind))
    for shown in (evidence, replace(evidence, server=None), replace(evidence, clients=(), printed=None)):
        report = verify(shown)
        assert all(sentence(finding, language) for finding in (*report.findings, report.verdict))
        assert all(uncovered(key, language) for key in report.not_covered)
        assert all(clause_title(clause, language) for clause in report.outcomes)


def test_where_nothing_can_be_read_nothing_of_it_passes(folder):
    ledger = folder / "ledger.jsonl"
    ledger.write_bytes(b"{}\n")
    passed = {f.check for f in audited(folder).findings if f.outcome == "pass"}
    assert passed.isdisjoint(OF_CHARGES)


def test_whatever_the_ledgers_decide_names_where_it_is_seen(folder):
    assert [f.check for f in complete(folder).findings if f.clause == 7 and not f.places] == []
