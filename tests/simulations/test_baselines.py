from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.stats import kstest

from shared.errors import ConfigError, DataError
from shared.history import KINDS, NOT_INTERESTED
from shared.privacy.accounting import epsilon_by_pld, rho_of
from simulations.baselines import (
    BASELINES,
    PRIVATE_BASELINES,
    evaluate,
    interactions,
    models,
    private,
    protocol,
    run,
    run_baselines,
    table,
)
from simulations.datasets import Dataset, Items, Split

TRAIN, VALID, TEST = range(3)


def a_dataset(rows, users=3, n_items=40, texts=None, kinds=None):
    """Rows of (user, item, part of the split); returns the data set and its split."""
    user, item, part = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    n = len(rows)
    ids = tuple(str(place) for place in range(n_items))
    texts = tuple(texts or (f"word{place}" for place in range(n_items)))
    data = Dataset(
        name="tiny",
        licence="none",
        public=True,
        items=Items(ids, texts, texts, ((),) * n_items),
        users=tuple(str(place) for place in range(users)),
        user=user,
        item=item,
        kind=np.full(n, KINDS.index("view"), np.int8) if kinds is None else np.array(kinds, np.int8),
        count=np.ones(n, np.float32),
        dwell=np.zeros(n, np.float32),
        rating=np.full(n, np.nan, np.float32),
        time=np.arange(n, dtype=np.float64),
    )
    return data, Split("rs", train=part == TRAIN, valid=part == VALID, test=part == TEST)


def random_dataset(seed, users=30, n_items=40):
    rng = np.random.default_rng(seed)
    rows = [
        (user, item, (TRAIN, TRAIN, TRAIN, VALID, TEST)[place % 5])
        for user in range(users)
        for place, item in enumerate(rng.choice(n_items, rng.integers(5, 20), replace=False))
    ]
    return a_dataset(rows, users, n_items)


def binary(seed, users=20, n_items=12, share=0.3):
    return csr_array((np.random.default_rng(seed).random((users, n_items)) < share).astype(np.float64))


# --- the protocol


def test_testing_masks_train_and_validation_and_validating_masks_train():
    data, split = a_dataset([(0, 0, TRAIN), (0, 1, VALID), (0, 2, TEST)], users=1)
    scores = -np.arange(40.0)[None, :]  # prefers items in the order 0, 1, 2, ...
    assert evaluate(scores, interactions(data, split), "valid")["ndcg@10"] == 1.0  # item 1 is the first unseen one
    assert evaluate(scores, interactions(data, split), "test")["ndcg@10"] == 1.0  # item 2 is


def test_users_without_a_held_out_item_do_not_count():
    data, split = a_dataset([(0, 0, TRAIN), (0, 39, TEST), (1, 1, TRAIN)], users=2)
    result = evaluate(np.tile(np.arange(40.0), (2, 1)), interactions(data, split))
    assert result["recall@20"] == 1.0
    assert result["coverage@20"] == 0.5


def test_not_interested_is_masked_but_never_a_positive():
    rows = [(0, 0, TRAIN), (0, 1, TRAIN), (0, 2, TEST)]
    data, split = a_dataset(rows, users=1, kinds=[0, NOT_INTERESTED, 0])
    found = interactions(data, split)
    assert found.train.toarray()[0].nonzero()[0].tolist() == [0]
    assert found.seen_before_test.toarray()[0].nonzero()[0].tolist() == [0, 1]


def test_a_matrix_a_function_and_any_blocks_give_the_same(monkeypatch):
    found = interactions(*random_dataset(0))
    scores = np.random.default_rng(1).random((30, 40))
    whole = evaluate(scores, found)
    monkeypatch.setattr(protocol, "_BLOCK_CELLS", 7 * 40)
    assert evaluate(scores, found) == pytest.approx(whole, abs=1e-12)
    assert evaluate(lambda rows: scores[rows], found) == pytest.approx(whole, abs=1e-12)


