"""The linear encoder: contexts make the user, targets are what is trained, the prior is not touched."""

from __future__ import annotations

import numpy as np
import pytest

from shared.encoder.encode import (
    at_length_one,
    context_vectors,
    item_vectors,
    log_popularity_of,
    pad,
    user_groups,
    user_vectors,
)
from shared.encoder.spec import EncoderSpec, initial_parameters, plain_behaviour, unpack
from shared.history import History

ITEMS = 11
SPEC = EncoderSpec(text_width=6, rank=4, buckets=7, kind="linear")
MEAN = EncoderSpec(text_width=6, rank=4, buckets=7, kind="mean")


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    flat = rng.standard_normal(SPEC.size).astype(np.float32)
    compact = rng.standard_normal((ITEMS, 6)).astype(np.float32)
    return flat, compact, rng.integers(0, 7, ITEMS)


def histories():
    rng = np.random.default_rng(1)
    return [
        History(
            item=rng.integers(0, ITEMS, length).astype(np.int32),
            kind=rng.integers(0, 5, length).astype(np.int8),
            count=np.ones(length, np.float32),
            dwell=np.zeros(length, np.float32),
            rating=np.full(length, np.nan, np.float32),
            time=np.zeros(length),
            held_out=np.zeros(length, bool),
        )
        for length in (5, 0, 1, 9)
    ]


def test_an_update_is_the_end_of_the_flat_vector_the_targets():
    flat = np.arange(SPEC.size, dtype=np.float32)
    assert list(SPEC.shapes()) == ["projection", "context", "target"]
    assert SPEC.trained == 7 * 4
    assert np.array_equal(flat[-SPEC.trained :], unpack(SPEC, flat)["target"].ravel())
    assert MEAN.trained == MEAN.size


def test_it_reads_the_compact_texts_and_the_two_towers_all_of_them():
    assert (SPEC.reads, MEAN.reads) == ("compact", "text")


def test_in_round_zero_nothing_is_known():
    assert not initial_parameters(SPEC, np.random.default_rng(0)).any()


def test_users_are_compared_with_targets_and_made_of_contexts(world):
    flat, compact, bucket = world
    parts = unpack(SPEC, flat)
    assert np.array_equal(item_vectors(SPEC, flat, compact, bucket), parts["target"][bucket])
    for item, row in enumerate(context_vectors(SPEC, flat, compact, bucket)):
        assert row == pytest.approx(compact[item] @ parts["projection"] + parts["context"][bucket[item]], abs=1e-5)


def test_the_two_towers_share_their_vectors(world):
    _, text, bucket = world
    flat = np.random.default_rng(2).standard_normal(MEAN.size).astype(np.float32)
    assert np.array_equal(context_vectors(MEAN, flat, text, bucket), item_vectors(MEAN, flat, text, bucket))


def test_a_users_vector_has_length_one_or_none_and_other_groups_are_plain_means(world):
    flat, compact, bucket = world
    context, lexical = context_vectors(SPEC, flat, compact, bucket), np.eye(ITEMS, 3, dtype=np.float32)
    items = {"text": item_vectors(SPEC, flat, compact, bucket), "lexical": lexical}
    padded = pad(histories())
    users = user_groups(SPEC, flat, items, context, padded)
    assert np.linalg.norm(users["text"], axis=1) == pytest.approx([1, 0, 1, 1], abs=1e-5)
    mean = user_vectors(plain_behaviour(), context, padded)
    assert users["text"] == pytest.approx(mean / np.maximum(np.linalg.norm(mean, axis=1), 1e-9)[:, None], abs=1e-5)
    assert np.array_equal(users["lexical"], user_vectors(plain_behaviour(), lexical, padded))


def test_rows_at_length_one_keep_their_direction_and_zeros_stay():
    rows = np.float32([[3, 4], [0, 0], [1e-10, 0]])
    assert at_length_one(rows) == pytest.approx(np.float32([[0.6, 0.8], [0, 0], [1, 0]]), abs=1e-6)


def test_the_prior_is_as_it_was_released(world):
    flat, *_ = world
    prior = np.linspace(-1, 1, 7).astype(np.float32)
    assert np.array_equal(log_popularity_of(SPEC, flat, prior), prior)
    parameters = np.random.default_rng(3).standard_normal(MEAN.size).astype(np.float32)
    assert np.array_equal(log_popularity_of(MEAN, parameters, prior), prior + unpack(MEAN, parameters)["bias"])
