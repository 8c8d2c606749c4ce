"""Targets from noisy sums of residuals: the least-squares solution without noise, what noise leaves of it with some."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.aggregation import OptimizerState, initial_optimizer
from server.checkpoint import State
from server.posterior import RIDGE, UNKNOWN_LENGTH, given_out, known_of, learn, published, shrunk
from server.warm_start import Known, with_contexts
from shared.config import PolicySection, first_policy
from shared.encoder.encode import at_length_one, context_vectors
from shared.encoder.profile import feature_map, packed
from shared.encoder.spec import EncoderSpec, unpack
from shared.policy.memory import Memory

BUCKETS, RANK, TEXT = 30, 4, 3
SPEC = EncoderSpec(TEXT, RANK, BUCKETS, "linear")
PRIOR = np.linspace(1.5, -1.5, BUCKETS).astype(np.float32)
KNOWN = Known(PRIOR, 0.3, 20)
WORDS = np.random.default_rng(9).standard_normal((BUCKETS, TEXT)).astype(np.float32)
EVERYBODY = 10**9  # so many people that who happens to be here makes no difference


def problem(seed, spread):
    """C = E[x z'] and S = E[z z'] of vectors of length one; eigenvalues of S are up to ``spread`` times apart."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((RANK, RANK)))[0]
    values = np.geomspace(1, spread, RANK)
    inner = (turn * (values / values.sum())) @ turn.T
    return rng.standard_normal((BUCKETS, RANK)) * np.sqrt(KNOWN.shares())[:, None], inner


def rounds(count, cross, inner, *, noise=0.0, people=EVERYBODY, seed=0):
    """Targets after some rounds in which people answer with the mean residual, and noise on it."""
    rng = np.random.default_rng(seed)
    flat, state = np.zeros(SPEC.size, np.float32), initial_optimizer(SPEC.trained)
    for _ in range(count):
        mean = cross - unpack(SPEC, flat)["target"] @ inner + noise * rng.standard_normal(cross.shape)
        mean = mean.astype(np.float32).ravel()
        flat, state = learn(SPEC, state, flat, mean, noise=noise, known=KNOWN, people=people, text=WORDS)
    return unpack(SPEC, flat)["target"].astype(float)


