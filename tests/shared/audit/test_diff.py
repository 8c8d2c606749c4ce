"""Two audits differ in what is named, and an audit does not differ from itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.audit.diff import diff
from shared.audit.verify import verify


@pytest.fixture
def report(made):
    return verify(made())


def test_an_audit_does_not_differ_from_itself(report, made):
    assert diff(report, report) == ()
    assert diff(report, verify(made())) == ()


def test_another_epsilon_shows_in_the_claim_the_plan_and_what_was_recomputed(report, made, planned):
    found = {one.what: (one.a, one.b) for one in diff(report, verify(made(planned(epsilon=4.0))))}
    assert {"claimed", "recomputed", "plan.epsilon", "plan.update.noise_multiplier"} <= set(found)
    assert found["plan.epsilon"] == (8.0, 4.0)
    assert "verdict" not in found


def test_a_check_that_fails_shows_by_its_name_clause_and_verdict(report, made):
    evidence = made()
    sums = tuple(replace(one, sum_sigma=one.sum_sigma / 2) for one in evidence.server.sums)
    found = {
        one.what: (one.a, one.b)
        for one in diff(report, verify(replace(evidence, server=replace(evidence.server, sums=sums))))
    }
    assert found["5 noise-in-sum"] == ("pass", "fail")
    assert found["clause 5"] == ("pass", "fail")


def test_numbers_that_are_none_are_the_same(report):
    nan = replace(report, claimed=float("nan"))
    assert diff(nan, replace(nan, claimed=float("nan"))) == ()
    assert [one.what for one in diff(nan, report)] == ["claimed"]


def test_what_only_one_side_has_is_missing_on_the_other(report, made):
    found = {one.what: (one.a, one.b) for one in diff(report, verify(replace(made(), server=None)))}
    assert any(b is None for _, b in found.values())
