"""Lower bounds of epsilon: the numbers of the papers, naive twins, and mechanisms whose epsilon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from shared.privacy.accounting import rho_for
from simulations.attack.bounds import (
    METHODS,
    clopper_pearson,
    epsilon_of,
    gaussian_estimate,
    guessed_right,
    guesses_for,
    lower_bound,
    p_value,
    power_cap,
    refutes_gaussian,
)

DELTA = 1e-5


def mu_of(epsilon):
    return math.sqrt(2.0 * rho_for(epsilon, DELTA))


def scores_of(mu, canaries, seed):
    """Scores of a mechanism that is exactly Gaussian, and who is in."""
    rng = np.random.default_rng(seed)
    inside = rng.random(canaries) < 0.5
    return rng.normal(size=canaries) + mu * inside, inside


def naive_p_value(canaries, guesses, right, epsilon, delta):
    chance = math.exp(epsilon) / (1.0 + math.exp(epsilon))
    least = binom.sf(right - 1, guesses, chance)
    rises = [(binom.sf(right - 1 - i, guesses, chance) - least) / i for i in range(1, canaries + 1)]
    return min(1.0, least + 2.0 * canaries * delta * max(rises))


def naive_refutes(mu, canaries, guesses, right, confidence):
    """The recursion as Mahloujifar et al. 2024 print it: chances of a right (r) and of a wrong (h) guess in a tail."""
    level = (1.0 - confidence) * guesses / canaries
    r, h = level * right / guesses, level * (guesses - right) / guesses
    for i in range(right - 1, -1, -1):
        before = h
        h = max(h, float(ndtr(ndtri(r) - mu)))
        r += i / (guesses - i) * (h - before)
        if r > 1.0:  # no chance any more
            return True
    return r + h > guesses / canaries


# --- what is known of the methods


@pytest.mark.parametrize(("guesses", "cap"), [(100, 3.49), (1000, 5.81), (5000, 7.42)])
def test_no_number_of_right_guesses_shows_more_than_the_power_cap(guesses, cap):
    assert power_cap(guesses, guesses, 0.95) == pytest.approx(cap, abs=0.005)


def test_the_power_cap_is_the_log_odds_of_clopper_and_pearson():
    low, _ = clopper_pearson(300, 300, 0.90)  # two-sided 90 %: 95 % from below
    assert power_cap(300, 300, 0.95) == pytest.approx(math.log(low / (1.0 - low)), abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_delta_never_raises_a_cap(method):
    caps = [power_cap(400, 100, 0.95, delta=delta, method=method) for delta in (1e-9, 1e-6, 1e-3)]
    assert caps == sorted(caps, reverse=True)


@pytest.mark.parametrize(("canaries", "guesses", "right"), [(40, 30, 27), (40, 40, 31), (25, 5, 5), (30, 20, 0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_the_p_value_is_that_of_the_theorem_written_out(canaries, guesses, right, epsilon, delta):
    assert p_value(canaries, guesses, right, epsilon, delta) == pytest.approx(
        naive_p_value(canaries, guesses, right, epsilon, delta), rel=1e-9
    )


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0, 1.7, 3.0])
@pytest.mark.parametrize(("canaries", "guesses"), [(60, 60), (200, 40), (150, 150)])
def test_the_recursion_in_tails_decides_as_the_paper_s_does(mu, canaries, guesses):
    for right in range(guesses // 2, guesses + 1, 4):
        assert refutes_gaussian(mu, canaries, guesses, right, 0.95) == naive_refutes(mu, canaries, guesses, right, 0.95)


# --- what is true of mechanisms that are known


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_a_gaussian_mechanism_is_never_shown_to_leak_more_than_it_does(method, epsilon):
    mu, canaries = mu_of(epsilon), 400
    guesses = guesses_for(method, mu, canaries, DELTA, 0.95)
    above = 0
    for seed in range(100):
        scores, inside = scores_of(mu, canaries, seed)
        right = guessed_right(scores, inside, guesses)
        above += lower_bound(method, canaries, guesses, right, DELTA, 0.95, halvings=16) > epsilon
    assert above <= 5


@pytest.mark.parametrize("method", METHODS)
def test_a_coin_that_knows_nothing_shows_nothing(method):
    assert lower_bound(method, 1000, 1000, 500, DELTA, 0.95) == 0.0


def test_all_revealed_with_probability_delta_refutes_nothing_at_that_delta():
    assert p_value(50, 50, 50, 0.0, 0.04) > 0.05  # all coins shown in one run of 25: (0, 0.04)-DP
    assert lower_bound("steinke-2023", 50, 50, 50, 0.04, 0.95) == 0.0
    assert lower_bound("steinke-2023", 50, 50, 50, DELTA, 0.95) > 2.0


@pytest.mark.parametrize("method", METHODS)
def test_one_more_right_guess_never_lowers_a_bound_and_more_confidence_never_raises_it(method):
    found = [lower_bound(method, 300, 100, right, DELTA, 0.95) for right in range(50, 101, 5)]
    assert found == sorted(found)
    surer = [lower_bound(method, 300, 100, 90, DELTA, confidence) for confidence in (0.8, 0.95, 0.999)]
    assert surer == sorted(surer, reverse=True)


def test_the_estimate_prints_more_than_is_true_where_the_bound_does_not():
    mu = mu_of(1.0)
    told, proved = [], []
    for seed in range(20):
        scores, inside = scores_of(mu, 1000, seed)
        told.append(gaussian_estimate(scores, inside, DELTA))
        proved.append(lower_bound("mahloujifar-2024", 1000, 500, guessed_right(scores, inside, 500), DELTA, 0.95))
    assert max(told) > 1.1
    assert max(proved) <= 1.0


def test_an_estimate_without_two_sides_or_without_a_spread_is_a_number_all_the_same():
    same = np.ones(4)
    assert gaussian_estimate(same, np.ones(4, bool), DELTA) == 0.0
    assert gaussian_estimate(same, np.array([True, True, False, False]), DELTA) == 0.0
    apart = gaussian_estimate(np.array([1.0, 1.0, 0.0, 0.0]), np.array([True, True, False, False]), DELTA)
    assert math.isfinite(apart)
    assert apart > 100


def test_the_curve_of_a_claim_gives_its_epsilon_back():
    assert epsilon_of(mu_of(4.0), DELTA) == pytest.approx(4.0, rel=1e-3)


# --- guessing


def test_the_outermost_are_guessed_and_the_middle_is_left_alone():
    scores = np.array([0.0, 5.0, 2.0, 3.0, 9.0, 1.0])
    inside = np.array([False, True, True, False, True, True])
    assert guessed_right(scores, inside, 2) == 2  # 9 in, 0 out
    assert guessed_right(scores, inside, 4) == 3  # 5 in; 1 is in, and was taken for out


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mu", [0.0, 0.3, 1.7, 30.0])
def test_the_number_of_guesses_is_even_and_no_more_than_there_are(method, mu):
    guesses = guesses_for(method, mu, 51, DELTA, 0.95, 8.0)
    assert guesses % 2 == 0
    assert 0 < guesses <= 51


def test_guesses_are_enough_to_refute_the_claim_where_any_number_is():
    method, mu = "mahloujifar-2024", mu_of(8.0)
    few = guesses_for(method, mu, 5000, DELTA, 0.95)
    enough = guesses_for(method, mu, 5000, DELTA, 0.95, 8.0)
    assert power_cap(5000, few, 0.95, delta=DELTA, method=method) < 8.0
    assert power_cap(5000, enough, 0.95, delta=DELTA, method=method) > 8.0 * 1.2


# --- Clopper and Pearson


@pytest.mark.parametrize(
    ("right", "low", "high"), [(0, 0.0, 0.3085), (5, 0.1871, 0.8129), (10, 0.6915, 1.0), (9, 0.5550, 0.9975)]
)
def test_the_interval_of_a_share_of_ten(right, low, high):
    assert clopper_pearson(right, 10, 0.95) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    "outcome",
    [
        (10, 11, 5, DELTA, 0.95),
        (10, 5, 6, DELTA, 0.95),
        (10, 5, -1, DELTA, 0.95),
        (10, 0, 0, DELTA, 0.95),
        (10, 5, 5, 1.0, 0.95),
        (10, 5, 5, math.nan, 0.95),
        (10, 5, 5, DELTA, 1.0),
    ],
)
def test_what_cannot_have_happened_is_refused(outcome):
    with pytest.raises(ValueError, match=r"no such outcome|must be probabilities"):
        lower_bound("steinke-2023", *outcome)
    with pytest.raises(ValueError, match="no such share"):
        clopper_pearson(3, 2, 0.95)