def apart(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


# --- the fixed point


def test_where_people_spread_evenly_one_round_without_noise_is_the_solution():
    cross, inner = problem(0, 1.0)
    assert apart(rounds(1, cross, inner), RANK * cross) < 1e-5


@pytest.mark.parametrize("spread", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_fixed_point_is_the_least_squares_solution_however_people_spread(spread, seed):
    cross, inner = problem(seed, spread)
    wanted = cross @ np.linalg.inv(inner)
    far = [apart(rounds(count, cross, inner), wanted) for count in (3, 30, 300)]
    assert far[-1] < 0.06
    assert spread == 1.0 or far == sorted(far, reverse=True)


def test_who_has_arrived_stays():
    cross, inner = problem(2, 5.0)
    flat = np.zeros(SPEC.size, np.float32)
    wanted = cross @ np.linalg.inv(inner)
    unpack(SPEC, flat)["target"][:] = wanted
    state = OptimizerState(4, (10 * wanted).astype(np.float32).ravel(), np.zeros(SPEC.trained, np.float32))
    still = np.zeros(SPEC.trained, np.float32)
    moved, after = learn(SPEC, state, flat, still, noise=0.0, known=KNOWN, people=EVERYBODY, text=WORDS)
    assert after.step == 5
    assert apart(unpack(SPEC, moved)["target"], wanted) < 1e-4


def test_later_estimates_weigh_more():
    """Round t counts t times: the first was made with the poorest parameters."""
    state, flat = initial_optimizer(SPEC.trained), np.zeros(SPEC.size, np.float32)
    means = np.random.default_rng(0).standard_normal((3, SPEC.trained)).astype(np.float32)
    estimates = []
    for mean in means:
        estimates.append(RANK * mean + unpack(SPEC, flat)["target"].ravel())
        flat, state = learn(SPEC, state, flat, mean, noise=0.0, known=KNOWN, people=EVERYBODY, text=WORDS)
    wanted = (estimates[0] + 2 * estimates[1] + 3 * estimates[2]) / 6
    assert state.first / 6 == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    assert unpack(SPEC, flat)["target"].ravel() == pytest.approx(wanted, rel=1e-3, abs=1e-3)


# --- noise


def test_more_rounds_bring_the_solution_nearer_although_each_is_noise():
    cross, inner = problem(3, 1.0)
    far = [
        np.mean([apart(rounds(n, cross, inner, noise=0.3, seed=s), RANK * cross) for s in range(6)]) for n in (1, 8, 64)
    ]
    assert far == sorted(far, reverse=True)
    assert far[-1] < 0.6 * far[0]


def posterior(spread, found, popularity):
    return shrunk(found, np.full_like(popularity, spread), popularity, WORDS.astype(float))


POPULARITY = (KNOWN.shares() / KNOWN.shares().max())[:, None].astype(float)


def test_without_noise_nothing_is_shrunk():
    found = np.random.default_rng(4).standard_normal((BUCKETS, RANK))
    assert posterior(0.0, found, POPULARITY) == pytest.approx(found, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), scale=st.floats(1e-3, 1e3))
def test_the_more_noise_the_nearer_to_what_popularity_says(seed, scale):
    found = scale * np.random.default_rng(seed).standard_normal((BUCKETS, RANK))
    profile = (found * POPULARITY).sum(0) / (POPULARITY**2).sum()
    far = [
        np.linalg.norm(posterior(s * scale**2, found, POPULARITY) - POPULARITY * profile) for s in (0, 0.3, 3, 300, 1e9)
    ]
    assert far[-1] <= 1e-3 * scale
    assert far[0] == max(far)
    assert far[2] >= far[3] - 1e-9 >= far[4] - 2e-9


def planted(seed, noise, *, of_texts):
    """Rows of the model that is assumed, and noisy copies of them."""
    rng = np.random.default_rng(seed)
    said = of_texts * WORDS.astype(float) @ rng.standard_normal((TEXT, RANK))
    own = rng.standard_normal((BUCKETS, RANK)) * np.sqrt(POPULARITY) * (0.3 if of_texts else 1.0)
    rows = POPULARITY * (rng.standard_normal(RANK) + said) + own
    return rows, rows + noise * rng.standard_normal(rows.shape)


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_what_is_left_is_nearer_to_the_truth_than_the_estimate_and_than_popularity_alone(noise):
    errors = np.zeros(3)
    for seed in range(30):
        rows, found = planted(seed, noise, of_texts=0.0)
        profile = POPULARITY * ((found * POPULARITY).sum(0) / (POPULARITY**2).sum())
        errors += [np.square(rows - guess).sum() for guess in (posterior(noise**2, found, POPULARITY), found, profile)]
    assert errors[0] < errors[1]
    # Where nearly all is noise, popularity alone is about as good.
    assert errors[0] < (1.25 if noise > 1 else 1.0) * errors[2]


def test_rows_learn_from_rows_with_like_texts():
    with_texts, without = 0.0, 0.0
    for seed in range(30):
        rows, found = planted(seed, 1.0, of_texts=1.0)
        spread = np.ones_like(POPULARITY)
        with_texts += np.square(rows - shrunk(found, spread, POPULARITY, WORDS.astype(float))).sum()
        without += np.square(rows - shrunk(found, spread, POPULARITY, np.zeros((BUCKETS, 1)))).sum()
    assert with_texts < 0.9 * without


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    noise=st.sampled_from([0.0, 1e-9, 1.0, 1e6]),
    peak=st.sampled_from([0.0, 1e-6, 0.3]),  # 0: the statistics were lost, or all noise
    prior=st.floats(0, 20),  # the prior is a log of counts, at least 0.1 each
)
def test_any_sum_gives_finite_targets(seed, noise, peak, prior):
    rng = np.random.default_rng(seed)
    known = Known(np.linspace(prior, -prior, BUCKETS).astype(np.float32), peak, 1)
    flat, state = np.zeros(SPEC.size, np.float32), initial_optimizer(SPEC.trained)
    for _ in range(3):
        mean = (noise * rng.standard_normal(SPEC.trained)).astype(np.float32)
        flat, state = learn(SPEC, state, flat, mean, noise=noise, known=known, people=5, text=WORDS)
    assert np.isfinite(flat).all()
    assert np.isfinite(published(SPEC, flat, known)).all()


