from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.recall.quantised import (
    BLOCK,
    EXACT_WIDTH,
    Int8Vectors,
    dequantise,
    int8_product,
    int8_similarity,
    quantise,
    unit_scale,
)
from shared.recall.scoring import similarity

rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=st.floats(-1e3, 1e3, width=32))
KINDS = ("cosine", "dot", "euclidean")


def unit(rng, n, width):
    vectors = rng.standard_normal((n, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(rows)
def test_each_coordinate_is_off_by_at_most_half_a_step_before_the_length_is_mended(vectors):
    largest = np.abs(vectors.astype(np.float64)).max(axis=1, keepdims=True)
    step = 127 * np.divide(vectors, largest, out=np.zeros(vectors.shape), where=largest > 0)
    assert np.abs(quantise(vectors).values - step).max() <= 0.5 + 1e-9


@given(rows)
def test_a_row_keeps_its_length_and_a_zero_row_stays_zero(vectors):
    wide = vectors.astype(np.float64)
    np.testing.assert_allclose(
        np.linalg.norm(dequantise(quantise(vectors)).astype(np.float64), axis=1),
        np.linalg.norm(wide, axis=1),
        rtol=1e-6,
        atol=1e-37,
    )


@given(rows)
def test_what_was_quantised_once_comes_back_with_the_same_bytes(vectors):
    once = quantise(vectors)
    if np.abs(vectors[vectors != 0]).min(initial=1.0) > 1e-30:  # below, a float has no digits left to scale
        np.testing.assert_array_equal(quantise(dequantise(once)).values, once.values)


def test_the_scale_of_a_unit_vector_follows_from_its_bytes():
    vectors = np.concatenate([unit(np.random.default_rng(0), 50, 384), np.zeros((1, 384), np.float32)])
    quantised = quantise(vectors)
    np.testing.assert_allclose(unit_scale(quantised.values), quantised.scale, rtol=1e-6)
    assert unit_scale(quantised.values)[-1] == 0


def test_products_are_whole_and_exact_up_to_the_largest_width_and_across_blocks():
    rng = np.random.default_rng(1)
    users = rng.integers(-127, 128, (3, EXACT_WIDTH)).astype(np.int8)
    items = rng.integers(-127, 128, (BLOCK + 5, EXACT_WIDTH)).astype(np.int8)
    users[0], items[0] = 127, 127  # the largest product there is
    expected = users.astype(np.int64) @ items.astype(np.int64).T
    np.testing.assert_array_equal(int8_product(users, items).astype(np.int64), expected)
    assert expected.max() == EXACT_WIDTH * 127**2 < 2**24


def test_wider_vectors_are_refused_because_float32_would_round_them():
    wide = np.full((1, EXACT_WIDTH + 1), 127, np.int8)
    with pytest.raises(ValueError, match="width 1041"):
        int8_product(wide, wide)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_bit_for_bit_what_the_documentation_says(kind):
    rng = np.random.default_rng(2)
    users, items = rng.standard_normal((4, 32)).astype(np.float32), quantise(unit(rng, 60, 32))
    own = quantise(users)
    product = (own.values.astype(np.int64) @ items.values.astype(np.int64).T).astype(np.float32)
    dot = product * (own.scale[:, None] * items.scale)
    lengths = [
        np.sqrt((v.values.astype(np.int64) ** 2).sum(1).astype(np.float64)).astype(np.float32) * v.scale
        for v in (own, items)
    ]
    expected = {
        "dot": dot,
        "cosine": dot / (lengths[0][:, None] * lengths[1][None] + np.float32(1e-6)),
        "euclidean": 2.0 * dot - np.square(lengths[1])[None] - np.square(lengths[0])[:, None],
    }[kind]
    np.testing.assert_array_equal(int8_similarity(kind, users, items), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_who_else_is_asked(kind):
    rng = np.random.default_rng(3)
    users, items = rng.standard_normal((9, 200)).astype(np.float32), quantise(unit(rng, 300, 200))
    together = int8_similarity(kind, users, items)
    for row in range(len(users)):
        np.testing.assert_array_equal(int8_similarity(kind, users[row : row + 1], items)[0], together[row])
    some = Int8Vectors(items.values[7:20], items.scale[7:20])
    np.testing.assert_array_equal(int8_similarity(kind, users, some), together[:, 7:20])


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_score_like_the_floats_they_came_from(kind):
    rng = np.random.default_rng(4)
    users, items = rng.standard_normal((20, 384)).astype(np.float32), unit(rng, 500, 384)
    items[3] = 0
    exact, rough = similarity(kind, users, items), int8_similarity(kind, users, quantise(items))
    lengths = np.linalg.norm(users, axis=1, keepdims=True)
    scale = {"cosine": 1.0, "dot": lengths, "euclidean": 2 * lengths}[kind]
    assert np.abs((exact - rough) / scale).max() < 0.005
    same = [len(np.intersect1d(*(np.argsort(-s)[:20] for s in pair))) for pair in zip(exact, rough, strict=True)]
    assert np.mean(same) > 18.5


def test_bytes_take_a_quarter_of_the_floats():
    vectors = unit(np.random.default_rng(5), 100, 384)
    assert quantise(vectors).nbytes == 100 * (384 + 4) < vectors.nbytes / 3.9
