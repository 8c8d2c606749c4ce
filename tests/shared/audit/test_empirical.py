"""A lower bound above the claim refutes it; whatever an attack's file says of itself is held against its numbers."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest

from shared.audit.empirical import empirical_findings


def attack_on(evidence):
    bound = {
        "method": "steinke-2023",
        "view": "all rounds",
        "epsilon": 2.69653,
        "canaries": 5000,
        "guesses": 1000,
        "right": 950,
        "power_cap": 5.67287,
        "assumes": "nothing",
    }
    plan = evidence.server.plan
    white = [
        {"release": kind, "sigma": sigma, "measured": sigma * 1.004, "chi_square_p": 0.4, "outcome": "pass"}
        for kind in ("update", "measurement", "statistics")
        for sigma in [plan.share_sigma(kind)]
    ]
    modes = [
        {"mode": "none", "advantage": 0.9, "low": 0.8, "high": 0.95, "implied": None, "trials": 400},
        {"mode": "distributed", "advantage": 0.05, "low": 0.0, "high": 0.1, "implied": 0.99, "trials": 400},
        {"mode": "local", "advantage": 0.02, "low": 0.0, "high": 0.1, "implied": 0.99, "trials": 400},
    ]
    return {
        "format": 1,
        "run": evidence.server.run,
        "plan": evidence.server.plan.digest(),
        "seed": 1,
        "made": {"canaries": 5000, "seconds": 60.0},
        "canaries": {
            "claimed": 8.0,
            "delta": 1e-5,
            "confidence": 0.95,
            "bounds": [bound, {**bound, "method": "mahloujifar-2024", "epsilon": 4.09406, "power_cap": 9.75493}],
            "estimates": [{"method": "gdp", "view": "all rounds", "epsilon": 12.0, "note": "no bound"}],
        },
        "replay": {"outcome": "pass", "checked": 30, "largest_change": 0.98, "allowed": 1.0, "differences": []},
        "white_box": {"outcome": "pass", "releases": white},
        "imia": {"modes": modes, "outcome": "pass"},
    }


def judged(evidence, attack):
    return empirical_findings(replace(evidence, attack=attack))


def failed(evidence, attack):
    return [finding.check for finding in judged(evidence, attack) if finding.outcome == "fail"]


def open_(evidence, attack):
    return [finding.check for finding in judged(evidence, attack) if finding.outcome == "cannot tell"]


@pytest.fixture
def case(made):
    evidence = made()
    return evidence, attack_on(evidence)


def test_an_attack_that_refutes_nothing_passes_and_an_estimate_above_the_claim_decides_nothing(case):
    found = judged(*case)
    assert {finding.outcome for finding in found} == {"pass"}
    assert {finding.check for finding in found} == {
        "attack-of-this-run",
        "lower-bound",
        "power",
        "estimate",
        "record-replay",
        "white-box",
        "membership-open",
        "membership",
    }


def test_without_an_attack_nobody_can_tell_and_left_out_nothing_is_said(made):
    assert [finding.check for finding in empirical_findings(made())] == ["attack"]
    assert empirical_findings(replace(made(), empirical=False)) == []


def test_a_lower_bound_above_the_claim_fails(case):
    evidence, attack = case
    bound = attack["canaries"]["bounds"][1]
    bound |= {"right": 1000, "epsilon": bound["power_cap"]}
    assert failed(evidence, attack) == ["lower-bound"]


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("changes", [{"epsilon": 1.0}, {"power_cap": 12.0}, {"right": 1000}, {"canaries": 2_000_000}])
def test_a_bound_or_a_cap_that_its_own_counts_do_not_give_was_edited(case, row, changes):
    evidence, attack = case
    attack["canaries"]["bounds"][row] |= changes
    assert "bound-as-counted" in failed(evidence, attack)


def test_the_power_is_that_of_the_counts_and_not_what_the_file_says(case):
    evidence, attack = case
    attack["canaries"]["bounds"] = [attack["canaries"]["bounds"][0] | {"power_cap": 12.0}]
    found = next(finding for finding in judged(evidence, attack) if finding.check == "power-below")
    assert found.values["cap"] == pytest.approx(5.673, abs=1e-3)


def test_the_claim_is_the_one_that_people_are_told_whatever_the_file_says(case):
    evidence, attack = case
    attack["canaries"]["claimed"] = 100.0
    content = {**evidence.printed.content, "epsilon": 3.0}
    evidence = replace(evidence, printed=replace(evidence.printed, content=content))
    assert failed(evidence, attack) == ["lower-bound"]


def test_a_power_cap_below_the_claim_is_said(case):
    evidence, attack = case
    attack["canaries"]["bounds"].pop()
    found = next(finding for finding in judged(evidence, attack) if finding.check == "power-below")
    assert found.values["cap"] == pytest.approx(5.673, abs=1e-3)


@pytest.mark.parametrize(("name", "value"), [("run", "another"), ("plan", "0" * 64), ("plan", None)])
def test_an_attack_on_something_else_is_no_evidence(case, name, value):
    evidence, attack = case
    attack[name] = value
    assert failed(evidence, attack) == ["attack-of-this-run"]


@pytest.mark.parametrize(
    "changes",
    [
        {"right": 1001},
        {"guesses": 5001},
        {"epsilon": math.nan},
        {"power_cap": None},
        {"canaries": True},
        {"right": -1},
        {"method": "mine"},
        {"method": ["x"]},
        {"guesses": 10**14, "canaries": 10**14},
    ],
)
def test_bounds_that_were_never_counted_are_none(case, changes):
    evidence, attack = case
    attack["canaries"]["bounds"] = [attack["canaries"]["bounds"][0] | changes]
    assert open_(evidence, attack) == ["lower-bound"]


@pytest.mark.parametrize("confidence", [None, 0.1, 1.0, "high"])
def test_a_bound_without_a_confidence_is_none(case, confidence):
    evidence, attack = case
    attack["canaries"]["confidence"] = confidence
    assert open_(evidence, attack) == ["lower-bound"]


@pytest.mark.parametrize(
    "changes", [{"outcome": "fail"}, {"largest_change": 2.0}, {"differences": ["client 3 drew once more"]}]
)
def test_a_user_that_moves_more_than_its_clip_fails_whatever_the_outcome_says(case, changes):
    evidence, attack = case
    attack["replay"] |= changes
    assert failed(evidence, attack) == ["record-replay"]


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "fail"},
        {"chi_square_p": 1e-9},
        {"measured": 50.0},
        {"measured": math.nan},
        {"variance_p": 1e-9},
        {"variance_p": "high"},
        {"sigma": 50.0, "measured": 50.0},
    ],
)
def test_noise_that_is_not_the_plans_fails_whatever_the_outcome_says(case, changes):
    evidence, attack = case
    attack["white_box"]["releases"][0] |= changes
    assert failed(evidence, attack) == ["white-box"]


@pytest.mark.parametrize("outcome", ["fail", -1, None, "PASS"])
def test_a_white_box_that_did_not_pass_as_a_whole_fails(case, outcome):
    evidence, attack = case
    attack["white_box"]["outcome"] = outcome
    assert failed(evidence, attack) == ["white-box"]


def test_a_white_box_that_leaves_a_kind_of_release_out_shows_nothing_of_it(case):
    evidence, attack = case
    attack["white_box"]["releases"].pop()
    assert open_(evidence, attack) == ["white-box"]


def test_one_bound_that_cannot_be_read_leaves_the_check_open_whatever_the_others_say(case):
    evidence, attack = case
    attack["canaries"]["bounds"][1]["right"] = "950"
    assert open_(evidence, attack) == ["lower-bound"]


@pytest.mark.parametrize("stated", [1.0, 1e308, None])
def test_the_advantage_that_epsilon_allows_is_the_plans_and_not_the_files(made, planned, stated):
    evidence = made(planned(epsilon=0.5))
    attack = attack_on(evidence)
    attack["imia"]["modes"][1] |= {"low": 0.9, "advantage": 0.95, "high": 0.99, "implied": stated}
    assert "membership" in failed(evidence, attack)


def test_an_advantage_beyond_what_epsilon_implies_fails(case):
    evidence, attack = case
    attack["imia"]["modes"][1] |= {"low": 0.7, "advantage": 0.75, "high": 0.8, "implied": 0.6}
    assert failed(evidence, attack) == ["membership"]


def test_an_attack_that_finds_nothing_without_protection_is_broken(case):
    evidence, attack = case
    attack["imia"]["modes"][0] |= {"low": 0.05, "advantage": 0.1}
    assert open_(evidence, attack) == ["membership"]
    assert "membership-open" not in {finding.check for finding in judged(evidence, attack)}


@pytest.mark.parametrize("part", ["canaries", "replay", "white_box", "imia"])
@pytest.mark.parametrize("value", [None, [], "x", {}, {"bounds": 3, "modes": [1], "releases": {}, "checked": []}])
def test_a_part_that_is_missing_or_broken_cannot_be_told(case, part, value):
    evidence, attack = case
    attack = copy.deepcopy(attack)
    attack[part] = value
    assert len(open_(evidence, attack)) == 1
    assert failed(evidence, attack) == []
