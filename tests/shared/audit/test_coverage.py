"""A claim covers what was charged; a number that was told without a charge fails, and what is left open is listed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.audit.coverage import ALWAYS, OFFICER, coverage_findings, not_covered


def outcomes(evidence):
    return {finding.check: finding.outcome for finding in coverage_findings(evidence)}


def failed(evidence):
    return {finding.check: finding for finding in coverage_findings(evidence) if finding.outcome == "fail"}


def with_server(evidence, **changes):
    return replace(evidence, server=replace(evidence.server, **changes))


def with_printed(evidence, **changes):
    content = {**evidence.printed.content, **changes}
    return replace(evidence, printed=replace(evidence.printed, content=content))


def decision(round_, recall=0.4):
    seen = None if recall is None else {"recall": {"value": recall, "half_width": 0.01}}
    return {"type": "decision", "round": round_, "sight": seen, "estimate": seen}


@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
def test_a_clean_run_leaves_open_only_what_the_officer_fills_in(made, planned, trust):
    found = outcomes(made(planned(trust=trust)))
    assert {check for check, outcome in found.items() if outcome != "pass"} == set(OFFICER)


def test_a_kind_of_release_that_the_plan_does_not_pay_for_fails(made):
    evidence = made()
    extra = replace(evidence.server.charges[0], release="profile", line=99)
    found = failed(with_server(evidence, charges=(*evidence.server.charges, extra)))
    assert found["kinds-covered"].values == {"kinds": "profile", "count": 1}
    assert found["kinds-covered"].places[0].lines == (99,)


def test_a_kind_that_only_a_client_paid_for_fails_too(made):
    evidence = made()
    log = evidence.clients[0]
    extra = replace(log.payments[0], release="profile")
    evidence = replace(evidence, clients=(replace(log, payments=(*log.payments, extra)),))
    assert set(failed(evidence)) == {"kinds-covered"}


def test_numbers_of_a_round_that_nobody_measured_were_released_outside(made):
    evidence = made()
    events = ((7, decision(1)), *evidence.server.events)
    found = failed(with_server(evidence, events=events))
    assert found["metrics-charged"].values == {"rounds": "1", "count": 1}
    assert found["metrics-charged"].places[0].lines == (7,)


def test_numbers_of_an_aborted_measurement_were_released_outside(made):
    evidence = made()
    sums = tuple(replace(one, aborted=one.release == "measurement") for one in evidence.server.sums)
    assert "metrics-charged" in failed(with_server(evidence, sums=sums))


def test_one_measurement_pays_for_one_decision(made):
    evidence = made()
    events = (*evidence.server.events, (11, decision(2)))
    assert set(failed(with_server(evidence, events=events))) == {"metrics-charged"}


def test_a_decision_before_its_measurement_cannot_have_seen_it(made):
    evidence = made()
    assert "metrics-charged" in failed(with_server(evidence, events=((2, decision(2)),)))


def test_a_decision_that_saw_nothing_needs_no_measurement(made):
    evidence = made()
    events = ((5, decision(1, recall=None)), *evidence.server.events)
    assert failed(with_server(evidence, events=events)) == {}


@pytest.mark.parametrize("model", [{"round": 2, "estimate": {"value": 0.9}}, {"round": 1, "estimate": {"value": 0.4}}])
def test_an_end_that_tells_an_estimate_of_its_own_fails(made, model):
    evidence = made()
    assert set(failed(with_server(evidence, ends=((12, {"type": "end", "model": model}),)))) == {"ending-charged"}
    assert set(failed(with_printed(evidence, model=model))) == {"ending-charged"}


@pytest.mark.parametrize("estimate", [{"value": "0.9"}, "0.9", [0.9], {"value": None}])
def test_a_decision_that_saw_nothing_vouches_for_no_estimate(made, estimate):
    evidence = made()
    evidence = with_server(evidence, events=(*evidence.server.events, (11, decision(1, recall=None))))
    told = with_printed(evidence, model={"round": 1, "estimate": estimate})
    assert "ending-charged" in failed(told)


def test_metrics_of_an_oracle_are_for_simulations(made, planned):
    assert "metrics-outside" not in outcomes(with_printed(made(), test={"recall@20": 0.4}))
    deployment = made(planned(kind="deployment"), "os", "2026-11-24")
    assert outcomes(deployment)["metrics-outside"] == "pass"
    found = failed(with_printed(deployment, test={"recall@20": 0.4}, baselines={}))
    assert found["metrics-outside"].values == {"names": "test, baselines"}


def test_tuning_is_not_covered_and_that_is_said(made):
    assert outcomes(made())["tuning"] == "pass"
    assert outcomes(with_printed(made(), covers_tuning=True))["tuning-claimed"] == "cannot tell"
    assert outcomes(replace(made(), printed=None))["tuning"] == "cannot tell"


def test_other_runs_in_the_same_ledgers_are_counted_and_listed(made):
    evidence = made()
    log = evidence.clients[0]
    pins = (replace(log.pins[0], run="before"), *log.pins)
    evidence = replace(evidence, clients=(replace(log, pins=pins),))
    found = next(finding for finding in coverage_findings(evidence) if finding.check == "earlier-runs-others")
    assert found.values == {"count": 1, "runs": "before"}
    assert "other-runs" in not_covered(evidence)
    assert "other-runs" not in not_covered(made())


def test_what_is_not_covered_depends_on_the_trust_the_unit_and_the_kind(made, planned):
    assert not_covered(made()) == ["collusion-beyond", "oracle-folder", "tuning", *ALWAYS]
    deployment = made(planned(kind="deployment", trust="central"), "os", "2026-11-24")
    assert not_covered(deployment) == ["against-server", "tuning", *ALWAYS]
    local = not_covered(made(planned(trust="local", unit="interaction")))
    assert {"event-level", "float-local"} <= set(local)
    assert "no-privacy" in not_covered(made(planned(epsilon=None)))


def test_without_a_servers_ledger_its_decisions_cannot_be_told(made):
    assert outcomes(replace(made(), server=None))["server-ledger"] == "cannot tell"
