"""What a plan leaves open must be said where people read it; what no ledger shows is never a pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.audit.hazards import UNSEEN, hazard_findings


def outcomes(evidence):
    return {finding.check: finding.outcome for finding in hazard_findings(evidence)}


def failed(evidence):
    return {finding.check for finding in hazard_findings(evidence) if finding.outcome == "fail"}


def with_printed(evidence, **changes):
    content = {**evidence.printed.content, **changes}
    return replace(evidence, printed=replace(evidence.printed, content=content))


def test_local_noise_is_marked_as_floating_point(made, planned):
    evidence = made(planned(trust="local"))
    assert outcomes(evidence)["float"] == "pass"
    assert set(failed(with_printed(evidence, not_covered=[]))) == {"float"}


def test_an_event_is_no_person_and_the_summary_says_so(made, planned):
    evidence = made(planned(trust="local", unit="interaction"))
    assert outcomes(evidence)["event-level"] == "pass"
    assert set(failed(with_printed(evidence, unit="user"))) == {"event-level"}


@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
def test_what_no_ledger_shows_never_passes(made, planned, trust):
    found = outcomes(made(planned(trust=trust)))
    assert {check for check, outcome in found.items() if outcome == "cannot tell"} == set(UNSEEN)


def test_a_simulation_says_that_it_is_one(made):
    assert outcomes(made())["simulation-folder"] == "pass"
    assert failed(with_printed(made(), kind="deployment")) == {"simulation-folder"}


def test_without_a_summary_nobody_can_tell_what_is_said(made, planned):
    found = outcomes(replace(made(planned(trust="local", unit="interaction")), printed=None))
    assert (found["float"], found["event-level"], found["simulation-folder"]) == ("cannot tell",) * 3
