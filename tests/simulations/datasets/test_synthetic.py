from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shared.history import KINDS
from simulations.datasets.synthetic import synthetic_dataset


def same(a, b):
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan=f.name == "rating")
        if isinstance(getattr(a, f.name), np.ndarray)
        else getattr(a, f.name) == getattr(b, f.name)
        for f in dataclasses.fields(a)
    )


def test_a_seed_gives_one_data_set_and_another_seed_another():
    assert same(synthetic_dataset(3, users=20, items=40), synthetic_dataset(3, users=20, items=40))
    assert not same(synthetic_dataset(3, users=20, items=40), synthetic_dataset(4, users=20, items=40))


def test_it_says_that_it_is_synthetic_wherever_it_is_shown():
    data = synthetic_dataset(0, users=5, items=16)
    assert data.name == "synthetic"
    assert "no real people" in data.licence
    assert "seed 0" in data.notes[0]
    assert all(user.startswith("synthetic-") for user in data.users)


def test_it_has_every_kind_of_behaviour_with_its_values_in_range():
    data = synthetic_dataset(0)
    assert (len(data.users), len(data.items)) == (600, 400)
    assert set(data.kind.tolist()) == set(range(len(KINDS)))
    assert (data.dwell[data.kind == KINDS.index("dwell")] > 0).all()
    assert not np.isnan(data.rating[data.kind == KINDS.index("rating")]).any()
    assert ((data.dwell >= 0) & (data.dwell <= 1)).all()
    assert (np.isnan(data.rating) | ((data.rating >= 0) & (data.rating <= 1))).all()
    assert np.bincount(data.user, minlength=600).min() == 1  # one-interaction users exist
    assert len(set(data.items.titles)) == 400


def test_popularity_is_skewed_and_users_keep_to_their_topics():
    data = synthetic_dataset(0)
    counts = np.sort(np.bincount(data.item, weights=data.count, minlength=400))[::-1]
    assert counts[:40].sum() > 0.25 * counts.sum()
    topic = np.array([sorted({c for (c,) in data.items.categories}).index(c) for (c,) in data.items.categories])
    shares = [
        np.sort(np.bincount(topic[data.item[data.user == u]], minlength=8))[-2:].sum() / (data.user == u).sum()
        for u in range(50)
    ]
    assert np.mean(shares) > 0.6  # two of eight topics would hold 0.25 by chance


def test_a_title_speaks_of_its_topic():
    data = synthetic_dataset(0, users=2, items=16)
    for text, (topic,) in zip(data.items.texts, data.items.categories, strict=True):
        assert text.endswith(topic)


@pytest.mark.parametrize("users", [1, 2])
def test_tiny_sizes_work(users):
    assert len(synthetic_dataset(1, users=users, items=8).users) == users
