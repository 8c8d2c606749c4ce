"""The proof in docs/privacy.md, step by step: each inequality enumerated where it shows, each constant compared."""

from __future__ import annotations

import ast
import importlib
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.budget import profile_signal
from server.job import target_of
from server.warm_start import rank_of
from shared.encoder.spec import EncoderSpec
from shared.privacy import accounting
from shared.privacy.calibration import make_plan
from shared.privacy.checks import SMALLEST_EPSILON, SMALLEST_SHARE
from shared.privacy.plan import ETA, ROUNDED, ROUNDING, TAU, claims
from shared.privacy.wording import sentences
from simulations.config import resolve

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "privacy.md").read_text("utf-8")


def discrete(sigma, reach):
    """N_Z(0, sigma^2) on -reach .. reach."""
    x = np.arange(-reach, reach + 1)
    mass = np.exp(-((x / sigma) ** 2) / 2)
    return mass / mass.sum()


def gap(p, q, reach):
    """Largest |ln(p / q)| over -reach .. reach; p and q are centred."""
    p, q = (mass[len(mass) // 2 - reach : len(mass) // 2 + reach + 1] for mass in (p, q))
    return float(np.abs(np.log(p / q)).max())


def tau(sigma, shares):
    """Kairouz, Liu, Steinke 2021, Theorem 1: the bound on a sum of shares."""
    return 10.0 * sum(math.exp(-2 * math.pi**2 * sigma**2 * j / (j + 1)) for j in range(1, shares))


# --- step 1: a sum of discrete Gaussians is nearly one


@pytest.mark.parametrize("shares", [2, 3, 5])
@pytest.mark.parametrize("sigma", [0.6, 0.8, 1.0, 1.2])
def test_a_sum_of_shares_is_a_discrete_gaussian_up_to_tau(sigma, shares):
    # Direct convolution adds positive numbers, so each probability is right to a part in 10^13, however small.
    total = one = discrete(sigma, 30)
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    real = gap(total, discrete(sigma * math.sqrt(shares), 30), 16)
    assert real <= tau(sigma, shares)
    if shares == 2:
        assert real > tau(sigma, shares) / 10  # the bound is about something


def test_tau_is_what_the_smallest_share_of_any_number_of_clients_gives():
    many = tau(SMALLEST_SHARE, 10_000) + 1e9 * 10 * math.exp(-2 * math.pi**2 * SMALLEST_SHARE**2 * 0.9999)
    assert TAU / 2 < many <= TAU


# --- step 2: a discrete Gaussian is nearly the rounding of a real one


def rounded(sigma, rounding, reach):
    """A real Gaussian of variance sigma^2 - rounding, rounded at random: x with weight exp(-(x - y)^2 / (2 rounding)).

    An integral over y of smooth functions: the trapezoidal rule converges faster than any power of its step.
    """
    x, width = np.arange(-reach, reach + 1), math.sqrt(sigma**2 - rounding)
    y = np.arange(-10 * width, 10 * width, min(width, math.sqrt(rounding)) / 20)
    density = np.exp(-((y / width) ** 2) / 2)
    near = np.exp(-((x[:, None] - y[None, :]) ** 2) / (2 * rounding))
    mass = (near / near.sum(axis=0)) @ (density / density.sum())
    return mass / mass.sum()


@pytest.mark.parametrize("rounding", [0.1, 0.2, 0.3])
def test_a_discrete_gaussian_is_a_rounded_real_one_up_to_a_factor(rounding):
    bound = 4 * math.exp(-2 * math.pi**2 * rounding)
    for variance in (rounding + 0.02, rounding + 0.1, 4.0):
        sigma = math.sqrt(variance)
        assert gap(rounded(sigma, rounding, 20), discrete(sigma, 20), 5) <= bound
    sigma = math.sqrt(rounding + 0.02)
    assert gap(rounded(sigma, rounding, 20), discrete(sigma, 20), 5) > bound / 10  # the bound is about something


def test_with_the_rounding_that_is_given_away_no_double_sees_the_difference():
    assert gap(rounded(4.0, ROUNDING, 60), discrete(4.0, 60), 20) < 1e-12
    assert ROUNDED / 2 < 4 * math.exp(-2 * math.pi**2 * ROUNDING) <= ROUNDED


@pytest.mark.parametrize("shift", [1, 3, -2])
def test_rounding_commutes_with_integers(shift):
    # So an integer plus the noise is the rounding of that integer plus a real Gaussian: post-processing.
    x = np.arange(-30, 31)
    y = np.linspace(-3, 3, 13)
    at = np.exp(-((x[:, None] - y) ** 2) / (2 * ROUNDING))
    moved = np.exp(-((x[:, None] - (y + shift)) ** 2) / (2 * ROUNDING))
    assert np.allclose((moved / moved.sum(0))[10:-10], np.roll(at / at.sum(0), shift, axis=0)[10:-10], atol=1e-15)


# --- step 3: the claim


def delta_of(noise, sensitivity, epsilon):
    """The exact delta of integer noise when a sum moves by ``sensitivity`` grid units."""
    moved = np.concatenate([np.zeros(sensitivity), noise])
    return float(np.maximum(moved - math.exp(epsilon) * np.concatenate([noise, np.zeros(sensitivity)]), 0).sum())


@pytest.mark.parametrize(("sigma", "shares"), [(2.0, 2), (2.0, 5), (3.0, 1), (4.0, 3)])
@pytest.mark.parametrize("sensitivity", [3, 8])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_real_noise_never_costs_more_than_the_claim(sigma, shares, sensitivity, delta):
    one = discrete(sigma, math.ceil(14 * sigma))
    noise = one
    for _ in range(shares - 1):
        noise = np.convolve(noise, one)
    variance = shares * sigma**2
    claimed = accounting.epsilon_exact(sensitivity**2 / (2 * (variance - ROUNDING)), delta * math.exp(-ETA)) + 2 * ETA
    assert delta_of(noise, sensitivity, claimed) <= delta
    # And the enumeration can tell: what half as much variance again would allow to claim is broken.
    too_small = accounting.epsilon_exact(sensitivity**2 / (2 * 1.5 * variance), delta)
    assert delta_of(noise, sensitivity, too_small) > delta


@pytest.mark.parametrize("eta", [0.01, 0.1])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_a_factor_on_every_probability_adds_twice_itself_to_epsilon_and_scales_delta(epsilon, eta):
    rng = np.random.default_rng(4)
    for _ in range(200):
        p, q = rng.dirichlet(np.full(6, 0.5), 2)
        delta = np.maximum(p - math.exp(epsilon) * q, 0).sum()
        p, q = (mass * np.exp(rng.choice([-eta, eta], 6)) for mass in (p, q))  # an event's chance, within e^(+-eta)
        assert np.maximum(p - math.exp(epsilon + 2 * eta) * q, 0).sum() <= math.exp(eta) * delta + 1e-15


def test_a_plan_at_its_largest_stays_below_eta():
    most = ETA / (TAU + ROUNDED)
    assert most > 7e9  # noisy numbers of one client; checks.py refuses more
    assert ETA < SMALLEST_EPSILON / 100


# --- the page says what the code does


def constants():
    return re.findall(r"^\| `(\w+)` \| (\S+?) \| `([\w.]+)` \|", PAGE, flags=re.MULTILINE)


def test_the_page_has_its_table_of_constants():
    assert {name for name, _, _ in constants()} >= {"ROUNDING", "TAU", "ROUNDED", "ETA", "SMALLEST_SHARE", "SHAVED"}


@pytest.mark.parametrize(("name", "value", "module"), constants())
def test_a_constant_of_the_page_is_the_one_in_the_code(name, value, module):
    power = re.fullmatch(r"2\^(-?\d+)", value)
    said = 2.0 ** int(power[1]) if power else ast.literal_eval(value)
    assert getattr(importlib.import_module(module), name) == said


def test_the_page_shows_what_the_default_plan_claims():
    config = resolve("ml-100k")
    target = target_of(config, 943, 943, 1, "simulation")  # MovieLens 100K
    sizes = EncoderSpec(32, rank_of(profile_signal(target)), 1682, "linear")
    plan = make_plan(replace(target, update_dimension=sizes.trained))
    shown = PAGE.partition("<!-- claims: begin -->")[2].partition("<!-- claims: end -->")[0].split("\n- ")
    assert [line.strip() for line in shown[1:]] == sentences(plan, claims(plan))


def named_tests():
    return sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize("failure", range(1, 14))
def test_each_of_the_thirteen_failures_names_its_tests(failure):
    row = re.search(rf"^\| {failure} \|.*$", PAGE, flags=re.MULTILINE)
    assert row is not None
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row[0])


@pytest.mark.parametrize(("file", "test"), named_tests())
def test_a_test_that_the_page_names_exists(file, test):
    assert re.search(rf"def {test}\b", (ROOT / file).read_text("utf-8"))
