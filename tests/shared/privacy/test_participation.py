from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shared.privacy.noise import NoiseSource, os_noise
from shared.privacy.participation import choose, cohort_of, eligible, number_eligible, remaining, toss

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


# --- coins


def words(seed=0):
    return NoiseSource("seeded", np.random.SFC64(seed).random_raw).words


@given(clients, st.floats(0, 1), st.integers(0, 99))
def test_a_tossed_cohort_is_some_of_the_candidates_in_their_order(names, rate, seed):
    cohort = toss(names, rate, words(seed))
    assert cohort == [name for name in names if name in cohort]
    assert cohort == toss(names, rate, words(seed))


def test_a_coin_comes_up_at_its_rate_and_these_tests_can_tell_another():
    names, rounds = [str(n) for n in range(500)], 40
    source = words(3)
    sizes = np.array([len(toss(names, 0.3, source)) for _ in range(rounds)])
    seen, tossed = int(sizes.sum()), rounds * len(names)
    assert stats.binomtest(seen, tossed, 0.3).pvalue > 1e-4
    assert stats.binomtest(seen, tossed, 0.3 * 1.1).pvalue < 1e-4
    # Sizes vary as a binomial's do: a cohort of fixed size is no Poisson cohort.
    assert 0.5 < sizes.var(ddof=1) / (500 * 0.3 * 0.7) < 2.0


def test_coins_are_independent_of_one_another_and_of_those_before():
    source = words(5)
    tossed = np.array([[name in set(toss("ab", 0.5, source)) for name in "ab"] for _ in range(4000)])
    joint = np.bincount(tossed @ [2, 1], minlength=4)
    assert stats.chisquare(joint).pvalue > 1e-4
    assert stats.chisquare(np.bincount(tossed[1:, 0] * 2 + tossed[:-1, 0], minlength=4)).pvalue > 1e-4


def test_a_coin_never_comes_up_more_often_than_its_rate():
    edge = int(0.3 * 2.0**64)
    assert toss("abc", 0.3, lambda _: np.array([edge - 1, edge, 2**64 - 1], np.uint64)) == ["a"]


def test_an_empty_cohort_is_a_cohort_and_certainty_asks_everybody():
    assert toss("abc", 1e-30, os_noise().words) == []
    assert toss([], 0.5, os_noise().words) == []
    assert toss("abc", 0.0, words()) == []
    assert toss("abc", 1.0, words()) == ["a", "b", "c"]


@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
def test_a_rate_that_is_no_probability_is_a_wrong_call(rate):
    with pytest.raises(ValueError, match="rate"):
        toss("abc", rate, words())


# --- cohorts of a population too large to list


@given(clients, counts, st.integers(0, 5), st.integers(0, 15), st.integers(0, 99))
def test_a_cohort_of_everybody_is_one_of_those_who_may_be_asked_and_were_asked_least(names, used, limit, size, seed):
    cohort = cohort_of(names, used, limit, size, np.random.default_rng(seed))
    allowed = eligible(names, used, limit)
    assert cohort == [name for name in allowed if name in cohort]
    assert len(cohort) == min(size, len(allowed))
    left_out = [used.get(name, 0) for name in allowed if name not in cohort]
    if cohort and left_out:
        assert max(used.get(name, 0) for name in cohort) <= min(left_out)


@given(clients, counts, st.integers(0, 5))
def test_how_many_may_be_asked_is_counted_without_listing_them(names, used, limit):
    assert number_eligible(names, used, limit) == len(eligible(names, used, limit))


def test_among_many_the_cohort_is_drawn_evenly_from_those_never_asked():
    names, used = [str(n) for n in range(12)], {"3": 1, "7": 2, "8": 0}
    rng, drawn = np.random.default_rng(0), np.zeros(12)
    for _ in range(6000):
        for name in cohort_of(names, used, 9, 2, rng):
            drawn[int(name)] += 1
    assert drawn[3] == drawn[7] == 0
    assert stats.chisquare(np.delete(drawn, [3, 7])).pvalue > 1e-3


def test_a_cohort_of_a_million_looks_at_few_of_them():
    class Counting(list):
        looked = 0

        def __getitem__(self, place):
            Counting.looked += 1
            return str(place)

    many = Counting([None] * 1_000_000)
    assert len(set(cohort_of(many, {}, 1, 100, np.random.default_rng(0)))) == 100
    assert Counting.looked < 1000