# --- post-processing


def test_the_step_is_a_function_of_the_sum_and_of_public_numbers_and_leaves_them_as_they_are():
    rng = np.random.default_rng(5)
    state = OptimizerState(2, rng.standard_normal(SPEC.trained).astype(np.float32), np.zeros(SPEC.trained, np.float32))
    flat, mean = rng.standard_normal(SPEC.size).astype(np.float32), rng.standard_normal(SPEC.trained).astype(np.float32)
    kept = [state.first.copy(), flat.copy(), mean.copy()]
    terms = {"noise": 0.1, "known": KNOWN, "people": 50, "text": WORDS}
    (one, after), (other, again) = (learn(SPEC, state, flat, mean, **terms) for _ in range(2))
    assert np.array_equal(one, other)
    assert np.array_equal(after.first, again.first)
    assert (state.step, after.step) == (2, 3)
    for before, now in zip(kept, (state.first, flat, mean), strict=True):
        assert np.array_equal(before, now)
    for name in ("projection", "context"):
        assert np.array_equal(unpack(SPEC, one)[name], unpack(SPEC, flat)[name])


def a_state(**changes):
    policy = first_policy(PolicySection())
    flat = np.random.default_rng(6).standard_normal(SPEC.size).astype(np.float32)
    first = State(1, flat, initial_optimizer(SPEC.trained), PRIOR, policy, Memory(policy), peak=0.3, activity=(10, 30))
    return replace(first, **changes)


def test_a_typical_history_lies_between_the_activity_groups_or_is_assumed():
    assert known_of(a_state()).typical == 20
    assert known_of(a_state(activity=(0, 0))).typical == UNKNOWN_LENGTH
    assert known_of(a_state(peak=0.25)).peak == 0.25


# --- what is given out


def test_scores_have_a_unit_the_mean_score_of_the_most_popular_item():
    state = a_state()
    before, after = (unpack(SPEC, flat) for flat in (state.parameters, given_out(SPEC, state)))
    assert after["target"] == pytest.approx(before["target"] / 0.3, rel=1e-5)
    assert np.array_equal(after["projection"], before["projection"])


def test_training_goes_on_with_what_was_learned_not_with_what_is_given_out():
    state = a_state()
    kept = state.parameters.copy()
    given_out(SPEC, state)
    assert np.array_equal(state.parameters, kept)


def test_the_two_towers_are_given_out_as_they_are():
    spec = EncoderSpec(TEXT, RANK, BUCKETS, "mean")
    flat = np.random.default_rng(7).standard_normal(spec.size).astype(np.float32)
    assert np.array_equal(published(spec, flat, KNOWN), flat)


def test_without_private_statistics_there_is_no_unit():
    state = a_state(peak=0.0)
    assert np.array_equal(given_out(SPEC, state), state.parameters)


def test_the_fold_in_is_the_ridge_solution_and_the_mean_history_moves_by_length_one():
    state = a_state()
    shares = KNOWN.shares().astype(float)
    target = unpack(SPEC, state.parameters)["target"].astype(float)
    added = unpack(SPEC, given_out(SPEC, state))["context"] - unpack(SPEC, state.parameters)["context"]
    assert np.linalg.norm(shares @ added) == pytest.approx(1, rel=1e-4)
    # Of a history x, the added vectors are in proportion to argmin_z sum_i w_i (x_i - t_i z)^2 + ridge |z|^2.
    weights = 1.0 / np.sqrt(shares / shares.mean())
    inner = (target * weights[:, None]).T @ target
    x = (np.random.default_rng(8).random(BUCKETS) < 0.3).astype(float)
    solved = np.linalg.solve(inner + RIDGE * np.trace(inner) * np.eye(RANK), target.T @ (weights * x))
    cosine = (x @ added) @ solved / np.linalg.norm(x @ added) / np.linalg.norm(solved)
    assert cosine == pytest.approx(1, abs=1e-4)


# --- a planted case, from profiles to lists

ITEMS, PEOPLE, TASTES, SEEN, HIDDEN = 80, 600, 3, 10, 3


@dataclass(frozen=True)
class Town:
    """People of planted tastes: what they show, (people, items) 0 or 1, and what is held out."""

    shown: np.ndarray
    hidden: np.ndarray
    known: Known
    compact: np.ndarray


