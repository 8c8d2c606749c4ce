"""Measurements: held-out behaviour only, norm at most one, whatever the user did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.measuring import held_out, lists, measurement_rows, popularity_rows
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.history import NOT_INTERESTED
from shared.privacy.clipping import clip_to_grid
from shared.recall.weights import MEASUREMENT_WEIGHTS, exposure_weight

ITEMS = 48
SPEC = EncoderSpec(text_width=16, rank=16, buckets=ITEMS)
BUCKET = np.arange(ITEMS)


def ranked_for(catalogue, policy, histories, visible="train"):
    parameters = initial_parameters(SPEC, np.random.default_rng(0))
    rngs = [np.random.default_rng(s) for s in range(len(histories))]
    prior = np.linspace(-1, 1, ITEMS).astype(np.float32)
    return np.concatenate(
        list(lists(SPEC, parameters, dict(catalogue.groups), BUCKET, prior, policy, histories, rngs, visible=visible))
    )


@given(seed=st.integers(0, 2**32), k=st.sampled_from([10, 20, 40]), buckets=st.sampled_from([ITEMS, 7]))
def test_no_row_is_longer_than_one_after_the_clip(history, seed, k, buckets):
    rng = np.random.default_rng(seed)
    histories = [history(s, int(rng.integers(0, 40)), int(rng.integers(0, 5))) for s in range(4)]
    ranked = np.stack([rng.permutation(ITEMS)[:k] for _ in histories])
    rows = measurement_rows(ranked, histories, BUCKET % buckets, buckets, k)
    if buckets == ITEMS:
        assert np.linalg.norm(rows, axis=1).max() <= 1 + 1e-12
    grid = clip_to_grid(rows, 1.0, 1 << 16).astype(np.int64)
    assert np.sqrt(np.square(grid).sum(1)).max() <= 1 << 16


def test_a_perfect_list_has_length_one(history):
    one = replace(history(1, 12, 10), kind=np.zeros(12, np.int8))
    rows = measurement_rows(one.item[one.held_out][None].astype(np.int64), [one], BUCKET, ITEMS, 10)
    assert np.linalg.norm(rows[0]) == pytest.approx(1.0)
    assert rows[0, :3] == pytest.approx(list(MEASUREMENT_WEIGHTS.values()))
    assert np.flatnonzero(rows[0, 3:]).tolist() == sorted(one.item[one.held_out].tolist())


def test_who_has_nothing_held_out_sends_zeros(history):
    ranked = np.tile(np.arange(10), (3, 1))
    uninterested = replace(history(3, 8, 2), kind=np.full(8, NOT_INTERESTED, np.int8))
    rows = measurement_rows(ranked, [history(1, 12, 0), history(2, 0, 0), uninterested], BUCKET, ITEMS, 10)
    assert rows.shape == (3, 3 + ITEMS)
    assert not rows.any()


def test_only_the_held_out_and_wanted_count_as_found(history):
    one = replace(history(4, 10, 4), kind=np.array([0] * 8 + [NOT_INTERESTED, 0], np.int8))
    relevant = held_out([one], ITEMS)
    assert set(np.flatnonzero(relevant[0]).tolist()) == set(one.item[[6, 7, 9]].tolist())


def test_an_empty_place_is_no_exposure(history):
    one = replace(history(5, 12, 3), kind=np.zeros(12, np.int8))
    ranked = np.full((1, 10), -1)
    ranked[0, :2] = [40, 41]
    rows = measurement_rows(ranked, [one], BUCKET, ITEMS, 10)
    assert rows[0, 3:].sum() == pytest.approx(2 * exposure_weight(10))


def test_items_that_share_a_bucket_share_their_exposures(history):
    one = replace(history(5, 12, 3), kind=np.zeros(12, np.int8))
    rows = measurement_rows(np.arange(10)[None], [one], BUCKET % 5, 5, 10)
    assert rows[0, 3:] == pytest.approx(np.full(5, 2 * exposure_weight(10)))


@pytest.mark.parametrize("visible", ["train", "all"])
def test_what_is_visible_is_never_recommended(catalogue, policy, history, visible):
    histories = [history(seed, 30, 6) for seed in range(5)]
    ranked = ranked_for(catalogue, policy(exploration=0.3, diversity=0.2), histories, visible)
    for row, one in zip(ranked, histories, strict=True):
        seen = one.item if visible == "all" else one.item[~one.held_out]
        assert not set(row.tolist()) & set(seen.tolist())
        assert len({item for item in row.tolist() if item >= 0}) == (row >= 0).sum()


def test_the_held_out_do_not_steer_the_list(catalogue, policy, history):
    one = history(6, 20, 6)
    elsewhere = one.item.copy()
    elsewhere[one.held_out] = np.setdiff1d(np.arange(ITEMS), one.item)[:6]
    later = one.time + np.where(one.held_out, 1e8, 0.0)
    other = replace(one, item=elsewhere, time=later)
    ranked = ranked_for(catalogue, policy(), [one, other])
    assert np.array_equal(ranked[0], ranked[1])


def test_a_list_does_not_depend_on_who_else_is_measured(catalogue, policy, history):
    histories = [history(seed, 5 * seed, seed) for seed in range(8)]
    together = ranked_for(catalogue, policy(), histories)
    alone = np.concatenate([ranked_for(catalogue, policy(), [one]) for one in histories])
    assert np.array_equal(together, alone)


@given(seed=st.integers(0, 2**32))
def test_one_user_moves_a_sum_by_at_most_the_clip(history, seed):
    rng = np.random.default_rng(seed)
    ranked = rng.permuted(np.tile(np.arange(ITEMS), (3, 1)), axis=1)[:, :10]
    histories = [history(seed + s, 20, 4) for s in range(3)]
    gone = [histories[0], history(0, 0, 0), histories[2]]
    for rows in (
        lambda hs: measurement_rows(ranked, hs, BUCKET, ITEMS, 10),
        lambda hs: popularity_rows(hs, BUCKET, ITEMS),
    ):
        with_, without = (clip_to_grid(rows(hs), 1.0, 1 << 16).sum(0, dtype=np.int64) for hs in (histories, gone))
        assert np.sqrt(np.square(with_ - without).sum()) <= 1 << 16


def test_popularity_is_a_unit_vector_over_visible_positives(history):
    one = replace(history(7, 10, 4), kind=np.array([NOT_INTERESTED] + [0] * 9, np.int8))
    rows = popularity_rows([one, history(1, 0, 0), history(2, 5, 5)], BUCKET, ITEMS)
    assert np.linalg.norm(rows[0]) == pytest.approx(1.0)
    assert set(np.flatnonzero(rows[0]).tolist()) == set(one.item[1:6].tolist())
    assert len(set(rows[0][rows[0] > 0])) == 1
    assert not rows[1:].any()
