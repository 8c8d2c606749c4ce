"""What a training step sees: visible rows only, public sizes, each user's own chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.batch import BatchShape, draw, words
from shared.history import NOT_INTERESTED, behaviour_features, stacked

ITEMS = 48
SHAPE = BatchShape(context=6, targets=4, negatives=20)


def drawn(histories, seeds=None, rows=None, visit=0):
    seeds = list(range(len(histories))) if seeds is None else seeds
    free = [np.zeros(ITEMS, bool)] * len(histories)
    return draw(stacked(histories), seeds, free, ITEMS, SHAPE, visit=visit, rows=rows)


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


FIELDS = ("item", "behaviour", "target", "rating", "negative")


def by_hand(one, key, barred, visit):
    """One user, row by row, with the same words."""
    visible = [row for row in range(len(one)) if not one.held_out[row]]
    chance = words(np.array([key], np.uint64), 2 * visit, np.arange(len(visible))).tolist()
    liked = [one.kind[row] != NOT_INTERESTED for row in visible]
    wanted = [fond and not barred[one.item[row]] for row, fond in zip(visible, liked, strict=True)]
    order = sorted(range(len(visible)), key=lambda n: (not wanted[n], not liked[n], chance[n]))
    count = min(SHAPE.targets, sum(wanted), max(1, sum(wanted) // 2))
    features = behaviour_features(stacked([one]))
    batch = drawn([])
    batch = {name: np.zeros((1, *getattr(batch, name).shape[1:]), getattr(batch, name).dtype) for name in FIELDS}
    batch["rating"][:] = 1.0
    for place, n in enumerate(order[:count]):
        batch["item"][0, SHAPE.context + place] = one.item[visible[n]]
        batch["target"][0, place] = 1.0
        rating = one.rating[visible[n]]
        batch["rating"][0, place] = 1.0 if np.isnan(rating) else rating
    for place, n in enumerate(sorted(order[count : count + SHAPE.context])):
        batch["item"][0, place] = one.item[visible[n]]
        batch["behaviour"][0, place] = features[n]
    own = {int(one.item[row]) for row, fond in zip(visible, liked, strict=True) if fond}
    drawn_words = words(np.array([key], np.uint64), 2 * visit + 1, np.arange(SHAPE.negatives)).tolist()
    for place, word in enumerate(drawn_words if visible else []):
        item = (word >> 32) * ITEMS >> 32
        batch["item"][0, SHAPE.context + SHAPE.targets + place] = item
        batch["negative"][0, place] = not barred[item] and item not in own
    return batch


@given(seed=st.integers(0, 2**32), key=st.integers(0, 2**64 - 1), visit=st.integers(0, 5))
def test_all_users_at_once_are_drawn_as_row_by_row(history, seed, key, visit):
    rng = np.random.default_rng(seed)
    people = [history(seed + n, int(rng.integers(0, 40)), int(rng.integers(0, 5))) for n in range(4)]
    masks = [rng.random(ITEMS) < 0.3, np.zeros(ITEMS, bool)]
    barred = [masks[0], masks[1], masks[0], rng.random(ITEMS) < 0.8]
    keys = [(key + n) % 2**64 for n in range(4)]
    batch = draw(stacked(people), keys, barred, ITEMS, SHAPE, visit=visit)
    for user in range(4):
        alone = by_hand(people[user], keys[user], barred[user], visit)
        for name in FIELDS:
            assert np.array_equal(getattr(batch, name)[user], alone[name][0]), name


def test_every_visit_draws_anew_and_so_does_every_key(history):
    people = [history(s, 40, 0) for s in range(9)]
    first, second, other = drawn(people), drawn(people, visit=1), drawn(people, range(100, 109))
    assert (first.item != second.item).any(1).all()
    assert (first.item != other.item).any(1).all()
    assert np.array_equal(first.item, drawn(people).item)


def test_words_are_those_of_the_paper_and_look_uniform():
    """SplitMix64 from state 0 begins with these (the reference of Vigna's splitmix64.c)."""
    from client.batch import _mixed

    golden = np.uint64(0x9E3779B97F4A7C15)
    assert _mixed(np.array([golden])).tolist() == [0xE220A8397B1DCDAF]
    ones = np.unpackbits(words(np.arange(100, dtype=np.uint64)[:, None], 3, np.arange(1000)).view(np.uint8))
    assert abs(ones.mean() - 0.5) < 5 * 0.5 / np.sqrt(ones.size)


def test_targets_and_negatives_are_uniform(history):
    one = replace(history(8, 12, 0), kind=np.zeros(12, np.int8))
    people = [one] * 3000
    batch = drawn(people)
    times = np.bincount(batch.item[:, 6:10].ravel(), minlength=ITEMS)[one.item]
    expected = 3000 * 4 / 12
    assert ((times - expected) ** 2 / expected).sum() < 35  # chi-square, 11 degrees: one in 4,000 is larger
    negatives = np.bincount(batch.item[:, 10:].ravel(), minlength=ITEMS)
    expected = 3000 * 20 / ITEMS
    assert ((negatives - expected) ** 2 / expected).sum() < 90  # 47 degrees


def test_a_users_draw_does_not_depend_on_the_others(history):
    histories = [history(s, 5 * s, s) for s in range(5)]
    together = drawn(histories, rows=8)
    for row, one in enumerate(histories):
        alone = drawn([one], [row])
        for name in FIELDS:
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
