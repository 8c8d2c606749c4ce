"""Reports of a user: held-out behaviour only, length at most one, whatever the user did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.measuring import held_out, lists, measurement_rows, statistics_rows, visible_length
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.history import NOT_INTERESTED
from shared.privacy.clipping import clip_to_grid
from shared.recall.report import (
    ACTIVITY,
    CENTRE,
    HISTORY_BINS,
    HISTORY_WEIGHT,
    LARGEST_SHADOWS,
    POPULARITY_WEIGHT,
    SCALARS,
    ReportLayout,
)

ITEMS = 48
SPEC = EncoderSpec(text_width=16, rank=16, buckets=ITEMS)
BUCKET = np.arange(ITEMS)
NOTHING = np.zeros(ITEMS, bool)


def ranked_for(catalogue, policy, histories, visible="train", barred=NOTHING, reads=None):
    parameters = initial_parameters(SPEC, np.random.default_rng(0))
    rngs = [np.random.default_rng(s) for s in range(len(histories))]
    prior = np.linspace(-1, 1, ITEMS).astype(np.float32)
    groups, masks = dict(catalogue.groups), [barred] * len(histories)
    made = lists(SPEC, parameters, groups, BUCKET, prior, policy, histories, rngs, masks, visible=visible, reads=reads)
    return np.concatenate(list(made))


def rows_of(ranked, histories, *, shadows=(), barred=NOTHING, activity=(0, 0), k=10, bucket=BUCKET, central=False):
    layout = ReportLayout(k, int(bucket.max()) + 1, len(shadows), central)
    masks = [barred] * len(histories)
    return layout, measurement_rows(np.asarray(ranked), list(shadows), histories, masks, activity, layout, bucket)


def said(layout, row, name):
    """What a row says of a scalar, its weight taken off."""
    return row[SCALARS.index(name)] / layout.weight(name)


@given(
    seed=st.integers(0, 2**32),
    k=st.sampled_from([10, 20, 40]),
    buckets=st.sampled_from([ITEMS, 7, 1]),
    shadows=st.integers(0, LARGEST_SHADOWS),
    central=st.booleans(),
)
def test_no_row_is_longer_than_its_share(history, seed, k, buckets, shadows, central):
    rng = np.random.default_rng(seed)
    histories = [history(s, int(rng.integers(0, 40)), int(rng.integers(0, 5))) for s in range(4)]
    ranked = [np.stack([rng.permutation(ITEMS)[:k] for _ in histories]) for _ in range(1 + shadows)]
    how = {"shadows": ranked[1:], "k": k, "bucket": BUCKET % buckets, "activity": (4, 9), "central": central}
    layout, rows = rows_of(ranked[0], histories, **how)
    # Under trust central the rest of the norm is for what the server adds: items that share a bucket included.
    room = 1.0 - (layout.k * layout.weight("distinct")) ** 2
    assert np.square(rows).sum(axis=1).max() <= room + 1e-12
    grid = clip_to_grid(rows, 1.0, 1 << 16).astype(np.int64)
    assert np.sqrt(np.square(grid).sum(1)).max() <= (1 << 16) * np.sqrt(room) + 1e-6


@given(seed=st.integers(0, 2**32), shadows=st.integers(0, 3))
@example(seed=8871, shadows=0)
def test_one_user_moves_a_sum_by_at_most_the_clip(history, seed, shadows):
    """Zero-out: the same cohort, one user's whole contribution replaced by zeros."""
    rng = np.random.default_rng(seed)
    ranked = [rng.permuted(np.tile(np.arange(ITEMS), (3, 1)), axis=1)[:, :10] for _ in range(1 + shadows)]
    histories = [history(seed + s, 20, 4) for s in range(3)]
    histories[1] = replace(histories[1], kind=np.zeros(20, np.int8))  # who turned everything down moves nothing
    gone = [histories[0], history(0, 0, 0), histories[2]]
    for rows in (
        lambda hs: rows_of(ranked[0], hs, shadows=ranked[1:], activity=(8, 20))[1],
        lambda hs: statistics_rows(hs, BUCKET, ITEMS),
    ):
        with_, without = (clip_to_grid(rows(hs), 1.0, 1 << 16).sum(0, dtype=np.int64) for hs in (histories, gone))
        assert 0 < np.sqrt(np.square(with_ - without).sum()) <= 1 << 16


