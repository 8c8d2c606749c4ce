"""What a training step sees: visible rows only, public sizes, each user's own chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.batch import BatchShape, draw
from shared.history import NOT_INTERESTED

ITEMS = 48
SHAPE = BatchShape(context=6, targets=4, negatives=20)


def drawn(histories, seeds=None, rows=None):
    seeds = range(len(histories)) if seeds is None else seeds
    rngs, free = [np.random.default_rng(s) for s in seeds], [np.zeros(ITEMS, bool)] * len(histories)
    return draw(histories, rngs, free, ITEMS, SHAPE, rows=rows)


@given(seed=st.integers(0, 2**32), length=st.integers(0, 40), held=st.integers(0, 40))
def test_nothing_held_out_is_touched(history, seed, length, held):
    one = history(seed, length, min(held, length))
    batch = drawn([one])
    read = batch.item[0, :6][(batch.behaviour[0] != 0).any(1)]
    wanted = batch.item[0, 6:10][batch.target[0] > 0]
    visible = set(one.item[~one.held_out].tolist())
    assert set(read.tolist()) | set(wanted.tolist()) <= visible
    assert not set(read.tolist()) & set(wanted.tolist())


def test_the_held_out_leave_no_trace_at_all(history):
    one = history(3, 20, 8)
    cut = {name: getattr(one, name)[:12] for name in ("item", "kind", "count", "dwell", "rating", "time", "held_out")}
    with_, without = drawn([one]), drawn([type(one)(**cut)])
    for name in ("item", "behaviour", "target", "rating", "negative"):
        assert np.array_equal(getattr(with_, name), getattr(without, name)), name


def test_not_interested_is_never_a_target_and_may_be_a_negative(history):
    one = history(4, 20, 0)
    one = replace(one, kind=np.full(20, NOT_INTERESTED, np.int8))
    batch = drawn([one])
    assert not batch.target.any()
    assert batch.behaviour[0, :, NOT_INTERESTED].sum() == 6
    assert batch.negative.all()


def test_a_negative_is_no_visible_positive(history):
    one = replace(history(5, 30, 10), kind=np.zeros(30, np.int8))
    batch = drawn([one])
    chosen = batch.item[0, 10:]
    visible = np.isin(chosen, one.item[~one.held_out])
    assert np.array_equal(batch.negative[0] == 0, visible)
    assert np.isin(chosen[batch.negative[0] > 0], one.item[one.held_out]).any()  # where it is must not show


@pytest.mark.parametrize(("length", "targets"), [(0, 0), (1, 1), (2, 1), (5, 2), (30, 4)])
def test_at_most_half_of_the_history_becomes_targets(history, length, targets):
    one = replace(history(6, length, 0), kind=np.zeros(length, np.int8))
    assert drawn([one]).target.sum() == targets


def test_an_unrated_target_counts_in_full(history):
    one = replace(history(7, 10, 0), kind=np.zeros(10, np.int8), rating=np.full(10, np.nan, np.float32))
    assert (drawn([one]).rating == 1).all()


def test_a_users_draw_does_not_depend_on_the_others(history):
    histories = [history(s, 5 * s, s) for s in range(5)]
    together = drawn(histories, rows=8)
    for row, one in enumerate(histories):
        alone = drawn([one], [row])
        for name in ("item", "behaviour", "target", "rating", "negative"):
            assert np.array_equal(getattr(together, name)[row], getattr(alone, name)[0])


def test_rows_beyond_the_histories_are_empty(history):
    batch = drawn([history(1)], rows=4)
    assert batch.item.shape == (4, 30)
    assert not batch.item[1:].any()
    assert not batch.behaviour[1:].any()
    assert not batch.target[1:].any()
    assert not batch.negative[1:].any()


def test_the_sizes_are_public(history):
    empty, full = drawn([history(1, 0, 0)]), drawn([history(1, 48, 5)])
    for name in ("item", "behaviour", "target", "rating", "negative"):
        assert getattr(empty, name).shape == getattr(full, name).shape
