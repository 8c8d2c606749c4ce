from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.privacy.participation import choose, eligible, remaining

clients = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=12)
counts = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 5))


@given(st.integers(0, 10), st.integers(0, 10))
def test_what_remains_is_never_negative(used, limit):
    assert remaining(used, limit) == max(limit - used, 0)


@given(clients, counts, st.integers(0, 5))
def test_only_who_has_a_participation_left_may_be_asked(names, used, limit):
    allowed = eligible(names, used, limit)
    assert allowed == [name for name in names if used.get(name, 0) < limit]


@given(clients, counts, st.integers(0, 15), st.integers(0, 99))
def test_a_cohort_is_made_of_those_asked_least_in_their_order(names, used, size, seed):
    cohort = choose(names, used, size, np.random.default_rng(seed))
    assert len(cohort) == min(size, len(names))
    assert cohort == [name for name in names if name in cohort]
    left_out = [used.get(name, 0) for name in names if name not in cohort]
    if cohort and left_out:
        assert max(used.get(name, 0) for name in cohort) <= min(left_out)


@given(clients, counts, st.integers(0, 15), st.integers(0, 99))
def test_the_same_chance_chooses_the_same_cohort(names, used, size, seed):
    first, second = (choose(names, used, size, np.random.default_rng(seed)) for _ in range(2))
    assert first == second


def test_ties_are_broken_by_chance():
    names = [str(i) for i in range(10)]
    assert len({tuple(choose(names, {}, 3, np.random.default_rng(seed))) for seed in range(20)}) > 10


def test_asking_round_after_round_spreads_participations_evenly():
    names, used, rng = [str(i) for i in range(10)], dict.fromkeys(map(str, range(10)), 0), np.random.default_rng(0)
    for _ in range(10):
        for name in choose(names, used, 3, rng):
            used[name] += 1
    assert set(used.values()) == {3}