def test_a_perfect_list_says_so_and_has_length_one(history):
    one = replace(history(1, 12, 10), kind=np.zeros(12, np.int8))
    layout, (row,) = rows_of(one.item[one.held_out][None], [one], activity=(1, 9))
    assert np.linalg.norm(row) == pytest.approx(1.0)
    assert said(layout, row, "recall") == said(layout, row, "ndcg") == 1.0 - CENTRE
    assert said(layout, row, "users") == said(layout, row, "users:middle") == pytest.approx(1.0)
    assert said(layout, row, "ndcg:middle") == pytest.approx(1.0 - CENTRE)
    for group in ("low", "high"):
        assert said(layout, row, f"users:{group}") == said(layout, row, f"ndcg:{group}") == 0.0
    assert np.flatnonzero(row[layout.exposures]).tolist() == sorted(one.item[one.held_out].tolist())


def test_a_list_that_finds_nothing_is_no_report_of_zeros(history):
    one = replace(history(1, 12, 4), kind=np.zeros(12, np.int8))
    others = np.setdiff1d(np.arange(ITEMS), one.item)[:10][None]
    layout, (row,) = rows_of(others, [one])
    assert said(layout, row, "recall") == said(layout, row, "ndcg") == -CENTRE
    assert said(layout, row, "users") == pytest.approx(1.0)


def test_shadows_report_their_own_recall_and_no_exposures(history):
    one = replace(history(1, 20, 10), kind=np.zeros(20, np.int8))
    found = one.item[one.held_out][None]
    missed = np.setdiff1d(np.arange(ITEMS), one.item)[:10][None]
    half = np.concatenate([found[:, :5], missed[:, :5]], axis=1)
    layout, (row,) = rows_of(missed, [one], shadows=[found, half, missed])
    assert row[layout.shadowed] / layout.weight("shadow") == pytest.approx([0.5, 0.0, -0.5])
    assert np.flatnonzero(row[layout.exposures]).tolist() == sorted(missed[0].tolist())


def test_the_group_is_that_of_the_visible_positives(history):
    kinds = np.array([NOT_INTERESTED] * 3 + [0] * 9, np.int8)
    one = replace(history(2, 12, 4), kind=kinds)
    assert visible_length(one) == 5
    for activity, group in (((6, 9), "low"), ((5, 9), "middle"), ((5, 6), "middle"), ((2, 5), "high")):
        layout, (row,) = rows_of(np.arange(10)[None], [one], activity=activity)
        assert [said(layout, row, f"users:{g}") > 0 for g in ACTIVITY] == [g == group for g in ACTIVITY]


def test_who_has_nothing_held_out_sends_zeros(history):
    ranked = np.tile(np.arange(10), (3, 1))
    uninterested = replace(history(3, 8, 2), kind=np.full(8, NOT_INTERESTED, np.int8))
    histories = [history(1, 12, 0), history(2, 0, 0), uninterested]
    layout, rows = rows_of(ranked, histories, shadows=[ranked], activity=(4, 9))
    assert rows.shape == (3, layout.length)
    assert not rows.any()


def test_only_the_held_out_and_wanted_count_as_found(history):
    one = replace(history(4, 10, 4), kind=np.array([0] * 8 + [NOT_INTERESTED, 0], np.int8))
    assert set(np.flatnonzero(held_out([one], [NOTHING], ITEMS)[0]).tolist()) == set(one.item[[6, 7, 9]].tolist())
    barred = NOTHING.copy()
    barred[one.item[7]] = True
    assert set(np.flatnonzero(held_out([one], [barred], ITEMS)[0]).tolist()) == set(one.item[[6, 9]].tolist())


