from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shared.privacy import noise
from shared.privacy.noise import NoiseSource, discrete_gaussian, os_noise

SIZE = 200_000
ONE_TABLE = [0.5, 1.0, 2.5, 17.3, 400.0]
TWO_TABLES = [8192.1, 20_000.0, 3e6, 2.0**27]
BELIEVED = 1e-4  # a seeded test either always passes or never: the level is no flakiness


def seeded(seed=0):
    return NoiseSource("seeded", np.random.SFC64(seed).random_raw)


def draw(sigma, size=SIZE, seed=0):
    return discrete_gaussian(sigma, size, seeded(seed))


def exact_pmf(sigma):
    """The definition, over as many integers as matter."""
    reach = math.ceil(12 * sigma) + 1
    x = np.arange(-reach, reach + 1)
    mass = np.exp(-((x / sigma) ** 2) / 2)
    return x, mass / mass.sum()


def chi_square(samples, sigma):
    """p-value of the samples under N_Z(0, sigma^2), over bins that expect ten or more."""
    x, mass = exact_pmf(sigma)
    edge = np.concatenate([[-np.inf], x[(np.cumsum(mass) > 1e-3) & (np.cumsum(mass) < 1 - 1e-3)] + 0.5, [np.inf]])
    edge = edge[:: max(1, len(edge) // 200)]
    edge = np.append(edge, np.inf) if edge[-1] != np.inf else edge
    cell = np.searchsorted(edge, x) - 1
    expected = np.bincount(cell, weights=mass, minlength=len(edge) - 1) * len(samples)
    seen = np.bincount(np.searchsorted(edge, samples) - 1, minlength=len(edge) - 1)
    return stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue


def kolmogorov(samples, sigma):
    """p-value of the samples, spread over their unit interval, under the Gaussian: for a large sigma they are alike."""
    spread = samples + np.random.default_rng(1).uniform(-0.5, 0.5, len(samples))
    return stats.kstest(spread, "norm", args=(0, math.hypot(sigma, math.sqrt(1 / 12)))).pvalue


# --- the distribution, and that these tests can tell another one


@pytest.mark.parametrize("sigma", ONE_TABLE)
def test_the_samples_are_discrete_gaussian(sigma):
    assert chi_square(draw(sigma), sigma) > BELIEVED


@pytest.mark.parametrize("wrong", [2 / 3, 0.9, 1.1, 4 / 3])
@pytest.mark.parametrize("sigma", [s for s in ONE_TABLE if s > 0.5])
def test_the_chi_square_test_rejects_another_scale(sigma, wrong):
    assert chi_square(draw(sigma * wrong), sigma) < BELIEVED


@pytest.mark.parametrize("sigma", [400.0, *TWO_TABLES])
def test_a_large_sigma_is_gaussian_to_a_kolmogorov_test_and_another_scale_is_not(sigma):
    samples = draw(sigma, 50_000)
    assert kolmogorov(samples, sigma) > BELIEVED
    for wrong in (2 / 3, 0.9, 1.1, 4 / 3):
        assert kolmogorov(samples, sigma * wrong) < BELIEVED


@pytest.mark.parametrize("sigma", TWO_TABLES)
def test_two_tables_leave_no_comb(sigma):
    # were the coarse part alone, or the fine part too narrow, residues would not be uniform
    samples = draw(sigma)
    for modulus in (2, 3, 16, 64, 512, 4096):
        counts = np.bincount(samples % modulus, minlength=modulus)
        assert stats.chisquare(counts).pvalue > BELIEVED


@pytest.mark.parametrize("sigma", TWO_TABLES)
def test_two_tables_add_up_to_the_variance_and_overlap_enough(sigma, monkeypatch):
    parts, real = [], noise._sample
    monkeypatch.setattr(noise, "_sample", lambda s, size, source: (parts.append(s), real(s, size, source))[1])
    draw(sigma, 1)
    coarse, fine = parts
    stride = math.sqrt((sigma**2 - fine**2) / coarse**2)
    assert stride == pytest.approx(round(stride), rel=1e-12)
    assert coarse * fine / sigma > 3.8  # the error is 4 exp(-2 pi^2 of its square): below 10^-120


# --- exactness


def exact_masses(sigma, digits=60):
    """``2^64 P(x)`` for x = 0, 1, ..., each to many digits, straight from the definition."""
    with localcontext() as context:
        context.prec = digits
        weights = [(-(Decimal(x) ** 2) / (2 * Decimal(sigma) ** 2)).exp() for x in range(math.ceil(16 * sigma))]
        total = 2 * sum(weights) - 1
        return [(1 << 64) * weight / total for weight in weights]


def outcome_masses(table):
    """Of every outcome, in units of 2^-64, as the alias table gives it: kept in its own cell or reached from others."""
    full = 1 << (64 - int(table.bits))
    mass = [int(k) for k in table.keep]
    for cell, other in enumerate(table.alias):
        mass[int(other)] += full - int(table.keep[cell])
    return mass


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0, 17.3, 400.0])
def test_no_outcome_of_the_table_is_above_its_probability_and_what_is_left_out_is_one_more(sigma):
    table = noise._alias_table(sigma)
    mass = outcome_masses(table)
    size = 2 * table.reach + 1
    assert sum(mass) == 1 << 64
    assert mass[:size] == [int(m) for m in table.mass]
    assert mass[size] == (1 << 64) - sum(mass[:size]) < 2.0**21
    assert not any(mass[size + 1 :])  # cells that only fill up the power of two
    exact = exact_masses(sigma)
    for cell in range(size):
        wanted = exact[abs(cell - table.reach)]
        assert 0 <= wanted - mass[cell] < float(wanted) * 2.0**-43 + 1