def test_random_scores_stay_at_chance():
    users, n_items = 1500, 200
    rng = np.random.default_rng(0)
    held_out = rng.integers(1, n_items, users)
    rows = [(user, 0, TRAIN) for user in range(users)] + [(user, item, TEST) for user, item in enumerate(held_out)]
    found = interactions(*a_dataset(rows, users, n_items))
    chance = 20 / (n_items - 1)
    recall = evaluate(rng.random((users, n_items)), found)["recall@20"]
    assert abs(recall - chance) < 4 * np.sqrt(chance * (1 - chance) / users)


def test_choice_takes_the_best_on_validation_and_the_earlier_of_equals():
    data, split = a_dataset([(0, 0, TRAIN), (0, 1, VALID), (0, 2, TEST)], users=1)
    likes = {name: np.eye(40)[[item]] for name, item in {"test": 2, "valid": 1, "also valid": 1}.items()}
    name, scorer = protocol.choose(likes, lambda name: lambda rows: likes[name][rows], interactions(data, split))
    assert name == "valid"
    assert np.array_equal(scorer(slice(0, 1)), likes["valid"])


# --- models against their naive twins


def test_ease_is_a_ridge_regression_of_every_item_on_all_others():
    train = binary(0)
    dense, ridge = train.toarray(), 3.0
    fast = models.fit_ease(train, models.gram(train), ridge)(slice(0, 20))
    for item in range(12):
        others = np.delete(dense, item, axis=1)
        weights = np.linalg.solve(others.T @ others + ridge * np.eye(11), others.T @ dense[:, item])
        assert fast[:, item] == pytest.approx(others @ weights, abs=1e-9)


@pytest.mark.parametrize(("neighbours", "shrink"), [(3, 5.0), (50, 0.0)])
def test_itemknn_sums_the_similarities_of_the_nearest_items(neighbours, shrink):
    train = binary(1)
    dense = train.toarray()
    fast = models.fit_itemknn(train, models.gram(train), neighbours, shrink)(slice(0, 20))
    for item in range(12):
        similar = {}
        for other in range(12):
            both = float(dense[:, item] @ dense[:, other])
            root = np.sqrt(dense[:, item].sum() * dense[:, other].sum())
            similar[other] = 0.0 if other == item or root + shrink == 0 else both / (root + shrink)
        nearest = sorted(similar, key=lambda other: (-similar[other], other))[:neighbours]
        assert fast[:, item] == pytest.approx(sum(similar[other] * dense[:, other] for other in nearest), abs=1e-9)


def test_itemknn_with_an_item_that_nobody_has_gives_numbers():
    train = csr_array(np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    assert np.isfinite(models.fit_itemknn(train, models.gram(train), 2, 0.0)(slice(0, 2))).all()


def test_tfidf_prefers_items_with_the_words_of_the_history_and_ignores_years():
    vectors = models.tfidf_vectors(["red lamp 1995", "red lantern", "blue chair 1995", "lamp 2001"])
    scores = models.fit_tfidf(csr_array(np.array([[1.0, 0, 0, 0], [0, 0, 0, 0]])), vectors)(slice(0, 2))
    assert scores[0, 0] == pytest.approx(1.0)
    assert min(scores[0, 1], scores[0, 3]) > scores[0, 2] == 0.0
    assert scores[1].tolist() == [0.0] * 4  # nothing is known of a user without a history


def test_items_without_words_are_refused():
    with pytest.raises(DataError, match="none of the 2 item texts"):
        models.tfidf_vectors(["", "1999"])


def test_ials_with_one_seed_gives_one_result_and_finds_the_block_of_a_user():
    blocks = np.kron(np.eye(2), np.ones((30, 30)))
    blocks[0, 0] = 0.0
    train = csr_array(blocks)
    newcomer = csr_array(np.eye(60)[[59]])
    scores = models.fit_ials(train, newcomer, 1)(slice(0, 61))
    assert np.array_equal(scores, models.fit_ials(train, newcomer, 1)(slice(0, 61)))
    assert scores[0, 0] > scores[0, 30:].max()
    assert scores[60, 30:].min() > scores[60, :30].max()  # folded in from one item of the second block


# --- privacy


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(0, 40))
def test_zeroing_one_user_moves_the_statistics_by_at_most_their_sensitivity(seed, cap, length):
    rows = binary(seed, users=4, n_items=40, share=0.4).toarray()
    rows[2] = np.arange(40) < length
    zeroed = rows.copy()
    zeroed[2] = 0.0
    one, other = (private.scaled_rows(csr_array(x), cap) for x in (rows, zeroed))
    histogram = np.asarray(one.sum(axis=0) - other.sum(axis=0))
    triangle = (models.gram(one) - models.gram(other))[np.triu_indices(40)]
    assert np.linalg.norm(histogram) <= np.sqrt(cap) + 1e-9
    assert np.linalg.norm(triangle) <= private.gram_sensitivity(cap) + 1e-9
    if length == cap:  # the bounds are attained: less noise would be too little
        assert np.linalg.norm(histogram) == pytest.approx(np.sqrt(cap))
        assert np.linalg.norm(triangle) == pytest.approx(private.gram_sensitivity(cap))


