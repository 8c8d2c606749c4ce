"""Cohorts that were drawn by coins look like it; a million clean runs give one false alarm; turns are seen."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from shared.audit.coins import coin_findings, draws, spread, two_sided
from shared.audit.evidence import Charge

POPULATION = 600


@pytest.fixture
def poisson(made, planned):
    """A server's ledger whose plan draws coins at ``rate``, with these cohorts as updates."""

    def make(cohorts, rate=0.1, population=POPULATION, release="update"):
        plan = planned(trust="central", population=10)
        update = replace(plan.update, participations=len(cohorts))
        plan = replace(plan, sampling=rate, population=population, rounds=len(cohorts), update=update)
        charges = tuple(
            Charge(2 + t, f"{t:064x}", t + 1, 1, release, "t", tuple(map(str, cohort)), 0.1, "os")
            for t, cohort in enumerate(cohorts)
        )
        return replace(made().server, plan=plan, charges=charges)

    return make


def found(server):
    return {finding.check: finding.outcome for finding in coin_findings(server, server.plan)}


def coins(seed, rounds, rate=0.1, population=POPULATION):
    rng = np.random.default_rng(seed)
    return [np.flatnonzero(rng.random(population) < rate) for _ in range(rounds)]


def in_turns(rounds, size, population=POPULATION):
    return [[(t * size + place) % population for place in range(size)] for t in range(rounds)]


CLEAN = {"coins-counts": "pass", "coins-sizes": "pass", "coins-order": "pass"}


@pytest.mark.parametrize("rounds", [1, 2, 4, 20, 100])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.9])
def test_coins_are_consistent_with_coins(poisson, rounds, rate):
    for seed in range(5):
        assert found(poisson(coins(seed, rounds, rate), rate)) == CLEAN


@pytest.mark.parametrize(("rounds", "size"), [(12, 60), (20, 60), (40, 300), (6, 300)])
def test_cohorts_that_take_turns_are_not(poisson, rounds, size):
    judged = found(poisson(in_turns(rounds, size), size / POPULATION))
    assert judged["coins-counts"] == "fail"
    assert judged["coins-order"] == "fail"


def test_a_few_cohorts_in_turn_show_by_counts_that_are_all_alike(poisson):
    assert found(poisson(in_turns(4, 60)))["coins-counts"] == "fail"


def test_cohorts_of_a_fixed_size_are_too_much_alike(poisson):
    rng = np.random.default_rng(0)
    chosen = [rng.choice(POPULATION, 60, replace=False) for _ in range(20)]
    assert found(poisson(chosen)) == {**CLEAN, "coins-sizes": "fail"}


def test_a_client_that_is_always_drawn_is_found(poisson):
    cohorts = [sorted({0, *map(int, cohort)}) for cohort in coins(1, 40)]
    assert found(poisson(cohorts))["coins-counts"] == "fail"


def test_a_higher_rate_than_claimed_is_found(poisson):
    assert found(poisson(coins(2, 20, 0.13), 0.1))["coins-sizes"] == "fail"


def test_the_same_cohort_twice_is_found(poisson):
    drawn = coins(3, 20)
    repeated = [drawn[t // 2 * 2] for t in range(20)]
    judged = [one for one in coin_findings(poisson(repeated), poisson(repeated).plan) if one.outcome == "fail"]
    assert "coins-order" in [one.check for one in judged]
    order = next(one for one in judged if one.check == "coins-order")
    assert order.values["lag"] == 1
    assert order.values["p"] < 1e-6


def test_more_clients_than_the_population_are_found(poisson):
    cohorts = [[*cohort, 5000 + t] for t, cohort in enumerate(coins(4, 20))]
    assert found(poisson(cohorts, population=300))["coins-counts"] == "fail"


def test_without_sampling_nothing_is_claimed_from_chance(made):
    server = made().server
    assert found(server) == {"coins-none": "pass"}


def test_without_exchanges_coins_cannot_be_told(poisson):
    assert found(replace(poisson([[1], [2]]), charges=())) == {"coins": "cannot tell"}


def test_exchanges_for_which_some_clients_are_used_up_are_left_out(poisson):
    server = poisson([[1, 2], [3]])
    plan = replace(server.plan, update=replace(server.plan.update, participations=1))
    assert [draw.line for draw in draws(server, plan)] == [2]


def test_a_billion_clients_in_the_plan_are_no_work(poisson):
    server = poisson([[1, 2], [3]], rate=1e-9, population=10**9)
    assert found(server) == CLEAN


@pytest.mark.parametrize(
    ("count", "tosses", "rate"), [(0, 20, 0.1), (12, 20, 0.1), (120, 600, 0.1), (200, 10_000, 0.03), (5, 5, 0.5)]
)
def test_tails_are_those_of_a_binomial(count, tosses, rate):
    tails = stats.binom.cdf(count, tosses, rate), stats.binom.sf(count - 1, tosses, rate)
    assert two_sided(count, tosses, rate) == pytest.approx(min(1.0, 2.0 * min(tails)), rel=1e-9)


@pytest.mark.parametrize("rate", [5e-324, 1e-200, 1.0 - 2.0**-53])
def test_rates_at_the_edge_of_doubles_are_no_crash(poisson, rate):
    assert set(found(poisson([[1, 2], [3], []], rate)).values()) <= {"pass", "fail"}


def test_beyond_what_is_summed_a_tail_is_bounded_from_above():
    for count in (10_010_000, 9_990_000, 10_020_000):
        exact = 2 * min(stats.binom.cdf(count, 10**8, 0.1), stats.binom.sf(count - 1, 10**8, 0.1))
        assert exact <= two_sided(count, 10**8, 0.1) <= 50 * exact
    assert two_sided(10**7, 10**8, 0.1) == 1.0


def test_the_bound_of_the_spread_is_above_the_share_of_clean_counts_that_scatter_so_little_or_so_much():
    rng = np.random.default_rng(5)
    bounds = np.array([spread(Counter(rng.binomial(20, 0.1, 600).tolist()), 20, 0.1) for _ in range(500)])
    for level in (0.5, 0.1, 0.02):
        assert (bounds <= level).mean() <= level + 3 * math.sqrt(level / 500)
    assert spread(Counter([2] * 600), 20, 0.1) < 1e-100
    assert spread(Counter([60, 60]), 600, 0.1) > 1e-6  # two equal cohorts are no proof
