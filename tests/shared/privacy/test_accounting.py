from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.privacy.accounting import (
    Sampled,
    epsilon_by_pld,
    epsilon_by_zcdp,
    epsilon_exact,
    epsilon_sampled,
    noise_multiplier_for,
    rho_for,
    rho_of,
)

RHOS = [1e-9, 1e-6, 1e-3, 0.036, 0.3, 1.39, 8.0, 50.0]
DELTAS = [1e-3, 1e-5, 1e-10]


# --- rho


def test_one_release_costs_half_the_squared_inverse_of_the_multiplier():
    assert rho_of(1.0) == 0.5
    assert rho_of(2.0) == 0.125


def test_rho_adds_up_over_releases():
    assert rho_of(3.0, 7) == pytest.approx(7 * rho_of(3.0))


def test_no_release_costs_nothing_and_no_noise_costs_infinity():
    assert rho_of(0.0, 0) == 0.0
    assert rho_of(0.0, 1) == math.inf


@pytest.mark.parametrize("multiplier", [5e-324, 1e-200, 1e200, 1.7e308])
def test_a_multiplier_whose_square_is_no_double_still_has_a_cost(multiplier):
    assert rho_of(multiplier) == (math.inf if multiplier < 1 else 0.0)


@given(st.floats(1e-6, 1e3), st.integers(1, 10_000))
def test_the_multiplier_for_a_rho_costs_that_rho(rho, count):
    assert rho_of(noise_multiplier_for(rho, count), count) == pytest.approx(rho, rel=1e-12)


# --- epsilon, golden values


# What an assumption is worth: sigma 1, 100 rounds, a tenth of the users in each, delta 1e-5.


def test_without_amplification_they_cost_91_8():
    assert epsilon_by_pld(rho_of(1.0, 100), 1e-5) == pytest.approx(91.817, abs=1e-3)


def test_taking_turns_each_user_in_ten_of_the_hundred_costs_17_9():
    assert epsilon_by_pld(rho_of(1.0, 10), 1e-5) == pytest.approx(17.857, abs=1e-3)


def test_poisson_cohorts_cost_7_05_to_those_who_do_not_see_them():
    assert epsilon_sampled((Sampled(1.0, 0.1, 100),), 1e-5) == pytest.approx(7.0466, abs=1e-4)


def test_fixed_cohorts_of_replaced_users_cost_83_9():
    # Another library's bound, for comparison: nothing here is ever claimed from a sampler of fixed size.
    import dp_accounting as dp
    from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant

    replaced = RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    replaced.compose(dp.SampledWithoutReplacementDpEvent(1000, 100, dp.GaussianDpEvent(0.5)), 100)
    assert replaced.get_epsilon(1e-5) == pytest.approx(83.9, abs=0.1)


def test_the_classic_conversion_of_rho_one_half():
    assert epsilon_by_zcdp(0.5, 1e-5) == pytest.approx(0.5 + 2 * math.sqrt(0.5 * math.log(1e5)))
    assert epsilon_by_zcdp(0.5, 1e-5) == pytest.approx(5.2985, abs=1e-4)


def test_one_release_at_sigma_one_costs_4_377():  # Balle and Wang 2018: the analytic Gaussian mechanism
    assert epsilon_exact(0.5, 1e-5) == pytest.approx(4.3772, abs=1e-4)


# --- epsilon, one bound above the other


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("rho", RHOS)
def test_the_bounds_are_ordered_and_the_printed_one_is_tight(rho, delta):
    exact, printed, standard = epsilon_exact(rho, delta), epsilon_by_pld(rho, delta), epsilon_by_zcdp(rho, delta)
    assert exact <= printed + 1e-12
    assert printed <= exact + 1e-3
    assert printed <= standard


@pytest.mark.parametrize("rho", [0.036, 1.39, 8.0])
def test_the_exact_epsilon_is_exact(rho):
    # delta(epsilon) by numerical integration of the loss, independent of the closed form
    from scipy import integrate, stats

    delta, mu = 1e-5, math.sqrt(2 * rho)
    epsilon = epsilon_exact(rho, delta)
    # the privacy loss is N(rho, 2 rho); delta = E[(1 - e^(epsilon - loss))+]
    value, _ = integrate.quad(
        lambda x: (1 - math.exp(epsilon - x)) * stats.norm.pdf(x, rho, mu), epsilon, epsilon + 20 * mu, epsabs=1e-14
    )
    assert value == pytest.approx(delta, rel=1e-6)


def test_opacus_rdp_is_never_below_the_printed_epsilon():
    from opacus.accountants.analysis import rdp

    orders = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 256))
    for sigma, count in [(1.0, 100), (4.0, 40), (10.0, 1), (2.0, 1000)]:
        spent = rdp.compute_rdp(q=1.0, noise_multiplier=sigma, steps=count, orders=orders)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an order at the edge of the list gives a looser bound, which is fine here
            other, _ = rdp.get_privacy_spent(orders=orders, rdp=spent, delta=1e-5)
        assert epsilon_by_pld(rho_of(sigma, count), 1e-5) <= other


