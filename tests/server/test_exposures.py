"""The exposure histogram behind noisy counts: its shape, what is read off it, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import exposures
from server.exposures import functionals, spread
from shared.recall.metrics import effective_coverage, gini, head_share

ITEMS, LISTS, NOISE = 1200, 15_000, 20.0


def zipf(rng, items=ITEMS, lists=LISTS, skew=1.1):
    """Exposures as recommenders make them: a few items often, most of them never."""
    odds = (np.arange(items) + 3.0) ** -skew * (np.arange(items) < items // 3)
    return rng.multinomial(lists, odds / odds.sum()).astype(np.float64)


def shelf(rng):
    """Not a power law: a tenth of the items shares everything, each a fair part of it."""
    counts = np.zeros(ITEMS)
    counts[: ITEMS // 10] = rng.multinomial(LISTS, rng.dirichlet(np.full(ITEMS // 10, 3.0)))
    return counts


@pytest.fixture(autouse=True)
def _few_bootstraps(monkeypatch):
    monkeypatch.setattr(exposures, "BOOTSTRAPS", 12)


def said(counts, noise, rng, *, at_least=None, lists_sigma=300.0):
    noisy = counts + rng.normal(0, noise, len(counts))
    lists = counts.sum() + rng.normal(0, lists_sigma)
    return spread(noisy, noise, at_least or int(np.ceil(noise)), lists, lists_sigma, rng)


@given(st.lists(st.integers(0, 500), min_size=10, max_size=60), st.integers(1, 40))
def test_known_counts_are_read_as_the_metrics_define(counts, at_least):
    counts = np.array(counts)
    expected = [effective_coverage(counts, at_least), gini(counts), head_share(counts)]
    assert functionals(counts.astype(np.float64), at_least).tolist() == expected


@pytest.mark.parametrize("noise", [5.0, 20.0, 40.0])
@pytest.mark.parametrize("shape", [zipf, shelf])
def test_estimates_are_close_and_their_errors_are_the_errors(shape, noise):
    rng = np.random.default_rng(1)
    counts = shape(rng)
    truth = functionals(counts, int(noise))
    made = [said(counts, noise, rng, at_least=int(noise)) for _ in range(12)]
    values, errors = np.array([m.values for m in made]), np.array([m.errors for m in made])
    assert (np.abs(values[:, 0] - truth[0]) <= 0.03).mean() >= 0.9
    # Root mean squares of twelve: within a factor of their own error bars, neither far too sure nor far too modest.
    ratio = np.sqrt(np.mean((values - truth) ** 2, axis=0)) / errors.mean(axis=0)
    assert ratio.max() < 2.0
    if shape is zipf:
        assert ratio.min() > 0.25


def test_noise_alone_is_not_taken_for_coverage():
    rng = np.random.default_rng(2)
    counts = np.zeros(ITEMS)
    counts[:12] = LISTS / 12
    noisy = counts + rng.normal(0, NOISE, ITEMS)
    assert (noisy >= NOISE).mean() > 0.15  # what plain counting would say
    assert said(counts, NOISE, rng).values[0] < 0.03


def test_items_shown_alike_have_no_gini():
    rng = np.random.default_rng(3)
    values = said(np.full(ITEMS, 60.0), 10.0, rng, at_least=10).values
    assert values[0] > 0.98
    assert values[1] < 0.1
    assert values[2] == pytest.approx(0.1, abs=0.03)


def test_knowing_how_many_lists_there_are_sharpens_the_gini():
    rng = np.random.default_rng(4)
    counts = zipf(rng)
    truth = functionals(counts, 40)[1]
    errors = {
        sigma: np.mean([abs(said(counts, 40.0, rng, lists_sigma=sigma).values[1] - truth) for _ in range(8)])
        for sigma in (100.0, 1e6)
    }
    assert errors[100.0] < errors[1e6]


def test_even_a_histogram_of_two_heights_is_found():
    """The smooth curve knows no such thing; its bars are too short then, its values are not far off."""
    rng = np.random.default_rng(9)
    counts = np.where(np.arange(ITEMS) < ITEMS // 10, 125.0, 0.0)
    values = said(counts, NOISE, rng).values
    assert values[0] == pytest.approx(0.1, abs=0.03)
    assert values[1] == pytest.approx(0.9, abs=0.05)


def test_less_noise_is_a_shorter_bar():
    rng = np.random.default_rng(5)
    counts = zipf(rng)
    wide, narrow = (said(counts, noise, rng, at_least=40).errors for noise in (40.0, 5.0))
    assert (narrow < wide).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), noise=st.floats(0.8, 300.0), items=st.integers(30, 400))
def test_whatever_comes_the_answer_is_a_share(seed, noise, items):
    rng = np.random.default_rng(seed)
    counts = rng.choice([0.0, 1.0, 50.0, 400.0], items)
    made = said(counts, noise, rng, lists_sigma=1.0)
    assert np.isfinite(made.values).all()
    assert np.isfinite(made.errors).all()
    assert (made.values >= -1e-9).all()
    assert (made.values <= 1 + 1e-9).all()


def test_a_sum_without_anything_in_it_is_no_exposure():
    rng = np.random.default_rng(6)
    made = said(np.zeros(ITEMS), NOISE, rng, lists_sigma=50.0)
    assert made.values[0] < 0.02


def test_the_same_chance_gives_the_same_bars():
    counts = zipf(np.random.default_rng(7))
    one, other = (said(counts, NOISE, np.random.default_rng(8)) for _ in range(2))
    assert np.array_equal(one.values, other.values)
    assert np.array_equal(one.errors, other.errors)
