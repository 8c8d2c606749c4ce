"""Contexts from a noisy second moment: the directions in which people differ come back as far as noise lets them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.warm_start import LARGEST_RANK, LARGEST_WIDTH, Known, rank_of, width_of, with_contexts
from shared.encoder.encode import context_vectors, pad, user_vectors
from shared.encoder.profile import feature_map, packed, popular, popularity_direction, profile_length, profiles
from shared.encoder.spec import EncoderSpec, plain_behaviour, unpack
from shared.history import History

ITEMS, BUCKETS, WIDTH, TEXT, PEOPLE, TASTES = 60, 50, 30, 5, 400, 2
COUNT = WIDTH + TEXT
SPEC = EncoderSpec(TEXT, TASTES + 1, BUCKETS, "linear")


@dataclass(frozen=True)
class World:
    """People of a few tastes, and what is public about their catalogue."""

    compact: np.ndarray
    bucket: np.ndarray
    known: Known
    histories: list[History]

    @property
    def features(self):
        return feature_map(self.compact, self.bucket, self.known.prior, WIDTH, self.known.typical)

    @property
    def moment(self):
        return packed(profiles(self.features, self.histories)).sum(0)

    def contexts(self, moment, spec=SPEC, start=None):
        """The parameters, and (items, rank) what items add to whoever has them."""
        start = np.zeros(spec.size, np.float32) if start is None else start
        flat = with_contexts(spec, start, moment, self.known, self.compact, self.bucket, WIDTH, PEOPLE)
        return flat, context_vectors(spec, flat, self.compact, self.bucket)


def history_of(items):
    length = len(items)
    return History(
        item=np.asarray(items, np.int32),
        kind=np.zeros(length, np.int8),
        count=np.ones(length, np.float32),
        dwell=np.zeros(length, np.float32),
        rating=np.full(length, np.nan, np.float32),
        time=np.zeros(length),
        held_out=np.zeros(length, bool),
    )


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    bucket = np.arange(ITEMS) % BUCKETS
    loved = rng.standard_normal((BUCKETS, TASTES))
    popularity = np.linspace(1.5, -1.5, BUCKETS)
    chances = popularity + 2.5 * rng.standard_normal((PEOPLE, TASTES)) @ loved.T
    picked = [np.argsort(-(row[bucket] + rng.gumbel(size=ITEMS)))[:12] for row in chances]
    rows = np.zeros((PEOPLE, BUCKETS))
    for row, items in zip(rows, picked, strict=True):
        row[bucket[items]] = 1.0
    shares = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
    log = np.log(shares + 1e-3)
    prior = np.asarray(log - log.mean(), np.float32)
    compact = rng.standard_normal((ITEMS, TEXT)).astype(np.float32)
    return World(compact, bucket, Known(prior, float(shares.max()), 12), [history_of(items) for items in picked])


def plane(vectors):
    return np.linalg.qr(vectors)[0]


def closeness(one, other):
    """Cosine of the largest angle between two spaces of columns, 1 = the same."""
    return float(np.linalg.svd(plane(one).T @ plane(other), compute_uv=False).min())


# --- the planted space


def test_without_noise_contexts_are_the_leading_directions_of_the_moment(world):
    """Principal components, but for popularity; worked out here from the profiles themselves."""
    rows = profiles(world.features, world.histories)
    leading = np.linalg.svd(rows.astype(float), full_matrices=False)[2][:TASTES].T
    _, context = world.contexts(world.moment)
    assert closeness(context[:, 1:], world.features.rows(np.arange(len(world.bucket))) @ leading) > 0.9999


def planted(rng, people):
    """Rows of length one near a plane of two directions, none of which is popularity; and that plane."""
    prior = np.zeros(BUCKETS, np.float32)
    plain = np.ones(COUNT)
    plain[WIDTH:] = 0.0
    plain /= np.linalg.norm(plain)
    basis = np.linalg.qr(np.column_stack([plain, rng.standard_normal((COUNT, TASTES))]))[0][:, 1:]
    rows = rng.standard_normal((people, TASTES)) @ basis.T + 0.05 * rng.standard_normal((people, COUNT))
    rows -= np.outer(rows @ plain, plain)
    return prior, basis, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_planted_space_comes_back_as_the_noise_falls():
    rng = np.random.default_rng(1)
    prior, basis, rows = planted(rng, PEOPLE)
    compact, bucket = rng.standard_normal((ITEMS, TEXT)).astype(np.float32), np.arange(ITEMS) % BUCKETS
    known = Known(prior, 0.3, 12)
    want = feature_map(compact, bucket, prior, WIDTH, 12).rows(np.arange(len(bucket))) @ basis
    total = packed(rows).sum(0)

    def close(sigma):
        found = []
        for _ in range(5):
            noisy = total + sigma * rng.standard_normal(len(total))
            flat = with_contexts(SPEC, np.zeros(SPEC.size, np.float32), noisy, known, compact, bucket, WIDTH, PEOPLE)
            found.append(closeness(context_vectors(SPEC, flat, compact, bucket)[:, 1:], want))
        return float(np.mean(found))

    close_to = [close(sigma) for sigma in (0.0, 3.0, 12.0, 48.0, 1000.0)]
    assert close_to == sorted(close_to, reverse=True)
    assert close_to[0] > 0.999
    assert close_to[1] > 0.97
    assert close_to[-1] < 0.6


def test_people_spread_evenly_along_all_directions(world):
    """Each coordinate of a person has mean square one, so that E[z z'] is about I / rank."""
    _, context = world.contexts(world.moment)
    padded = pad(world.histories)
    lengths = np.linalg.norm(
        user_vectors(plain_behaviour(), world.features.rows(np.arange(len(world.bucket))), padded), axis=1
    )
    coordinates = user_vectors(plain_behaviour(), context[:, 1:], padded) / lengths[:, None]
    assert coordinates.T @ coordinates / PEOPLE == pytest.approx(np.eye(TASTES), abs=1e-3)


def test_popularity_is_a_direction_of_its_own_of_mean_one(world):
    flat, _ = world.contexts(world.moment)
    parts = unpack(SPEC, flat)
    shares = world.known.shares()
    assert shares @ parts["context"][:, 0] == pytest.approx(1, abs=1e-5)
    assert not parts["projection"][:, 0].any()
    chosen = popular(world.known.prior, WIDTH)
    others = np.setdiff1d(np.arange(BUCKETS), chosen)
    assert not parts["context"][others, 0].any()
    ratio = parts["context"][chosen, 0] / shares[chosen]
    assert ratio == pytest.approx(np.full(WIDTH, ratio[0]), rel=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_the_direction_of_popularity_carries_none_of_the_noise(world, size):
    """Noise there could only be taken for a taste: profiles have nothing along it."""
    direction = np.zeros(COUNT)
    direction[:WIDTH] = popularity_direction(world.known.prior, popular(world.known.prior, WIDTH))
    other = np.random.default_rng(2).standard_normal(COUNT)
    noise = size * (np.outer(direction, other) + np.outer(other, direction))
    first, second = np.triu_indices(COUNT)
    triangle = noise[first, second] * np.where(first == second, 1.0, math.sqrt(2.0))
    clean, noisy = (world.contexts(moment)[1] for moment in (world.moment, world.moment + triangle))
    assert noisy[:, 0] == pytest.approx(clean[:, 0])
    assert noisy[:, 1:] @ noisy[:, 1:].T == pytest.approx(clean[:, 1:] @ clean[:, 1:].T, rel=1e-2, abs=1e-2)


def test_the_first_directions_are_those_that_explain_most(world):
    two, five = (EncoderSpec(TEXT, rank, BUCKETS, "linear") for rank in (3, 6))
    narrow, wide = (world.contexts(world.moment, spec)[1] for spec in (two, five))
    assert closeness(narrow[:, 1:], wide[:, 1:3]) > 0.9999


def test_targets_and_what_went_in_stay_as_they_were(world):
    start = np.full(SPEC.size, 7.0, np.float32)
    flat, _ = world.contexts(world.moment, start=start)
    assert (start == 7).all()
    assert (unpack(SPEC, flat)["target"] == 7).all()
    assert flat.dtype == np.float32


@pytest.mark.parametrize("rank", [1, 2, 3, COUNT + 5])
@pytest.mark.parametrize("scale", [0.0, -3.0, 1e6])
def test_any_noise_and_any_rank_give_finite_contexts(world, rank, scale):
    """A sum of noise alone, of nothing, or with no direction above it."""
    moment = scale * np.random.default_rng(4).standard_normal(profile_length(COUNT))
    flat, _ = world.contexts(moment, EncoderSpec(TEXT, rank, BUCKETS, "linear"))
    assert np.isfinite(flat).all()


def test_where_the_noise_hides_even_the_most_popular_item_contexts_are_finite(world):
    lost = replace(world, known=replace(world.known, peak=0.0))
    flat, _ = lost.contexts(world.moment)
    assert np.isfinite(flat).all()


# --- public sizes


signals = st.floats(0, 1e9)


@given(signals, signals, st.integers(2, 5000))
def test_more_signal_never_makes_an_encoder_smaller(one, other, buckets):
    low, high = sorted((one, other))
    assert 2 <= rank_of(low) <= rank_of(high) <= rank_of(math.inf) == LARGEST_RANK
    least, most = width_of(low, buckets), width_of(high, buckets)
    assert 2 <= least <= most <= width_of(math.inf, buckets) == min(buckets, LARGEST_WIDTH)


def test_the_width_keeps_below_the_directions_edge_of_the_noise():
    """Wigner: of people, a direction must be more than sqrt(2 width) / signal; here no more than a share of a half."""
    for signal in (30.0, 100.0, 1000.0, 1e4):
        assert math.sqrt(2.0 * width_of(signal, 10**6)) / signal < 0.5


def test_shares_are_what_the_prior_says_of_the_largest():
    known = Known(np.float32([0.0, math.log(2), math.log(8)]), 0.4, 9)
    assert known.shares() == pytest.approx([0.05, 0.1, 0.4], rel=1e-5)