@pytest.mark.parametrize(("sigma", "count"), [(4.0, 40), (10.0, 100), (2.0, 3)])
def test_prv_agrees_within_two_percent(sigma, count):
    from prv_accountant import PRVAccountant
    from prv_accountant.privacy_random_variables import GaussianMechanism

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an older numpy's spelling
        accountant = PRVAccountant(
            prvs=[GaussianMechanism(sigma)], max_self_compositions=[count], eps_error=0.01, delta_error=1e-8
        )
        low, _, high = accountant.compute_epsilon(delta=1e-5, num_self_compositions=[count])
    printed = epsilon_by_pld(rho_of(sigma, count), 1e-5)
    assert low <= printed
    assert printed == pytest.approx(high, rel=0.02)


# --- taking part by chance


def poisson_delta(epsilon, sigma, rate):
    """delta(epsilon) of one release in the worse direction, by numerical integration of its definition."""
    from scipy import integrate, stats

    def without(x):
        return stats.norm.pdf(x, 0, sigma)

    def drawn(x):
        return (1 - rate) * without(x) + rate * stats.norm.pdf(x, 1, sigma)

    def hockey_stick(p, q):
        beyond = np.linspace(-12 * sigma, 1 + 12 * sigma, 400_001)
        return integrate.trapezoid(np.maximum(p(beyond) - math.exp(epsilon) * q(beyond), 0), beyond)

    return max(hockey_stick(drawn, without), hockey_stick(without, drawn))


@pytest.mark.parametrize(("sigma", "rate"), [(1.0, 0.1), (0.5, 0.5), (4.0, 0.3), (2.0, 0.9)])
def test_one_sampled_release_is_bounded_tightly_in_both_directions(sigma, rate):
    epsilon = epsilon_sampled((Sampled(sigma, rate, 1),), 1e-5)
    assert poisson_delta(epsilon, sigma, rate) <= 1e-5
    assert poisson_delta(epsilon * 0.99, sigma, rate) > 1e-5


@pytest.mark.parametrize("events", [[(1.0, 1.0, 100)], [(4.0, 1.0, 40), (9.0, 1.0, 8)]])
def test_a_coin_that_always_comes_up_amplifies_nothing(events):
    rho = sum(rho_of(sigma, times) for sigma, _, times in events)
    assert epsilon_sampled(tuple(Sampled(*e) for e in events), 1e-5) == epsilon_by_pld(rho, 1e-5)


def test_kinds_of_releases_compose():
    one, two = Sampled(4.0, 0.3, 40), Sampled(9.0, 0.3, 8)
    both = epsilon_sampled((one, two), 1e-5)
    assert max(epsilon_sampled((e,), 1e-5) for e in (one, two)) < both
    assert both < sum(epsilon_sampled((e,), 1e-5) for e in (one, two))
    half = one._replace(times=20)
    assert epsilon_sampled((half, two, half), 1e-5) == pytest.approx(both, rel=1e-4)


@settings(deadline=None, max_examples=4)
@given(st.floats(0.5, 20), st.floats(0.01, 0.99), st.integers(1, 50), st.sampled_from(DELTAS))
def test_chance_never_costs_more_and_more_of_anything_never_less(sigma, rate, times, delta):
    epsilon = epsilon_sampled((Sampled(sigma, rate, times),), delta)
    assert 0 <= epsilon <= epsilon_by_pld(rho_of(sigma, times), delta)
    for worse in (Sampled(sigma * 0.9, rate, times), Sampled(sigma, rate**0.5, times), Sampled(sigma, rate, 2 * times)):
        assert epsilon_sampled((worse,), delta) >= epsilon - 1e-4


def test_at_a_delta_that_convolutions_cannot_see_nothing_is_amplified():
    assert epsilon_sampled((Sampled(1.0, 0.1, 100),), 1e-60) == epsilon_by_pld(rho_of(1.0, 100), 1e-60)


def test_who_never_takes_part_spends_nothing_and_no_noise_is_infinite():
    assert epsilon_sampled((), 1e-5) == 0.0
    assert epsilon_sampled((Sampled(0.0, 0.0, 100), Sampled(0.0, 0.5, 0)), 1e-5) == 0.0
    assert epsilon_sampled((Sampled(0.0, 0.5, 1), Sampled(1.0, 0.5, 1)), 1e-5) == math.inf


# --- calibration


@pytest.mark.parametrize("delta", [1e-4, 1e-8])
@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 8.0, 50.0])
def test_calibration_spends_all_of_the_target_and_no_more(epsilon, delta):
    assert 0.9999 * epsilon < epsilon_by_pld(rho_for(epsilon, delta), delta) <= epsilon


def test_calibration_ends_also_at_a_delta_below_what_the_library_cuts_off():
    assert epsilon_by_pld(rho_for(8.0, 1e-60), 1e-60) == pytest.approx(8.0, rel=1e-3)


@settings(deadline=None, max_examples=10)
@given(st.floats(1e-4, 20), st.floats(1e-9, 1e-3))
def test_more_rho_is_never_less_epsilon(rho, delta):
    for epsilon in (epsilon_by_pld, epsilon_by_zcdp, epsilon_exact):
        assert epsilon(rho, delta) < epsilon(rho * 1.1, delta)
        assert epsilon(rho, delta) >= epsilon(rho, delta * 1.1)


@pytest.mark.parametrize("epsilon", [epsilon_by_pld, epsilon_by_zcdp, epsilon_exact])
def test_nothing_spent_is_nothing_and_no_noise_is_infinite(epsilon):
    assert epsilon(0.0, 1e-5) == 0.0
    assert epsilon(math.inf, 1e-5) == math.inf