@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_table_and_remainder_together_are_the_definition(sigma, monkeypatch):
    # Half of everything is left out, so that the way that is taken once in 2^44 is taken every other time.
    monkeypatch.setattr(noise, "_alias_table", partial(noise._alias_table, shaved=0.5))
    samples = draw(sigma, 5_000)
    assert chi_square(samples, sigma) > BELIEVED
    assert chi_square(draw(sigma * 1.1, 5_000), sigma) < BELIEVED


@pytest.mark.parametrize("shaved", [noise.SHAVED, 0.5])
def test_the_remainder_is_what_the_table_leaves_out(shaved):
    sigma = 1.3
    table, source = noise._alias_table(sigma, shaved), seeded(2)
    samples = np.array([noise._left_out(sigma, table, source) for _ in range(4_000)])
    exact, kept = exact_masses(sigma), dict(enumerate(map(int, table.mass), -table.reach))
    left = {x: float(exact[abs(x)] - kept.get(x, 0)) for x in range(-20, 21)}
    total = (1 << 64) - sum(kept.values())
    assert sum(left.values()) == pytest.approx(total, rel=1e-9)
    inside = [x for x in left if left[x] > total / 200]
    expected = np.array([left[x] for x in inside]) / total * len(samples)
    seen = np.array([(samples == x).sum() for x in inside])
    expected, seen = (np.append(counts, len(samples) - counts.sum()) for counts in (expected, seen))
    assert stats.chisquare(seen[expected > 0], expected[expected > 0]).pvalue > BELIEVED


def test_a_number_on_a_border_between_outcomes_asks_for_more_digits():
    table = noise._alias_table(1.3, 0.5)
    remainder = (1 << 64) - sum(map(int, table.mass))
    with localcontext() as context:
        context.prec = 80
        border = (exact_masses(1.3, 80)[0] - int(table.mass[table.reach])) / remainder
        on_it = int(border * 2**64)
        assert noise._inverted(1.3, table, on_it, 64) is None
        assert noise._inverted(1.3, table, on_it - 1, 64) == 0
        assert noise._inverted(1.3, table, on_it + 1, 64) == -1
    words = iter([on_it, 0, *[2**64 - 1] * 5])
    assert noise._left_out(1.3, table, NoiseSource("seeded", lambda _: np.array([next(words)], np.uint64))) == 0


@pytest.mark.parametrize("sigma", [*ONE_TABLE, *TWO_TABLES])
def test_moments(sigma):
    samples = draw(sigma).astype(np.float64)
    variance = float((exact_pmf(sigma)[0] ** 2 * exact_pmf(sigma)[1]).sum()) if sigma < 1e3 else sigma**2
    assert abs(samples.mean()) < 4 * math.sqrt(variance / SIZE)
    assert samples.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / SIZE))
    assert abs(stats.skew(samples)) < 4 * math.sqrt(6 / SIZE)
    if sigma >= 1:
        assert abs(stats.kurtosis(samples)) < 4 * math.sqrt(24 / SIZE)


@pytest.mark.parametrize("sigma", [1.0, 17.3, 20_000.0])
def test_plus_and_minus_are_alike(sigma):
    samples = draw(sigma)
    samples = samples[samples != 0]
    assert stats.binomtest(int((samples > 0).sum()), len(samples)).pvalue > BELIEVED
    assert stats.ks_2samp(samples[samples > 0], -samples[samples < 0]).pvalue > BELIEVED


