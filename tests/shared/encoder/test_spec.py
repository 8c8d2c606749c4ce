from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.encoder.spec import EncoderSpec, bucket_of, initial_parameters, plain_behaviour, unpack
from shared.history import KINDS, NOT_INTERESTED

SPEC = EncoderSpec(text_width=6, rank=3, buckets=5)


def test_the_flat_vector_is_its_parts_end_to_end():
    flat = np.arange(SPEC.size, dtype=np.float32)
    parts = unpack(SPEC, flat)
    assert SPEC.size == 6 * 3 + 5 * 3 + 5 + 9
    assert {name: part.shape for name, part in parts.items()} == SPEC.shapes()
    assert np.array_equal(np.concatenate([part.ravel() for part in parts.values()]), flat)


def test_parts_are_views():
    flat = np.zeros(SPEC.size, np.float32)
    unpack(SPEC, flat)["bias"][2] = 7.0
    assert flat.sum() == 7.0


@pytest.mark.parametrize("shape", [(0,), (SPEC.size - 1,), (SPEC.size + 1,), (1, SPEC.size)])
def test_a_vector_of_another_length_is_a_wrong_call(shape):
    with pytest.raises(ValueError, match=rf"expected \({SPEC.size},\)"):
        unpack(SPEC, np.zeros(shape, np.float32))


def test_round_zero_keeps_lengths_and_knows_nothing_of_items():
    spec = EncoderSpec(text_width=384, rank=256, buckets=5)
    parts = unpack(spec, initial_parameters(spec, np.random.default_rng(0)))
    text = np.random.default_rng(1).standard_normal((50, 384))
    ratio = np.linalg.norm(text @ parts["projection"], axis=1) / np.linalg.norm(text, axis=1)
    assert ratio == pytest.approx(1, abs=0.2)
    assert not parts["identity"].any()
    assert not parts["bias"].any()
    assert np.array_equal(parts["behaviour"], plain_behaviour())


def test_plain_behaviour_likes_every_kind_but_one():
    assert [plain_behaviour()[i] for i in range(len(KINDS))] == [-1.0 if i == NOT_INTERESTED else 1.0 for i in range(5)]
    assert not plain_behaviour()[len(KINDS) :].any()


def test_items_have_a_row_each_while_there_is_room():
    assert bucket_of(("b", "a", "c"), 3).tolist() == [0, 1, 2]
    assert bucket_of((), 3).tolist() == []


def test_hashed_rows_are_the_same_on_every_machine():
    # golden: clients and server, today and tomorrow, must agree
    assert bucket_of(("a", "b", "c", "d"), 3).tolist() == [1, 1, 2, 2]
    assert bucket_of(("a", "b", "c", "d"), 3).dtype == np.int64


@given(st.lists(st.text(max_size=4), min_size=1, max_size=30, unique=True), st.integers(1, 30))
def test_a_row_lies_in_range_and_a_hashed_one_does_not_depend_on_the_catalogue(ids, buckets):
    rows = bucket_of(tuple(ids), buckets)
    assert len(rows) == len(ids)
    assert ((rows >= 0) & (rows < buckets)).all()
    if len(ids) > buckets:
        assert np.array_equal(bucket_of(tuple(ids[::-1]), buckets)[::-1], rows)


def test_hashed_rows_are_spread_evenly():
    counts = np.bincount(bucket_of(tuple(map(str, range(20_000))), 10), minlength=10)
    assert counts == pytest.approx(2000, rel=0.1)
