from __future__ import annotations

import numpy as np
import pytest

from shared.history import BEHAVIOUR_WIDTH, DAY, KINDS, NOT_INTERESTED, History, stacked
from shared.history import behaviour_features as features_of


def a_history(**columns):
    usual = {
        "item": np.array([3, 1, 2], np.int32),
        "kind": np.array([0, 1, NOT_INTERESTED], np.int8),
        "count": np.array([1, 3, 1], np.float32),
        "dwell": np.array([0, 0.5, 1], np.float32),
        "rating": np.array([np.nan, 0.75, 0], np.float32),
        "time": np.array([0, 30, 60]) * DAY,
        "held_out": np.zeros(3, bool),
    }
    return History(**(usual | columns))


def behaviour_features(*histories):
    """What training sees."""
    return features_of(stacked(histories))


def test_one_row_a_behaviour_and_its_kind_is_one_hot():
    features = behaviour_features(a_history())
    assert features.shape == (3, BEHAVIOUR_WIDTH)
    assert features.dtype == np.float32
    assert features[:, : len(KINDS)].tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_counts_are_log_scaled_and_an_unknown_rating_is_a_middling_one():
    features = behaviour_features(a_history())
    assert features[:, 5] == pytest.approx([0, 1, 0], abs=1e-6)
    assert features[:, 6].tolist() == [0, 0.5, 1]
    assert features[:, 7].tolist() == [0.5, 0.75, 0]


def test_recency_is_one_for_the_newest_and_halves_after_a_month():
    assert behaviour_features(a_history())[:, 8] == pytest.approx([1 / 3, 1 / 2, 1])


def test_nothing_depends_on_a_clock():
    old = a_history()
    assert np.array_equal(behaviour_features(old), behaviour_features(a_history(time=old.time + 1000 * DAY)))


def test_what_is_held_out_tells_the_others_nothing_by_its_time():
    held_out = np.array([False, False, True])
    near, far = (a_history(held_out=held_out, time=np.array([0, 30, last]) * DAY) for last in (31, 3000))
    assert np.array_equal(behaviour_features(near), behaviour_features(far))
    assert behaviour_features(near)[:, 8] == pytest.approx([1 / 2, 1])


def test_all_held_out_and_nothing_at_all():
    assert behaviour_features(a_history(held_out=np.ones(3, bool))).shape == (0, BEHAVIOUR_WIDTH)
    assert behaviour_features().shape == (0, BEHAVIOUR_WIDTH)
    empty = History(*(column[:0] for column in vars(a_history()).values()))
    assert len(empty) == 0
    assert behaviour_features(empty).shape == (0, BEHAVIOUR_WIDTH)


def cut(history, rows):
    return History(*(column[rows] for column in vars(history).values()))


def some(seed=0):
    rng = np.random.default_rng(seed)
    for length in (3, 0, 1, 7, 0, 40, 2):
        columns = {"item": rng.integers(0, 99, length).astype(np.int32), "kind": rng.integers(0, 5, length)}
        columns |= {"count": rng.integers(1, 99, length).astype(np.float32), "time": rng.uniform(0, 1e9, length)}
        columns |= {"dwell": rng.random(length, np.float32), "rating": rng.random(length, np.float32)}
        yield a_history(**columns, held_out=rng.random(length) < 0.3)


def test_many_users_at_once_are_as_each_alone_bit_for_bit():
    people = list(some())
    together = behaviour_features(*people)
    assert np.array_equal(together, np.concatenate([behaviour_features(one) for one in people]))


@pytest.mark.parametrize("visible", ["train", "all"])
def test_stacked_rows_keep_their_order_and_know_whose_they_are(visible):
    people = list(some())
    seen = stacked(people, visible=visible)
    shown = [cut(one, ~one.held_out if visible == "train" else slice(None)) for one in people]
    assert seen.length.tolist() == [len(one) for one in shown]
    assert seen.user.tolist() == [user for user, one in enumerate(shown) for _ in range(len(one))]
    assert seen.place.tolist() == [place for one in shown for place in range(len(one))]
    assert not seen.rows.held_out.any()
    for name in ("item", "kind", "count", "dwell", "rating", "time"):
        assert np.array_equal(getattr(seen.rows, name), np.concatenate([getattr(one, name) for one in shown])), name


def test_of_nobody_there_is_nothing():
    seen = stacked([])
    assert len(seen.rows) == len(seen.user) == len(seen.length) == 0