def test_coordinates_are_independent():
    samples = draw(5.0).reshape(-1, 2).astype(np.float64)
    assert abs(np.corrcoef(samples.T)[0, 1]) < 4 / math.sqrt(SIZE / 2)


# --- distributed is central


def shares(sigma, honest, survivors, size=50_000):
    """The sum of the survivors' shares, sized for ``honest`` of them."""
    parts = (draw(sigma / math.sqrt(honest), size, 7 + seed).astype(np.int64) for seed in range(survivors))
    return np.sum(list(parts), axis=0)


@pytest.mark.parametrize(("sigma", "honest"), [(100.0, 10), (40_000.0, 3), (60.0, 300)])
def test_with_exactly_the_honest_a_sum_of_shares_has_the_noise_that_a_server_adds(sigma, honest):
    central, distributed = draw(sigma, 50_000), shares(sigma, honest, honest)
    assert stats.ks_2samp(distributed, central).pvalue > BELIEVED
    assert chi_square(distributed, sigma) > BELIEVED
    assert stats.ks_2samp(distributed, draw(sigma * 0.9, 50_000)).pvalue < BELIEVED
    assert stats.ks_2samp(distributed, draw(sigma * 4 / 3, 50_000)).pvalue < BELIEVED


@pytest.mark.parametrize("survivors", [10, 12, 20])
def test_with_more_survivors_the_variance_is_larger_by_their_number_over_the_honest(survivors):
    sigma, honest = 100.0, 10
    total = shares(sigma, honest, survivors)
    assert total.var() == pytest.approx(survivors / honest * sigma**2, rel=4 * math.sqrt(2 / 50_000))
    assert (total.var() > 1.05 * sigma**2) == (survivors > honest)


# --- sources


def test_the_system_source_says_so_and_never_repeats():
    assert os_noise().name == "os"
    assert not np.array_equal(os_noise().words(8), os_noise().words(8))
    source = os_noise()
    assert not np.array_equal(source.words(8), source.words(8))


def test_samples_from_the_system_source_are_discrete_gaussian():
    # not seeded, so judged at a level at which it never fails
    assert chi_square(discrete_gaussian(3.0, SIZE, os_noise()), 3.0) > 1e-12


def test_a_seeded_source_repeats_and_its_length_does_not_matter():
    assert seeded().name == "seeded"
    assert np.array_equal(draw(3.0, 1000), draw(3.0, 1000))
    assert np.array_equal(draw(3.0, 1000), draw(3.0, 2000)[:1000])
    assert not np.array_equal(draw(3.0, 1000), draw(3.0, 1000, seed=1))


def test_chunks_do_not_repeat(monkeypatch):
    whole = draw(3.0, 1000)
    monkeypatch.setattr(noise, "_CHUNK", 7)
    assert np.array_equal(draw(3.0, 1000), whole)


@pytest.mark.parametrize("sigma", [0.5, 17.3, 400.0, 8192.0])
def test_the_samples_are_those_of_one_word_after_another(sigma):
    table = noise._alias_table(sigma)
    drawn = []
    for word in map(int, seeded(5).words(3000)):
        cell = word & int(table.mask)
        kept = word >> int(table.bits) < int(table.keep[cell])
        drawn.append((cell if kept else int(table.alias[cell])) - table.reach)
    assert draw(sigma, 3000, seed=5).tolist() == drawn


# --- edges


def refused(_):
    raise AssertionError("randomness was used")


@pytest.mark.parametrize("size", [0, 1, 5])
def test_no_noise_is_zeros_and_uses_no_randomness(size):
    out = discrete_gaussian(0.0, size, NoiseSource("seeded", refused))
    assert out.dtype == np.int32
    assert out.tolist() == [0] * size


@pytest.mark.parametrize("sigma", [-1.0, 1e-9, 0.499, math.nan, math.inf, 2.0**28])
def test_a_sigma_that_the_grid_cannot_carry_is_a_wrong_call(sigma):
    with pytest.raises(ValueError, match="sigma"):
        discrete_gaussian(sigma, 1, seeded())


@given(st.floats(0.5, 100.0), st.integers(0, 50))
def test_size_and_type(sigma, size):
    out = draw(sigma, size)
    assert out.dtype == np.int32
    assert out.shape == (size,)
