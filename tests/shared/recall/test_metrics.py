from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import R, nDCG

from shared.errors import DataError
from shared.recall import metrics
from shared.recall.metrics import NO_ITEM, RankingSums


def a_batch(seed, users=7, n_items=23, *, levels=5):
    """Scores with many ties, seen items, relevant items among the unseen ones."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (users, n_items)).astype(np.float32)
    seen = rng.random((users, n_items)) < 0.3
    relevant = (rng.random((users, n_items)) < 0.15) & ~seen
    return scores, seen, relevant


def naive_top_k(scores, seen, k):
    lists = []
    for user_scores, user_seen in zip(scores, seen, strict=True):
        candidates = [item for item in range(len(user_scores)) if not user_seen[item] and user_scores[item] > -np.inf]
        best = sorted(candidates, key=lambda item: (-user_scores[item], item))[:k]
        lists.append(best + [NO_ITEM] * (k - len(best)))
    return np.array(lists)


# --- top_k


@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([1, 2, 5, 10**6]))
def test_top_k_equals_a_sort_by_score_then_index(seed, k, levels):
    scores, seen, _ = a_batch(seed, levels=levels)
    scores[np.random.default_rng(seed).random(scores.shape) < 0.1] = -np.inf
    assert np.array_equal(metrics.top_k(scores, seen, k), naive_top_k(scores, seen, k))


def test_equal_scores_rank_the_lower_index_first():
    assert metrics.top_k(np.zeros((2, 50)), None, 4).tolist() == [[0, 1, 2, 3]] * 2


def test_a_user_with_too_few_candidates_gets_empty_slots_instead_of_seen_items():
    seen = np.array([[True, False, True], [True, True, True]])
    assert metrics.top_k(np.ones((2, 3)), seen, 2).tolist() == [[1, NO_ITEM], [NO_ITEM, NO_ITEM]]


def test_lists_longer_than_the_catalogue_are_padded():
    assert metrics.top_k(np.array([[1.0, 2.0]]), None, 4).tolist() == [[1, 0, NO_ITEM, NO_ITEM]]


def test_counts_serve_as_scores():
    assert metrics.top_k(np.array([[3, 9, 5]]), np.array([[False, True, False]]), 2).tolist() == [[2, 0]]


def test_blocks_of_users_do_not_change_the_lists(monkeypatch):
    scores, seen, _ = a_batch(3)
    whole = metrics.top_k(scores, seen, 5)
    monkeypatch.setattr(metrics, "_BLOCK_CELLS", 2 * scores.shape[1])
    assert np.array_equal(metrics.top_k(scores, seen, 5), whole)


def test_inputs_stay_as_they_were():
    scores, seen, _ = a_batch(4)
    before = scores.copy()
    metrics.top_k(scores, seen, 5)
    assert np.array_equal(scores, before)


@pytest.mark.parametrize(
    ("scores", "seen", "k", "message"),
    [
        (np.array([[np.nan, 1.0]]), None, 1, "NaN"),
        (np.ones((2, 3)), np.zeros((2, 4), dtype=bool), 1, r"\(2, 4\)"),
        (np.ones((2, 3)), None, 0, "k is 0"),
    ],
)
def test_broken_scores_are_refused(scores, seen, k, message):
    with pytest.raises(DataError, match=message):
        metrics.top_k(scores, seen, k)


# --- per user


def test_recall_and_ndcg_by_hand():
    relevant = np.zeros((1, 6), dtype=bool)
    relevant[0, [1, 4, 5]] = True
    ranked = np.array([[4, 0, 1, 2]])
    assert metrics.recall_at(ranked, relevant, 2) == pytest.approx([1 / 3])
    assert metrics.recall_at(ranked, relevant, 4) == pytest.approx([2 / 3])
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert metrics.ndcg_at(ranked, relevant, 4) == pytest.approx([(1 + 1 / np.log2(4)) / ideal])


def test_the_ideal_list_is_no_longer_than_k():
    relevant = np.ones((1, 5), dtype=bool)
    assert metrics.ndcg_at(np.array([[3, 1, 2]]), relevant, 3) == pytest.approx([1.0])


def test_an_empty_slot_is_no_hit():
    relevant = np.array([[False, False, True]])  # the item that index -1 would read
    assert metrics.hits(np.array([[NO_ITEM, 0]]), relevant).tolist() == [[False, False]]


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_agrees_with_ir_measures_to_twelve_digits(seed):
    scores, seen, relevant = a_batch(seed, users=5, n_items=40)
    relevant[np.arange(5), np.argmin(seen, axis=1)] = True  # everybody has a relevant item
    ranked = metrics.top_k(scores, seen, 8)
    qrels = [ir_measures.Qrel(str(user), str(item), 1) for user, item in zip(*np.nonzero(relevant), strict=True)]
    run = [
        ir_measures.ScoredDoc(str(user), str(item), float(-rank))
        for user, row in enumerate(ranked)
        for rank, item in enumerate(row)
        if item != NO_ITEM
    ]
    theirs = {(m.measure, int(m.query_id)): m.value for m in ir_measures.iter_calc([R @ 8, nDCG @ 5], qrels, run)}
    recall, ndcg = metrics.recall_at(ranked, relevant, 8), metrics.ndcg_at(ranked, relevant, 5)
    for user in range(5):
        assert recall[user] == pytest.approx(theirs[R @ 8, user], abs=1e-12)
        assert ndcg[user] == pytest.approx(theirs[nDCG @ 5, user], abs=1e-12)


def test_a_client_with_random_scores_stays_at_chance():
    rng = np.random.default_rng(0)
    users, n_items, k = 4000, 100, 10
    relevant = np.zeros((users, n_items), dtype=bool)
    relevant[np.arange(users), rng.integers(0, n_items, users)] = True
    ranked = metrics.top_k(rng.random((users, n_items)), None, k)
    chance = k / n_items
    assert abs(metrics.recall_at(ranked, relevant, k).mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / users)


@pytest.mark.parametrize(
    ("ranked", "k", "message"),
    [
        (np.array([[0, 1]]), 3, "k = 3"),
        (np.array([[0, 5]]), 2, "0 to 4"),
        (np.array([[0, 1], [0, 1]]), 2, "2 ranked lists for 1 users"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.recall_at, metrics.ndcg_at])
def test_lists_that_do_not_fit_are_refused(metric, ranked, k, message):
    with pytest.raises(DataError, match=message):
        metric(ranked, np.ones((1, 5), dtype=bool), k)


# --- over the catalogue


def test_exposure_counts_filled_slots_only():
    assert metrics.exposure(np.array([[0, 2], [2, NO_ITEM]]), 4).tolist() == [1, 0, 2, 0]


def test_coverage_and_effective_coverage():
    exposures = np.array([0, 1, 5, 20])
    assert metrics.coverage(exposures) == 0.75
    assert metrics.effective_coverage(exposures, 5) == 0.5
    assert metrics.effective_coverage(exposures, 5.5) == 0.25


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_gini_is_half_the_relative_mean_difference(counts):
    exposures = np.array(counts)
    mean_difference = np.abs(exposures[:, None] - exposures[None, :]).mean()
    expected = mean_difference / (2 * exposures.mean()) if exposures.any() else 0.0
    assert metrics.gini(exposures) == pytest.approx(expected, abs=1e-12)


def test_gini_counts_the_items_that_nobody_saw():
    assert metrics.gini(np.array([3, 3])) == 0.0
    assert metrics.gini(np.array([3, 3, 0, 0])) == pytest.approx(0.5)


def test_head_share_is_the_exposure_of_the_most_exposed_tenth():
    exposures = np.array([1] * 18 + [6, 8])
    assert metrics.head_share(exposures) == pytest.approx(14 / 32)
    assert metrics.head_share(np.array([1, 3])) == pytest.approx(0.75)  # at least one item


def test_tail_share_is_the_exposure_outside_the_popular_fifth():
    popularity = np.array([1, 9, 2, 3, 4])
    assert metrics.tail_share(np.array([1, 6, 1, 1, 1]), popularity) == pytest.approx(0.4)


def test_novelty_is_the_mean_self_information_of_what_is_shown():
    popularity = np.array([8, 2, 0])
    assert metrics.novelty(np.array([1, 1, 0]), popularity, 8) == pytest.approx((0 + 2) / 2)
    assert metrics.novelty(np.array([0, 0, 1]), popularity, 8) == pytest.approx(3)  # counts as one user's


def test_nothing_shown_gives_zeros():
    nothing = np.zeros(4, dtype=np.int64)
    assert metrics.gini(nothing) == metrics.head_share(nothing) == metrics.tail_share(nothing, nothing) == 0.0
    assert metrics.novelty(nothing, nothing, 3) == metrics.coverage(nothing) == 0.0


@given(st.integers(0, 10_000))
def test_diversity_equals_the_loop_over_pairs(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((12, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[3] = 0.0
    ranked = np.array([rng.choice(12, 5, replace=False) for _ in range(4)])
    ranked[0, 3:] = NO_ITEM
    ranked[1, 1:] = NO_ITEM
    for value, row in zip(metrics.ild(ranked, vectors), ranked, strict=True):
        shown = [vectors[item] for item in row if item != NO_ITEM]
        pairs = [float(a @ b) for i, a in enumerate(shown) for b in shown[i + 1 :]]
        assert value == pytest.approx(1 - np.mean(pairs) if pairs else 0.0, abs=1e-9)


# --- sums that merge


@given(st.integers(0, 10_000), st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_the_federated_result_is_the_central_one(seed, cuts):
    scores, seen, relevant = a_batch(seed, users=12)
    ranked = metrics.top_k(scores, seen, 6)
    central = RankingSums.of(ranked, relevant, recall_k=6, ndcg_k=4)
    federated = RankingSums.empty(23, recall_k=6, ndcg_k=4)
    for users in np.split(np.arange(12), sorted(cuts)):
        federated = federated.merge(RankingSums.of(ranked[users], relevant[users], recall_k=6, ndcg_k=4))
    assert federated.users == central.users
    assert np.array_equal(federated.exposure, central.exposure)
    assert federated.reduce() == pytest.approx(central.reduce(), abs=1e-12)


def test_users_without_a_relevant_item_are_left_out_of_everything():
    relevant = np.zeros((2, 30), dtype=bool)
    relevant[0, 0] = True
    ranked = metrics.top_k(np.stack([np.arange(30.0, 0, -1), np.arange(30.0)]), None, 20)
    sums = RankingSums.of(ranked, relevant)
    assert sums.users == 1
    assert sums.reduce()["recall@20"] == 1.0
    assert sums.exposure.tolist() == [1] * 20 + [0] * 10


def test_slots_beyond_the_measured_length_are_no_exposure():
    relevant = np.ones((1, 30), dtype=bool)
    sums = RankingSums.of(np.arange(25)[None, :], relevant)
    assert sums.exposure.sum() == 20
    assert sums.reduce()["recall@20"] == pytest.approx(20 / 30)


def test_no_users_reduce_to_zeros():
    assert set(RankingSums.empty(5).reduce().values()) == {0.0}


@pytest.mark.parametrize("other", [RankingSums.empty(5), RankingSums.empty(4, recall_k=10)])
def test_sums_of_another_k_or_catalogue_do_not_merge(other):
    with pytest.raises(DataError, match="do not merge"):
        RankingSums.empty(4).merge(other)
