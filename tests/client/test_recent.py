"""What is recent counts once, is of length one, and is nothing that a measurement should find."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.host import answer_all
from client.recent import AT_ONCE, recent_items, recent_rows
from shared.history import DAY, NOT_INTERESTED, History
from shared.privacy.clipping import clip_to_grid
from shared.protocol import is_declined, parse_sealed

ITEMS = 48
TODAY = date(2026, 3, 1)
MIDNIGHT = (TODAY - date(1970, 1, 1)).days * DAY  # at which today began


def a_history(times, *, items=None, kind=1, held_out=False):
    n = len(times)
    return History(
        item=np.asarray(range(n) if items is None else items, np.int32),
        kind=np.full(n, kind, np.int8),
        count=np.ones(n, np.float32),
        dwell=np.zeros(n, np.float32),
        rating=np.full(n, np.nan, np.float32),
        time=np.asarray(times, np.float64),
        held_out=np.full(n, held_out),
    )


def rows_of(histories, window=7):
    return np.concatenate(list(recent_rows(histories, ITEMS, TODAY, window)))


@pytest.mark.parametrize(("window", "recent"), [(1, [2, 3]), (2, [1, 2, 3]), (3, [0, 1, 2, 3]), (3650, [0, 1, 2, 3])])
def test_a_window_is_whole_days_of_the_clients_clock_today_included(window, recent):
    times = [MIDNIGHT - 2 * DAY, MIDNIGHT - DAY, MIDNIGHT, MIDNIGHT + DAY - 1, MIDNIGHT + DAY]  # the last: tomorrow
    assert recent_items(a_history(times), TODAY, window).tolist() == recent


def test_what_is_held_out_or_turned_down_is_not_in_it():
    times = [MIDNIGHT] * 3
    assert len(recent_items(a_history(times), TODAY, 7)) == 3
    assert len(recent_items(a_history(times, held_out=True), TODAY, 7)) == 0
    assert len(recent_items(a_history(times, kind=NOT_INTERESTED), TODAY, 7)) == 0


def test_an_item_counts_once_however_many_rows_it_has():
    twice = a_history([MIDNIGHT] * 4, items=[5, 5, 5, 9])
    assert rows_of([twice])[0, [5, 9]] == pytest.approx([0.5**0.5] * 2)


@given(seed=st.integers(0, 2**32), window=st.integers(1, 3650), back=st.integers(0, 2000))
def test_one_user_moves_a_sum_by_at_most_the_clip(history, seed, window, back):
    """Zero-out: the same cohort, one user's whole history taken away."""
    histories = [history(seed + n, 40, 4) for n in range(3)]
    today = TODAY - timedelta(days=back)
    gone = [histories[0], history(0, 0, 0), histories[2]]
    sums = []
    for people in (histories, gone):
        rows = np.concatenate(list(recent_rows(people, ITEMS, today, window)))
        assert np.linalg.norm(rows, axis=1).max() <= 1 + 1e-12
        sums.append(clip_to_grid(rows, 1.0, 1 << 16).sum(axis=0, dtype=np.int64))
    assert np.linalg.norm(sums[0] - sums[1]) <= 1 << 16


def test_a_crowd_comes_in_chunks_in_its_order(history):
    histories = [history(n, n % 9, 0) for n in range(2 * AT_ONCE + 3)]
    whole = rows_of(histories, 365)
    assert len(whole) == len(histories)
    for place in (0, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 2):
        assert np.array_equal(whole[place], rows_of([histories[place]], 365)[0])


def test_a_host_answers_with_the_days_of_its_own_clock(host, task, plan, history, message):
    bare = plan(epsilon=None)
    one = host([history(1, 20, 0)])
    vectors = []
    for attempt, day in enumerate((TODAY, TODAY - timedelta(days=180), date(2000, 1, 1)), 1):
        one.clock = lambda day=day: day
        asked = task("trending", plan=bare, run=f"r{attempt}")
        (answer,) = answer_all(one, {"1": message(asked)}).values()
        vectors.append(parse_sealed(answer, ITEMS))
    assert np.count_nonzero(vectors[0]) > 0
    assert not np.array_equal(vectors[0], vectors[1])
    assert not vectors[2].any()  # nothing happened yet


def test_a_count_of_another_catalogue_is_declined_and_nobody_pays(host, task, history, message):
    one = host([history(1, 20, 0)])
    asked = replace(task("trending"), items=ITEMS + 1)
    (answer,) = answer_all(one, {"1": message(asked)}).values()
    assert is_declined(answer)
    assert one.gate.spends == {}
