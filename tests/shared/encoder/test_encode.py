from __future__ import annotations

import numpy as np
import pytest

from shared.encoder.encode import item_vectors, pad, user_groups, user_vectors
from shared.encoder.spec import EncoderSpec, plain_behaviour, unpack
from shared.history import BEHAVIOUR_WIDTH, NOT_INTERESTED, History, behaviour_features, stacked

ITEMS = 11
SPEC = EncoderSpec(text_width=6, rank=4, buckets=7)


def a_history(rng, length, *, held_out=0.0):
    return History(
        item=rng.integers(0, ITEMS, length).astype(np.int32),
        kind=rng.integers(0, 5, length).astype(np.int8),
        count=rng.integers(1, 9, length).astype(np.float32),
        dwell=rng.random(length).astype(np.float32),
        rating=np.where(rng.random(length) < 0.5, np.nan, rng.random(length)).astype(np.float32),
        time=rng.random(length) * 1e7,
        held_out=rng.random(length) < held_out,
    )


def histories(seed=0, *, held_out=0.0):
    rng = np.random.default_rng(seed)
    return [a_history(rng, length, held_out=held_out) for length in (5, 0, 1, 9)]


def without(history, rows):
    return History(*(column[rows] for column in vars(history).values()))


def naive_user_vector(weights, vectors, history):
    """The pseudo-code: a loop over the behaviours."""
    total, size = np.zeros(vectors.shape[1]), 0.0
    for item, traits in zip(history.item, behaviour_features(stacked([history])), strict=True):
        weight = sum(float(w) * float(t) for w, t in zip(weights, traits, strict=True))
        total += weight * vectors[item]
        size += abs(weight)
    return total / (size + 1e-6)


def test_a_users_vector_is_the_weighted_mean_of_its_items():
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(BEHAVIOUR_WIDTH).astype(np.float32)
    vectors = rng.standard_normal((ITEMS, 3)).astype(np.float32)
    got = user_vectors(weights, vectors, pad(histories()))
    assert got.dtype == np.float32
    assert got == pytest.approx(np.array([naive_user_vector(weights, vectors, h) for h in histories()]), abs=1e-5)


def test_an_items_vector_is_its_projected_text_plus_its_identity():
    rng = np.random.default_rng(2)
    flat = rng.standard_normal(SPEC.size).astype(np.float32)
    text, bucket = rng.standard_normal((ITEMS, 6)).astype(np.float32), rng.integers(0, 7, ITEMS)
    parts = unpack(SPEC, flat)
    for item, vector in enumerate(item_vectors(SPEC, flat, text, bucket)):
        naive = [
            sum(text[item, i] * parts["projection"][i, r] for i in range(6)) + parts["identity"][bucket[item], r]
            for r in range(4)
        ]
        assert vector == pytest.approx(naive, abs=1e-5)


def test_an_empty_history_is_a_zero_vector_also_when_everything_is_held_out():
    rng = np.random.default_rng(3)
    hidden = a_history(rng, 4, held_out=1.0)
    padded = pad([a_history(rng, 0), hidden])
    vectors = rng.standard_normal((ITEMS, 3)).astype(np.float32)
    assert not user_vectors(plain_behaviour(), vectors, padded).any()
    assert pad([]).item.shape == (0, 1)


def test_what_is_held_out_is_hidden_from_training():
    for history in histories(4, held_out=0.5):
        seen, alone = pad([history]), pad([without(history, ~history.held_out)])
        assert np.array_equal(seen.item, alone.item)
        assert np.array_equal(seen.behaviour, alone.behaviour)


def test_serving_and_the_final_test_see_everything():
    for history in histories(5, held_out=0.5):
        whole = pad([history], visible="all")
        length = len(history)
        assert np.array_equal(whole.item[0, :length], history.item)
        plain = History(**(vars(history) | {"held_out": np.zeros(length, bool)}))
        assert np.array_equal(whole.behaviour[0, :length], behaviour_features(stacked([plain])))


def test_a_user_does_not_depend_on_who_is_encoded_beside_it():
    vectors = np.random.default_rng(6).standard_normal((ITEMS, 3)).astype(np.float32)
    together = user_vectors(plain_behaviour(), vectors, pad(histories()))
    for row, history in zip(together, histories(), strict=True):
        assert row == pytest.approx(user_vectors(plain_behaviour(), vectors, pad([history]))[0], abs=1e-6)


def test_not_interested_pushes_away():
    one = History(
        item=np.array([2], np.int32),
        kind=np.array([NOT_INTERESTED], np.int8),
        count=np.ones(1, np.float32),
        dwell=np.zeros(1, np.float32),
        rating=np.full(1, np.nan, np.float32),
        time=np.zeros(1),
        held_out=np.zeros(1, bool),
    )
    vectors = np.eye(ITEMS, dtype=np.float32)
    assert user_vectors(plain_behaviour(), vectors, pad([one]))[0] @ vectors[2] == pytest.approx(-1, abs=1e-5)


def test_only_the_text_group_is_read_with_learned_weights():
    flat = np.zeros(SPEC.size, np.float32)
    unpack(SPEC, flat)["behaviour"][:] = 2.0 * np.arange(BEHAVIOUR_WIDTH)
    items = dict.fromkeys(("text", "lexical"), np.random.default_rng(7).standard_normal((ITEMS, 3)).astype(np.float32))
    padded = pad(histories())
    groups = user_groups(SPEC, flat, items, items["text"], padded)
    assert np.array_equal(groups["lexical"], user_vectors(plain_behaviour(), items["lexical"], padded))
    assert np.array_equal(groups["text"], user_vectors(unpack(SPEC, flat)["behaviour"], items["text"], padded))
    assert not np.allclose(groups["text"], groups["lexical"])