@pytest.fixture(scope="module")
def town():
    rng = np.random.default_rng(0)
    chances = np.linspace(1.2, -1.2, ITEMS) + 1.6 * rng.standard_normal((PEOPLE, TASTES)) @ rng.standard_normal(
        (TASTES, ITEMS)
    )
    picked = np.argsort(-(chances + rng.gumbel(size=chances.shape)), axis=1)[:, : SEEN + HIDDEN]
    picked = rng.permuted(picked, axis=1)
    shown, hidden = np.zeros((2, PEOPLE, ITEMS), np.float32)
    np.put_along_axis(shown, picked[:, :SEEN], 1.0, axis=1)
    np.put_along_axis(hidden, picked[:, SEEN:], 1.0, axis=1)
    shares = at_length_one(shown).mean(0)
    log = np.log(shares + 1e-3)
    prior = np.asarray(log - log.mean(), np.float32)
    return Town(
        shown, hidden, Known(prior, float(shares.max()), SEEN), rng.standard_normal((ITEMS, TEXT)).astype(np.float32)
    )


def trained(town, sigma, count=8):
    """A run in small: noise of ``sigma`` people in every sum."""
    rng = np.random.default_rng(1)
    spec, width, bucket = EncoderSpec(TEXT, TASTES + 2, ITEMS, "linear"), 60, np.arange(ITEMS)
    features = feature_map(town.compact, bucket, town.known.prior, width, SEEN)
    moment = packed(at_length_one(town.shown @ features.rows(np.arange(len(bucket))))).sum(0)
    moment += sigma * rng.standard_normal(len(moment))
    flat = np.zeros(spec.size, np.float32)
    flat = with_contexts(spec, flat, moment, town.known, town.compact, bucket, width, PEOPLE)
    x, state = at_length_one(town.shown), initial_optimizer(spec.trained)
    z = at_length_one(town.shown @ context_vectors(spec, flat, town.compact, bucket))
    for _ in range(count):
        total = (x - z @ unpack(spec, flat)["target"].T).T @ z
        mean = (total.ravel() + sigma * rng.standard_normal(spec.trained)) / PEOPLE
        terms = {"noise": sigma / PEOPLE, "known": town.known, "people": PEOPLE, "text": town.compact}
        flat, state = learn(spec, state, flat, mean.astype(np.float32), **terms)
    return spec, flat


def scores_of(town, spec, flat):
    z = at_length_one(town.shown @ context_vectors(spec, flat, town.compact, np.arange(ITEMS)))
    return z @ unpack(spec, flat)["target"].T


def recall(town, scores):
    """recall@10 of what is held out."""
    best = np.argsort(-np.where(town.shown > 0, -np.inf, scores), axis=1)[:, :10]
    return float(np.take_along_axis(town.hidden, best, 1).sum() / town.hidden.sum())


@pytest.mark.parametrize("sigma", [0.0, 5.0])
def test_the_mean_score_of_the_most_popular_item_is_about_one(town, sigma):
    spec, flat = trained(town, sigma)
    given = unpack(spec, published(spec, flat, town.known))["target"]
    z = at_length_one(town.shown @ context_vectors(spec, flat, town.compact, np.arange(ITEMS)))
    assert (z @ given.T).mean(0).max() == pytest.approx(1, abs=0.2)


def handed_out(town, sigma):
    spec, flat = trained(town, sigma)
    return spec, published(spec, flat, town.known)


@pytest.mark.parametrize("sigma", [0.0, 5.0, 12.0])
def test_what_is_given_out_ranks_better_than_what_is_trained_and_than_popularity(town, sigma):
    """The fold-in helps: contexts know where people differ, targets also who has what."""
    inner, outer = (recall(town, scores_of(town, *made(town, sigma))) for made in (trained, handed_out))
    assert outer > inner + 0.005
    assert outer > recall(town, np.tile(town.known.prior, (PEOPLE, 1))) + 0.05


def test_the_less_noise_the_better_the_lists(town):
    made = [recall(town, scores_of(town, *handed_out(town, sigma))) for sigma in (0.0, 8.0, 20.0, 200.0)]
    assert made == sorted(made, reverse=True)
    assert made[0] > 0.6
