from __future__ import annotations

import math
from dataclasses import replace

import pytest

from shared.privacy.calibration import make_plan
from shared.privacy.plan import Target, claims
from shared.privacy.wording import sentences

TARGET = Target(
    kind="simulation",
    unit="user",
    trust="distributed",
    epsilon=8.0,
    delta=1e-5,
    population=943,
    smallest_cohort=849,
    collusion=0.1,
    rounds=40,
    update_participations=40,
    measurement_participations=8,
    shares={"update": 0.7, "measurement": 0.15, "statistics": 0.05, "profile": 0.1},
    update_dimension=67_000,
    clip=0.5,
)


def said(**changes):
    plan = make_plan(replace(TARGET, **changes))
    return sentences(plan, claims(plan))


def test_what_is_protected_comes_first():
    assert said()[0] == (
        "Protected: one user's whole history. Adjacency zero-out, delta 1e-05. "
        "Releases at most: update 40, measurement 8, statistics 1, profile 1."
    )
    assert "one event of a user (not the user" in said(unit="interaction", trust="local")[0]


def test_distributed_is_against_everybody_and_says_what_is_left_alone():
    _, together, alone, _ = said()
    assert together == (
        "Against everybody, the server included, if it sees sums only and at most 84 of the smallest 849 survivors "
        "collude: epsilon 8.00."
    )
    assert alone == "If everybody else belongs to the server: epsilon 1282.80."


def test_local_needs_nobody():
    assert said(trust="local")[1:-1] == ["Against everybody, the server included, whoever colludes: epsilon 8.00."]


def test_central_is_against_readers_alone():
    assert said(trust="central")[1:-1] == [
        "Against readers of what is published who know the cohorts: epsilon 8.00.",
        "Against the server: nothing, because the noise is its own.",
    ]


def test_coins_add_a_sentence_about_who_does_not_see_them():
    drawn = said(trust="central", sampling=0.3, smallest_cohort=0)
    assert [drawn[0], drawn[1], *drawn[3:]] == said(trust="central")
    assert drawn[2].startswith("Against readers who see neither cohorts nor their sizes (each client drawn at 0.3)")
    assert 2.0 < float(drawn[2].rsplit(" ", 1)[1].rstrip(".")) < 2.2


@pytest.mark.parametrize("trust", ["local", "distributed", "central"])
def test_who_adds_the_noise_and_who_counts_it_come_last(trust):
    assert said(trust=trust)[-1] == (
        f"Trust {trust}; accountant: zCDP budget; printed epsilon: Gaussian PLD upper bound (dp-accounting)."
    )


def test_without_privacy_nothing_is_claimed():
    assert said(epsilon=None) == ["No differential privacy: nothing is claimed against anybody."]


@pytest.mark.parametrize(("epsilon", "text"), [(7.001, "7.01"), (7.0, "7.00"), (0.0, "0.00"), (math.inf, "infinite")])
def test_a_bound_is_never_rounded_down(epsilon, text):
    plan = make_plan(replace(TARGET, trust="local"))
    assert sentences(plan, replace(claims(plan), everyone=epsilon))[1].endswith(f"epsilon {text}.")
