from __future__ import annotations

import numpy as np
import pytest

from shared.history import BEHAVIOUR_WIDTH, DAY, KINDS, NOT_INTERESTED, History, behaviour_features


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
    assert np.array_equal(behaviour_features(near)[:2], behaviour_features(far)[:2])
    assert behaviour_features(near)[:, 8] == pytest.approx([1 / 2, 1, 1])


def test_all_held_out_and_nothing_at_all():
    assert np.isfinite(behaviour_features(a_history(held_out=np.ones(3, bool)))).all()
    empty = History(*(column[:0] for column in vars(a_history()).values()))
    assert len(empty) == 0
    assert behaviour_features(empty).shape == (0, BEHAVIOUR_WIDTH)
