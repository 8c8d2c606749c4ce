"""The profile release: what it sees of a history, and how much one history can change its sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.encoder.profile import (
    TEXT_SHARE,
    as_parameters,
    feature_map,
    packed,
    popular,
    popular_mean,
    popularity_direction,
    profile_length,
    profiles,
    unpacked,
)
from shared.history import NOT_INTERESTED, History

ITEMS, BUCKETS, WIDTH, TEXT = 40, 23, 9, 4


def a_history(rng, length, *, held_out=0, kind=0):
    return History(
        item=rng.choice(ITEMS, length, replace=False).astype(np.int32),
        kind=np.full(length, kind, np.int8),
        count=np.ones(length, np.float32),
        dwell=np.zeros(length, np.float32),
        rating=np.full(length, np.nan, np.float32),
        time=np.arange(length, dtype=np.float64),
        held_out=np.arange(length) >= length - held_out,
    )


def cut(history, rows):
    return History(*(column[rows] for column in vars(history).values()))


class World:
    """Public numbers: 40 items share 23 buckets, of which 9 are features of their own."""

    def __init__(self, seed=0, typical=12, spread=1.5):
        rng = np.random.default_rng(seed)
        self.compact = rng.standard_normal((ITEMS, TEXT)).astype(np.float32)
        self.bucket = rng.integers(0, BUCKETS, ITEMS)
        self.prior = rng.normal(0, spread, BUCKETS).astype(np.float32)
        self.typical, self.rng = typical, rng
        self.public = (self.compact, self.bucket, self.prior, WIDTH, typical)
        self.features = feature_map(*self.public)
        self.rows = self.features.rows(np.arange(ITEMS))


# --- features


def test_an_item_is_its_bucket_if_that_is_popular_and_its_text_off_the_popular_mean():
    world = World(typical=25)
    chosen = np.argsort(-world.prior)[:WIDTH].tolist()
    shares = np.exp(world.prior[chosen])
    direction = shares / np.linalg.norm(shares)
    weights = np.exp(world.prior[world.bucket])
    mean = (weights[:, None] * world.compact).sum(0) / weights.sum()
    assert world.rows.shape == (ITEMS, WIDTH + TEXT)
    for item, row in enumerate(world.rows):
        own = np.zeros(WIDTH)
        if world.bucket[item] in chosen:
            place = chosen.index(world.bucket[item])
            own[place] = 1.0
            own -= direction[place] * direction
        text = (world.compact[item] - mean) * np.sqrt(TEXT_SHARE / 25)
        assert row == pytest.approx(np.concatenate([own * np.sqrt(1 - TEXT_SHARE), text]), abs=1e-5)


def test_nobody_has_anything_along_popularity():
    """It is known already: whoever paid for it again would pay twice."""
    world = World()
    direction = popularity_direction(world.prior, popular(world.prior, WIDTH))
    assert np.linalg.norm(direction) == pytest.approx(1)
    assert world.rows[:, :WIDTH] @ direction == pytest.approx(np.zeros(ITEMS), abs=1e-6)


def test_a_popular_items_text_is_measured_from_what_popular_items_say():
    world = World()
    mean = popular_mean(world.compact, world.bucket, world.prior)
    weights = np.exp(world.prior[world.bucket])
    assert weights @ (world.compact - mean) == pytest.approx(np.zeros(TEXT), abs=1e-4)


@given(hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-5, 5, width=32)), st.integers(1, 30))
def test_the_popular_buckets_are_the_same_for_everybody(prior, width):
    chosen = popular(prior, width)
    assert len(chosen) == min(width, len(prior))
    assert chosen.tolist() == sorted(range(len(prior)), key=lambda bucket: (-prior[bucket], bucket))[:width]


@pytest.mark.parametrize("prior", [np.float32([3e38, -3e38, 0, 1]), np.float32([-3e38] * 4), np.float32([0, 0, 0, 90])])
def test_any_prior_that_a_server_may_send_gives_finite_features(prior):
    features = feature_map(np.eye(4, dtype=np.float32), np.arange(4), prior, 3, 1)
    assert np.isfinite(features.rows(np.arange(4))).all()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), typical=st.integers(0, 200), rank=st.integers(1, 6))
def test_a_basis_of_features_is_a_projection_of_texts_and_a_vector_a_bucket(seed, typical, rank):
    """Devices never build features to recommend: ``feature_map @ basis == compact @ projection + context[bucket]``."""
    world = World(seed, typical)
    basis = world.rng.standard_normal((WIDTH + TEXT, rank)).astype(np.float32)
    direction = popularity_direction(world.prior, popular(world.prior, WIDTH))
    basis[:WIDTH] -= np.outer(direction, direction @ basis[:WIDTH])
    projection, context = as_parameters(basis, *world.public)
    assert projection.shape == (TEXT, rank)
    assert context.shape == (BUCKETS, rank)
    want = world.rows @ basis
    assert world.compact @ projection + context[world.bucket] == pytest.approx(want, abs=1e-4)


# --- profiles


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 30))
def test_a_profile_has_length_one_whoever_it_is(seed, length):
    world = World(seed)
    (row,) = profiles(world.features, [a_history(world.rng, length)])
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


def test_a_profile_points_where_the_items_of_its_history_do():
    world = World()
    one = a_history(world.rng, 7)
    (row,) = profiles(world.features, [one])
    total = world.rows[one.item].sum(0)
    assert row == pytest.approx(total / np.linalg.norm(total), abs=1e-5)
    (against,) = profiles(world.features, [replace(one, kind=np.full(7, NOT_INTERESTED, np.int8))])
    assert against == pytest.approx(-row, abs=1e-5)


def test_who_shows_nothing_is_zeros():
    world = World()
    hidden = a_history(world.rng, 5, held_out=5)
    assert not profiles(world.features, [a_history(world.rng, 0), hidden]).any()


def test_what_is_held_out_is_not_in_a_profile():
    world = World()
    one = a_history(world.rng, 12, held_out=5)
    whole, seen = profiles(world.features, [one, cut(one, slice(7))])
    assert np.array_equal(whole, seen)


def test_a_profile_does_not_depend_on_who_else_is_here_not_even_in_its_last_bit():
    """At sizes at which a matrix library takes over."""
    rng = np.random.default_rng(1)
    wide = rng.standard_normal((ITEMS, 421)).astype(np.float32)
    features = feature_map(wide, np.arange(ITEMS), np.zeros(ITEMS, np.float32), 7, 25)
    people = [a_history(rng, int(length)) for length in rng.integers(0, ITEMS, 37)]
    together = profiles(features, people)
    for row, one in zip(together, people, strict=True):
        assert np.array_equal(row, profiles(features, [one])[0])


# --- their second moment


def rows_of(width):
    return hnp.arrays(np.float32, st.tuples(st.integers(0, 5), width), elements=st.floats(-2, 2, width=32))


@given(st.integers(1, 7).flatmap(lambda width: rows_of(st.just(width))))
def test_unpacking_a_sum_gives_the_second_moment(rows):
    width = rows.shape[1]
    assert packed(rows).shape == (len(rows), profile_length(width))
    moment = unpacked(packed(rows).sum(0), width)
    assert moment == pytest.approx(rows.astype(float).T @ rows.astype(float), abs=1e-9)
    assert np.array_equal(moment, moment.T)


@given(st.integers(1, 7).flatmap(lambda n: hnp.arrays(np.float64, n * (n + 1) // 2, elements=st.floats(-9, 9))))
def test_packing_keeps_every_length_so_noise_is_the_same_in_every_direction(triangle):
    size = int(np.sqrt(2 * len(triangle)))
    matrix = unpacked(triangle, size)
    assert np.linalg.norm(matrix) == pytest.approx(np.linalg.norm(triangle), abs=1e-9)


@given(rows_of(st.integers(1, 7)))
def test_a_packed_row_is_as_long_as_its_profile_squared(rows):
    assert np.linalg.norm(packed(rows), axis=1) == pytest.approx((rows.astype(float) ** 2).sum(1), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_one_history_changes_the_sum_by_at_most_one(data):
    """Zero-out: a history replaced by nothing. The clip then never bites, and noise is scaled to exactly this."""
    world = World(data.draw(st.integers(0, 2**32)), data.draw(st.integers(1, 100)), data.draw(st.floats(0, 9)))
    lengths = data.draw(st.lists(st.integers(0, ITEMS), min_size=1, max_size=6))
    people = [a_history(world.rng, n, held_out=int(world.rng.integers(0, n + 1))) for n in lengths]
    gone = data.draw(st.integers(0, len(people) - 1))
    total = packed(profiles(world.features, people)).sum(0)
    people[gone] = a_history(world.rng, 0)
    change = np.linalg.norm(total - packed(profiles(world.features, people)).sum(0))
    assert change <= 1 + 1e-6
    assert min(change, abs(change - 1)) < 1e-5  # everybody counts alike, however long the history
