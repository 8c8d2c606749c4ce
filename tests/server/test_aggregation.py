"""Server optimizers against the formulas as they are written in the papers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.aggregation import BETA1, BETA2, TAU, apply, initial_optimizer, log_popularity, mean_update


def naive(kind, rate, warmup, start, updates):
    """Coordinate by coordinate, in Python floats."""
    out = []
    for i, parameter in enumerate(start):
        x, m, v = float(parameter), 0.0, 0.0
        for t, update in enumerate(updates, 1):
            delta = float(update[i])
            eta = rate * t / warmup if warmup and t < warmup else rate
            if kind == "fedavg":
                x += eta * delta
                continue
            m = BETA1 * m + (1 - BETA1) * delta
            v = v + delta**2 if kind == "fedadagrad" else BETA2 * v + (1 - BETA2) * delta**2
            unbiased = v if kind == "fedadagrad" else v / (1 - BETA2**t)
            x += eta * (m / (1 - BETA1**t)) / (unbiased**0.5 + TAU)
        out.append(x)
    return out


@pytest.mark.parametrize("kind", ["fedavg", "fedadam", "fedadagrad"])
@given(seed=st.integers(0, 2**32), warmup=st.integers(0, 6), rate=st.floats(1e-3, 1.0))
def test_an_optimizer_is_its_formula(kind, seed, warmup, rate):
    rng = np.random.default_rng(seed)
    parameters = start = rng.normal(size=5).astype(np.float32)
    updates = rng.normal(size=(7, 5)).astype(np.float32) * 10.0 ** rng.integers(-3, 3)
    state = initial_optimizer(5)
    for update in updates:
        parameters, state = apply(kind, rate, warmup, state, parameters, update)
    assert parameters.dtype == np.float32
    assert state.step == 7
    assert parameters == pytest.approx(naive(kind, rate, warmup, start, updates), rel=1e-3, abs=1e-4 * rate)


@pytest.mark.parametrize("kind", ["fedadam", "fedadagrad"])
def test_the_first_adaptive_step_is_the_learning_rate_along_the_sign(kind):
    mean = np.array([1e-3, -5.0, 0.0], np.float32)
    moved, _ = apply(kind, 0.1, 0, initial_optimizer(3), np.zeros(3, np.float32), mean)
    assert moved == pytest.approx([0.1, -0.1, 0.0], rel=1e-3)


def test_the_rate_rises_over_the_warm_up_and_stays():
    parameters, state, steps = np.zeros(1, np.float32), initial_optimizer(1), []
    for _ in range(6):
        moved, state = apply("fedavg", 1.0, 4, state, parameters, np.ones(1, np.float32))
        steps.append(float((moved - parameters)[0]))
        parameters = moved
    assert steps == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("kind", ["fedavg", "fedadam", "fedadagrad"])
def test_what_went_in_stays_as_it_was(kind):
    state, parameters, mean = initial_optimizer(3), np.ones(3, np.float32), np.ones(3, np.float32)
    apply(kind, 0.1, 2, state, parameters, mean)
    assert state.step == 0
    assert not state.first.any()
    assert not state.second.any()
    assert (parameters == 1).all()
    assert (mean == 1).all()


def test_the_mean_is_over_a_public_number_of_units():
    mean = mean_update(np.array([64, -128, 0]), clip=0.5, steps=32, units=4)
    assert mean.dtype == np.float32
    assert mean.tolist() == [0.25, -0.5, 0.0]


@given(seed=st.integers(0, 2**32), sigma=st.floats(0, 1e6))
def test_log_popularity_is_finite_centred_and_in_order(seed, sigma):
    total = np.random.default_rng(seed).integers(-(10**6), 10**8, 50)
    prior = log_popularity(total, 1 << 16, sigma)
    assert prior.dtype == np.float32
    assert np.isfinite(prior).all()
    assert abs(float(prior.mean())) < 1e-3
    assert (np.diff(prior[np.argsort(total, kind="stable")]) >= 0).all()


def test_what_is_below_the_noise_is_equally_unknown():
    prior = log_popularity(np.array([-500_000, 0, -7, 10**7]), 1 << 16, 65536.0 * 3)
    assert prior[0] == prior[1] == prior[2] < prior[3]


@pytest.mark.parametrize(("sigma", "floor"), [(3.0, 3.0), (0.0, 0.1)])
def test_counts_are_told_apart_by_their_share_above_the_noise(sigma, floor):
    prior = log_popularity(np.array([0, 10 * 65536]), 65536, sigma * 65536)
    assert prior[1] - prior[0] == pytest.approx(np.log((10 + floor) / floor), rel=1e-5)
