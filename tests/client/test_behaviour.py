from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.behaviour import Behaviour, Events, chosen, events_of, history_of, joined, oldest_first, pseudonym
from client.store import Event, with_event
from shared.errors import DataError
from shared.history import KINDS, NOT_INTERESTED, History

SECRET = bytes(32)
behaviours = st.builds(
    Behaviour,
    item=st.sampled_from("abcdef"),
    kind=st.sampled_from(KINDS),
    time=st.integers(0, 9).map(float),
    dwell=st.floats(0, 1, width=32),
    rating=st.floats(0, 1, width=32) | st.just(math.nan),
)


def spelt(events):
    """NaN is not equal to NaN, its spelling is."""
    return [repr(one) for one in events]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"item": ""}, "item ''"),
        ({"item": "x" * 201}, "1 to 200"),
        ({"item": "a\n"}, "printable"),
        ({"item": "\ud800"}, "printable"),
        ({"item": 5}, "item 5"),
        ({"kind": "like"}, "kind 'like'"),
        ({"time": math.nan}, "time nan"),
        ({"time": math.inf}, "time inf"),
        ({"time": -1.0}, "time -1.0"),
        ({"time": 1.7e12}, "no milliseconds"),
        ({"dwell": 1.5}, "dwell 1.5"),
        ({"dwell": math.nan}, "dwell nan"),
        ({"rating": -0.1}, "rating -0.1"),
    ],
)
def test_an_event_out_of_range_is_refused_by_name(wrong, says):
    with pytest.raises(DataError, match=says):
        Behaviour(**{"item": "a", "kind": "view", "time": 0.0} | wrong)


@given(st.lists(behaviours, max_size=30))
def test_columns_read_like_the_list_that_they_hold(events):
    columns = events_of(events)
    assert spelt(columns) == spelt(events)
    assert len(columns) == len(events)
    assert spelt(columns[1:4]) == spelt(events[1:4])
    assert spelt(reversed(columns)) == spelt(reversed(events))
    assert events_of(columns) is columns


@given(st.lists(st.lists(behaviours, max_size=8), max_size=4))
def test_lists_are_joined_in_order(lists):
    assert spelt(joined([events_of(one) for one in lists])) == spelt([event for one in lists for event in one])


def test_events_of_one_moment_keep_the_order_in_which_they_came():
    events = [Behaviour("b", "view", 2.0), Behaviour("c", "view", 1.0), Behaviour("a", "view", 2.0)]
    assert [one.item for one in oldest_first(events_of(events))] == ["c", "b", "a"]


def test_what_is_chosen_is_of_these_items_and_older():
    events = events_of([Behaviour("a", "view", 1.0), Behaviour("b", "view", 1.0), Behaviour("a", "view", 2.0)])
    assert chosen(events, None, None).tolist() == [True, True, True]
    assert chosen(events, ["a"], None).tolist() == [True, False, True]
    assert chosen(events, None, 2.0).tolist() == [True, True, False]
    assert chosen(events, ["a"], 2.0).tolist() == [True, False, False]
    assert chosen(events, [], None).tolist() == [False, False, False]
    assert chosen(events_of([]), ["a"], 2.0).tolist() == []


@given(st.lists(behaviours, max_size=30))
def test_a_history_is_what_the_store_folds_event_by_event(events):
    ids = "abcde"  # f is of another catalogue
    slow = history_of([], ids, SECRET)
    for one in sorted(events, key=lambda event: event.time):
        if one.item in ids:
            slow = with_event(slow, Event(ids.index(one.item), one.kind, one.time, one.dwell, one.rating))
    fast = history_of(events, ids, SECRET)
    for name in ("item", "kind", "count", "dwell", "rating", "time", "held_out"):
        left, right = getattr(fast, name), getattr(slow, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def liked(numbers) -> list[Behaviour]:
    return [Behaviour(f"item {number}", "purchase", float(number)) for number in numbers]


def held(history: History, ids) -> set[str]:
    return {ids[one] for one in history.item[history.held_out]}


def test_one_in_ten_liked_items_is_held_out_and_stays_so_whatever_comes_or_goes():
    ids = [f"item {number}" for number in range(2000)]
    all_of_them = held(history_of(liked(range(2000)), ids, SECRET), ids)
    half = held(history_of(liked(range(0, 2000, 2)), ids[::-1], SECRET), ids[::-1])
    assert 140 <= len(all_of_them) <= 260
    assert half == {one for one in all_of_them if int(one.split()[1]) % 2 == 0}
    assert held(history_of(liked(range(2000)), ids, b"x" * 32), ids) != all_of_them


def test_nothing_is_held_out_of_fewer_than_ten_and_nothing_that_was_turned_down():
    ids = [f"item {number}" for number in range(400)]
    chosen_ones = held(history_of(liked(range(400)), ids, SECRET), ids)
    few = [Behaviour(one, "view", 1.0) for one in sorted(chosen_ones)[:9]]
    assert not history_of(few, ids, SECRET).held_out.any()
    away = [Behaviour(one, "not_interested", 500.0) for one in chosen_ones]
    history = history_of([*liked(range(400)), *away], ids, SECRET)
    assert (history.kind[[ids[one] in chosen_ones for one in history.item]] == NOT_INTERESTED).all()
    assert not history.held_out.any()


def test_a_pseudonym_depends_on_the_secret_and_the_purpose():
    names = {pseudonym(item, secret, why) for item in "ab" for secret in (SECRET, b"x" * 32) for why in ("p", "q")}
    assert len(names) == 8
    assert all(len(name) == 32 for name in names)


def test_no_events_are_an_empty_history():
    assert len(history_of([], ["a"], SECRET)) == 0
    assert isinstance(joined([]), Events)
