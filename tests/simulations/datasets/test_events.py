from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.history import KINDS
from simulations.datasets.dataset import Items
from simulations.datasets.events import Events, aggregate, dataset_from_events, repeats_note

VIEW, PURCHASE, RATING, DWELL, NOT_INTERESTED = range(5)


def events(*rows):
    """Rows of (user, item, kind, count, dwell, rating, time)."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * 7
    types = (np.int32, np.int32, np.int8, np.float32, np.float32, np.float32, np.float64)
    return Events(*(np.array(column, kind) for column, kind in zip(columns, types, strict=True)))


def naive(rows):
    """The same sentence by sentence, one pair after the other."""
    pairs = {}
    for row in rows:
        pairs.setdefault(row[:2], []).append(row)
    out = []
    for (user, item), group in pairs.items():
        by_time = sorted(group, key=lambda row: row[6])  # stable: file order among equal times
        kinds = [row[2] for row in by_time]
        strongest = next(k for k in (PURCHASE, RATING, DWELL, VIEW, NOT_INTERESTED) if k in kinds)
        ratings = [row[5] for row in by_time if not math.isnan(row[5])]
        out.append(
            (
                user,
                item,
                NOT_INTERESTED if kinds[-1] == NOT_INTERESTED else strongest,
                sum(row[3] for row in group),
                max(row[4] for row in group),
                ratings[-1] if ratings else math.nan,
                min(row[6] for row in group),
            )
        )
    return out


def as_rows(found):
    fields = (found.user, found.item, found.kind, found.count, found.dwell, found.rating, found.time)
    return [tuple(float(value) for value in row) for row in zip(*fields, strict=True)]


rows = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 4),
        st.integers(1, 3),
        st.sampled_from([0.0, 0.25, 0.5]),
        st.sampled_from([math.nan, 0.0, 1.0]),
        st.integers(0, 3),
    ),
    max_size=12,
)


@given(rows)
def test_aggregation_is_what_the_naive_loop_does(drawn):
    expected = [tuple(float(value) for value in row) for row in naive(drawn)]
    np.testing.assert_array_equal(np.array(as_rows(aggregate(events(*drawn), 3))), np.array(expected))


def test_the_kinds_are_those_of_the_history():
    assert KINDS == ("view", "purchase", "rating", "dwell", "not_interested")


def test_not_interested_wins_only_as_the_latest_word():
    last = aggregate(events((0, 0, PURCHASE, 1, 0, math.nan, 1), (0, 0, NOT_INTERESTED, 1, 0, math.nan, 2)), 1)
    earlier = aggregate(events((0, 0, NOT_INTERESTED, 1, 0, math.nan, 1), (0, 0, VIEW, 1, 0, math.nan, 2)), 1)
    assert (last.kind[0], earlier.kind[0]) == (NOT_INTERESTED, VIEW)


def test_rows_keep_the_order_in_which_pairs_first_appear_in_the_file_not_the_order_of_time():
    found = aggregate(events((1, 0, VIEW, 1, 0, 0, 9), (0, 1, VIEW, 1, 0, 0, 5), (1, 0, VIEW, 1, 0, 0, 1)), 2)
    assert list(zip(found.user, found.item, strict=True)) == [(1, 0), (0, 1)]
    assert list(found.time) == [1.0, 5.0]


def test_a_data_set_says_how_many_rows_were_repeats():
    items = Items(("a",), ("a",), ("a",), ((),))
    made = dataset_from_events(
        events((0, 0, VIEW, 1, 0, 0, 1), (0, 0, VIEW, 2, 0, 0, 2)),
        name="x",
        licence="",
        public=False,
        items=items,
        users=["u"],
        notes=["read"],
    )
    assert made.notes == (
        "read",
        "1 of 2 events repeat a (user, item) pair: counts added up, 1 rows remain",
    )
    assert made.count[0] == 3
    assert repeats_note(2, 2) == ()
