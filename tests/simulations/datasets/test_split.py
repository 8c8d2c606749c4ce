from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.history import NOT_INTERESTED
from simulations.datasets import PROTOCOLS, Dataset, Items, split_dataset
from simulations.datasets.split import ascending_ids, user_number


def dataset(pairs, *, users, items, kinds=None, times=None):
    n = len(pairs)
    ids = tuple(items)
    return Dataset(
        name="x",
        licence="",
        public=True,
        items=Items(ids, ids, ids, ((),) * len(ids)),
        users=tuple(users),
        user=np.array([pair[0] for pair in pairs], np.int32),
        item=np.array([pair[1] for pair in pairs], np.int32),
        kind=np.zeros(n, np.int8) if kinds is None else np.array(kinds, np.int8),
        count=np.ones(n, np.float32),
        dwell=np.zeros(n, np.float32),
        rating=np.full(n, np.nan, np.float32),
        time=np.arange(n, dtype=np.float64) if times is None else np.array(times, np.float64),
    )


@st.composite
def datasets(draw):
    users, items = draw(st.integers(1, 4)), draw(st.integers(1, 30))
    pairs = draw(st.lists(st.tuples(st.integers(0, users - 1), st.integers(0, items - 1)), unique=True, max_size=80))
    n = len(pairs)
    return dataset(
        pairs,
        users=[f"u{i}" for i in range(users)],
        items=[f"i{i}" for i in range(items)],
        kinds=draw(st.lists(st.sampled_from([0, 0, 1, NOT_INTERESTED]), min_size=n, max_size=n)),
        times=draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)),
    )


@given(datasets(), st.sampled_from(PROTOCOLS))
def test_every_row_is_in_exactly_one_part_and_each_user_gives_what_the_protocol_says(data, protocol):
    split = split_dataset(data, protocol)
    assert (split.train.astype(int) + split.valid + split.test == 1).all()
    assert split.train[data.kind == NOT_INTERESTED].all()
    for user in range(len(data.users)):
        mine = data.user == user
        n = int((mine & (data.kind != NOT_INTERESTED)).sum())
        expected = (int(n > 1), int(n > 2)) if protocol == "loo" else (int(0.1 * n), int(0.1 * n))
        assert (split.test[mine].sum(), split.valid[mine].sum()) == expected


@given(datasets(), st.sampled_from(["ts", "loo"]))
def test_by_time_nothing_in_train_is_newer_than_validation_and_nothing_there_newer_than_test(data, protocol):
    split = split_dataset(data, protocol)
    positive = data.kind != NOT_INTERESTED
    for user in range(len(data.users)):
        mine = positive & (data.user == user)
        times = [data.time[mine & part] for part in (split.train, split.valid, split.test)]
        for older, newer in ((0, 1), (1, 2), (0, 2)):
            if len(times[older]) and len(times[newer]):
                assert times[older].max() <= times[newer].min()


@given(datasets(), st.sampled_from(PROTOCOLS), st.randoms(use_true_random=False))
def test_a_user_is_split_alike_whoever_else_is_there(data, protocol, random):
    user = random.randrange(len(data.users))
    rows = np.flatnonzero(data.user == user)
    alone = dataset(
        [(0, item) for item in data.item[rows]],
        users=[data.users[user]],
        items=data.items.ids,
        kinds=data.kind[rows],
        times=data.time[rows],
    )
    together, apart = split_dataset(data, protocol), split_dataset(alone, protocol)
    assert (together.test[rows] == apart.test).all()
    assert (together.valid[rows] == apart.valid).all()


def test_rs_is_the_permutation_of_ascending_raw_ids_seeded_with_the_raw_user_id():
    # Item ids out of order in the table and in the file: 30 .. 11 descending.
    ids = [str(i) for i in range(30, 10, -1)]
    data = dataset([(0, i) for i in range(20)], users=["196"], items=ids)
    shuffled = np.random.default_rng([2024, 196]).permutation(np.arange(11, 31))
    split = split_dataset(data, "rs")
    assert {int(ids[i]) for i in data.item[split.test]} == set(shuffled[:2].tolist())
    assert {int(ids[i]) for i in data.item[split.valid]} == set(shuffled[2:4].tolist())


def test_among_equal_times_the_row_that_comes_first_in_the_file_is_the_newer_one():
    data = dataset([(0, 3), (0, 1), (0, 2), (0, 0)], users=["1"], items="abcd", times=[5, 5, 5, 1])
    split = split_dataset(data, "loo")
    assert split.test.tolist() == [True, False, False, False]
    assert split.valid.tolist() == [False, True, False, False]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_user_with_one_interaction_only_trains_and_a_user_without_any_does_no_harm(protocol):
    data = dataset([(1, 0), (2, 0), (2, 1)], users=["empty", "one", "two"], items="ab")
    split = split_dataset(data, protocol)
    assert split.train[0]
    assert split.train[1:].any()


def test_an_empty_data_set_gives_an_empty_split():
    assert split_dataset(dataset([], users=[], items=[]), "rs").train.shape == (0,)


def test_an_unknown_protocol_is_named():
    with pytest.raises(ConfigError, match="'random' is unknown; choose one of rs, ts, loo"):
        split_dataset(dataset([], users=[], items=[]), "random")


def test_integer_ids_are_ordered_as_numbers_and_others_as_texts():
    assert ascending_ids(("10", "9", "1")).tolist() == [2, 1, 0]
    assert ascending_ids(("10", "9", "1a")).tolist() == [0, 2, 1]


def test_user_ids_that_are_no_integers_get_a_stable_number():
    assert user_number("196") == 196
    assert user_number("anna") == int.from_bytes(hashlib.sha256(b"anna").digest()[:8], "big")
    assert user_number("-1") != user_number("1")
    assert user_number("²") > 9  # a digit to str.isdigit, but no decimal number