def test_the_noise_is_gaussian_of_the_claimed_scale_and_no_other():
    train = binary(0, n_items=150)
    noise = private.private_gram(train, 1.5, np.random.default_rng(0)) - models.gram(
        private.scaled_rows(train, private.GRAM_CAP)
    )
    assert np.array_equal(noise, noise.T)
    noise /= 1.5 * private.gram_sensitivity(private.GRAM_CAP)
    cells = noise[np.triu_indices(150)]
    assert kstest(cells, "norm").pvalue > 0.01
    assert kstest(cells * 1.1, "norm").pvalue < 0.01
    assert kstest(np.diag(noise), "norm").pvalue > 0.01
    assert kstest(np.diag(noise) * 2, "norm").pvalue < 0.01

    counts = private.private_histogram(csr_array((3, 5000)), 1.5, np.random.default_rng(1), cap=4)
    assert kstest(counts / (1.5 * 2.0), "norm").pvalue > 0.01
    assert kstest(counts / (1.5 * 2.0) * 1.1, "norm").pvalue < 0.01


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_without_noise_dp_ease_is_ease_with_a_vanishing_ridge(seed):
    train = binary(seed, users=200, n_items=8)
    almost = 1e-3
    noisy = private.private_gram(train, almost, np.random.default_rng(seed), cap=8)
    found = private.fit_dp_ease(train, noisy, almost, cap=8)(slice(0, 200))
    ridge = 2 * almost * 2 * almost * private.gram_sensitivity(8) * np.sqrt(8)
    assert found == pytest.approx(models.fit_ease(train, models.gram(train), ridge)(slice(0, 200)), abs=0.01)


def test_less_epsilon_is_more_noise():
    data, split = random_dataset(3, users=300)
    exact = models.fit_popularity(interactions(data, split).train)(slice(0, 1))[0]
    found = [
        np.corrcoef(exact, private.private_histogram(interactions(data, split).train, scale, np.random.default_rng(0)))
        for scale in (0.5, 50.0)
    ]
    assert found[0][0, 1] > 0.9 > found[1][0, 1]


@pytest.mark.parametrize(("epsilon", "delta"), [(8, 1e-4), (0.5, 1e-5)])
@pytest.mark.parametrize("statistic", ["private_histogram", "private_gram"])
def test_the_noise_is_what_epsilon_and_delta_ask_for(monkeypatch, statistic, epsilon, delta):
    used, release = [], getattr(private, statistic)
    monkeypatch.setattr(private, statistic, lambda train, scale, rng: used.append(scale) or release(train, scale, rng))
    data, split = random_dataset(0)
    run_baselines(data, split, delta=delta, epsilons=(epsilon,), seed=0, names=PRIVATE_BASELINES)
    assert used
    for multiplier in used:
        claimed = epsilon_by_pld(rho_of(multiplier), delta)
        assert 0.99 * epsilon < claimed <= epsilon


