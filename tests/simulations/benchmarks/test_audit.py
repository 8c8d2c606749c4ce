"""The benchmark of the audit: its ledgers are real ones, and its time is of an audit that passes them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from shared.audit.chain_checks import chain_findings
from shared.audit.reading import read_evidence
from shared.errors import RunError
from simulations.bench_cli import bench_app
from simulations.benchmarks import audit
from simulations.benchmarks.audit import Plan, measure, write_run

TINY = Plan(rounds=6, clients=8, cohort=4)


@pytest.fixture(scope="module")
def result():
    return measure(lambda _: None, TINY)


def test_the_ledgers_written_pass_every_check_of_the_chain_with_a_key_for_each_client(tmp_path):
    lines, heads, size = write_run(tmp_path, TINY)
    evidence = read_evidence(tmp_path)
    assert {one.outcome for one in chain_findings(evidence) if not one.check.startswith("keys-")} == {"pass"}
    assert len({log.key for log in evidence.clients}) == len(evidence.clients) == 8
    logs = (evidence.server, *evidence.clients)
    assert lines == sum(log.lines for log in logs)
    assert heads == sum(len(log.heads) for log in logs) == 6 * 5 + 1
    assert size == sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl"))


def test_the_audit_and_the_bare_reading_see_the_same_lines(result):
    assert result["audit"]["lines"] == result["bare"]["lines"] == result["lines"] == 21 + 8 * 2 + 6 * 4 * 3
    assert result["audit"]["failed"] == []
    assert result["audit"]["seconds"] > result["bare"]["seconds"] > 0
    assert result["audit"]["peak_megabytes"] > result["bare"]["peak_megabytes"] > 5
    assert list(result["bars"].values()) == [True, True]


def test_an_audit_that_fails_has_no_time(monkeypatch):
    monkeypatch.setattr(audit, "in_child", lambda *_: {"failed": ["chain-server"], "lines": 0})
    with pytest.raises(RunError, match="fails: chain-server"):
        measure(lambda _: None, TINY)


def test_a_cohort_of_more_than_everybody_is_refused():
    with pytest.raises(RunError, match="a cohort of 9 of 8 clients"):
        measure(lambda _: None, Plan(rounds=1, clients=8, cohort=9))


def test_a_measured_process_that_dies_is_an_error_with_its_last_words(tmp_path):
    (tmp_path / "x.jsonl").write_text("no json\n")
    with pytest.raises(RunError, match="JSONDecodeError"):
        audit.in_child(audit.THIS, "bare", str(tmp_path))


def test_the_command_prints_a_table_or_json(monkeypatch, result):
    monkeypatch.setattr(audit, "measure", lambda say, **_: say("working") or result)
    shown = CliRunner().invoke(bench_app, ["audit"], catch_exceptions=False).output
    assert "fedrecall-audit verify" in shown
    assert "109 lines" in " ".join(shown.split())
    assert "ok  audit under 60 s" in shown
    plain = CliRunner().invoke(bench_app, ["audit", "--json"], catch_exceptions=False).stdout
    assert json.loads(plain[plain.index("{") :]) == json.loads(json.dumps(result))