def test_what_is_barred_is_neither_listed_nor_asked_for(catalogue, policy, history):
    one = replace(history(5, 20, 3), kind=np.zeros(20, np.int8))
    first = ranked_for(catalogue, policy(), [one])[0]
    barred = NOTHING.copy()
    barred[[*first[:5], *one.item[one.held_out]]] = True
    ranked = ranked_for(catalogue, policy(), [one], barred=barred)
    assert not set(ranked[0].tolist()) & set(np.flatnonzero(barred).tolist())
    assert (ranked[0] >= 0).all()  # others move up
    assert not rows_of(ranked, [one], barred=barred)[1].any()  # nothing is left to ask


def test_an_empty_place_is_no_exposure(history):
    one = replace(history(5, 12, 3), kind=np.zeros(12, np.int8))
    ranked = np.full((1, 10), -1)
    ranked[0, :2] = [40, 41]
    layout, (row,) = rows_of(ranked, [one])
    assert row[layout.exposures].sum() == pytest.approx(2 * layout.weight("exposure"))


def test_items_that_share_a_bucket_share_their_exposures_within_the_share_of_all(history):
    one = replace(history(5, 12, 3), kind=np.zeros(12, np.int8))
    layout, (row,) = rows_of(np.arange(10)[None], [one], bucket=BUCKET % 5)
    assert len(set(row[layout.exposures])) == 1
    assert np.linalg.norm(row[layout.exposures]) == pytest.approx(np.sqrt(10) * layout.weight("exposure"))


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


def test_the_encoder_may_read_less_than_is_masked(catalogue, policy, history):
    one = history(6, 30, 10)
    usual = ranked_for(catalogue, policy(), [one], visible="all")
    reading_train = ranked_for(catalogue, policy(), [one], visible="all", reads="train")
    for ranked in (usual, reading_train):
        assert not set(ranked[0].tolist()) & set(one.item.tolist())
    assert not np.array_equal(usual, reading_train)
    shorter = replace(one, held_out=np.zeros(30, bool))
    assert np.array_equal(usual, ranked_for(catalogue, policy(), [shorter]))


def test_who_explores_goes_by_what_was_seen_not_by_what_is_barred(catalogue, policy, history):
    one, rules = history(6, 12, 3), np.arange(ITEMS) < 20
    for visible, seen in (("train", 9), ("all", 12)):
        plain = ranked_for(catalogue, policy(), [one], visible, rules)
        enough, more = (
            ranked_for(catalogue, policy(exploration=0.5, explore_from=least), [one], visible, rules)
            for least in (seen, seen + 1)
        )
        assert not np.array_equal(enough, plain)
        assert np.array_equal(more, plain)


def test_statistics_are_popularity_and_one_bin_of_history_length(history):
    one = replace(history(7, 10, 4), kind=np.array([NOT_INTERESTED] + [0] * 9, np.int8))
    rows = statistics_rows([one, history(1, 0, 0), history(2, 5, 5)], BUCKET, ITEMS)
    assert rows.shape == (3, ITEMS + HISTORY_BINS)
    assert np.linalg.norm(rows[0]) == pytest.approx(1.0)
    popularity, lengths = rows[0, :ITEMS], rows[0, ITEMS:]
    assert set(np.flatnonzero(popularity).tolist()) == set(one.item[1:6].tolist())
    assert popularity[popularity > 0] == pytest.approx(np.full(5, POPULARITY_WEIGHT / np.sqrt(5)))
    assert np.flatnonzero(lengths).tolist() == [2]  # five: 4 to 7
    assert lengths[2] == HISTORY_WEIGHT
    assert not rows[1:].any()


@pytest.mark.parametrize(("length", "place"), [(1, 0), (2, 1), (3, 1), (4, 2), (31, 4), (32, 5), (48, 5)])
def test_bins_of_history_length_begin_at_powers_of_two(history, length, place):
    one = replace(history(8, length, 0), kind=np.zeros(length, np.int8))
    assert np.flatnonzero(statistics_rows([one], BUCKET, ITEMS)[0, ITEMS:]).tolist() == [place]