# --- the runner


def test_every_baseline_has_a_row_and_private_ones_one_an_epsilon():
    data, split = random_dataset(0)
    said = []
    results = run_baselines(data, split, delta=1e-5, epsilons=(8, 0.5), seed=1, progress=said.append)
    assert list(results) == [*BASELINES, *(f"{name}@{epsilon}" for name in PRIVATE_BASELINES for epsilon in (8, 0.5))]
    assert all(
        {"recall@20", "ndcg@10", "coverage@20", "gini@20", "head_share@20"} <= set(row) for row in results.values()
    )
    assert results["dp_ease@0.5"]["epsilon"] == 0.5
    assert "epsilon" not in results["ease"]
    assert any("ridge" in line for line in said)
    assert run_baselines(data, split, delta=1e-5, epsilons=(8, 0.5), seed=1) == results


def test_reading_validation_rows_changes_what_is_read_and_not_what_was_fitted():
    together = [(user, item, TRAIN) for user in range(1, 12) for item in (58, 59)]
    apart = [(user, item, TRAIN) for user in range(12, 30) for item in (3, 4)]
    data, split = a_dataset([*together, *apart, (0, 9, TRAIN), (0, 58, VALID), (0, 59, TEST)], users=30, n_items=60)
    names = ("popularity", "tfidf", "itemknn", "ease", "ials", "dp_ease")
    ask = {"delta": 1e-5, "epsilons": (50,), "seed": 0, "names": names}
    plain, both = run_baselines(data, split, **ask), run_baselines(data, split, **ask, also_valid=True)
    assert {name: both[name] for name in plain} == plain
    assert len(both) == 2 * len(plain)
    assert both["dp_ease+valid@50"]["epsilon"] == 50
    assert both["popularity+valid"] == both["popularity"]
    assert plain["ease"]["ndcg@10"] == 0.0  # nobody else has item 9: nothing speaks for item 59
    assert both["ease+valid"]["ndcg@10"] == 1.0  # item 58 does, and is masked itself


def test_text_baselines_are_left_out_where_there_is_no_text():
    data, split = a_dataset([(0, 0, TRAIN), (0, 1, VALID), (0, 2, TEST)], users=1, texts=[""] * 40)
    said = []
    names = ("popularity", "tfidf", "tfidf_private_popularity")
    results = run_baselines(data, split, delta=1e-5, epsilons=(1,), seed=0, names=names, progress=said.append)
    assert list(results) == ["popularity"]
    assert sum("left out" in line for line in said) == 2


def test_catalogues_too_large_for_dense_matrices_keep_the_other_baselines(monkeypatch):
    monkeypatch.setattr(run, "LARGEST_DENSE", 39)
    data, split = random_dataset(0)
    said = []
    results = run_baselines(data, split, delta=1e-5, epsilons=(1,), seed=0, progress=said.append)
    assert list(results) == ["popularity", "tfidf", "ials", "private_popularity@1", "tfidf_private_popularity@1"]
    assert "baseline ease is left out: 40 items would need dense matrices of 0.0 GB each" in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": ("eese",)}, "'eese' is unknown; choose from popularity"),
        ({"delta": 0.0}, "delta is 0.0"),
        ({"epsilons": (8, 0)}, "epsilon is 0"),
        ({"epsilons": (float("nan"),)}, "epsilon is nan"),
    ],
)
def test_what_cannot_run_is_refused(wrong, message):
    data, split = random_dataset(0)
    with pytest.raises(ConfigError, match=message):
        run_baselines(data, split, **({"delta": 1e-5, "epsilons": (1,), "seed": 0} | wrong))


def test_the_table_is_aligned_text():
    text = table({"popularity": {"recall@20": 0.5}, "dp_ease@8": {"recall@20": 0.25, "ndcg@10": 1.0, "epsilon": 8.0}})
    assert text.splitlines() == [
        "baseline    recall@20  ndcg@10",
        "popularity     0.5000        -",
        "dp_ease@8      0.2500   1.0000",
    ]
