from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.policy.recall_policy import RecallPolicy
from shared.recall.rerank import item_prices, popularity_price, recommend

POLICY = RecallPolicy(
    version=1,
    similarity={"text": "cosine", "lexical": "cosine", "category": "cosine"},
    weights={"text": 1.0, "lexical": 1.0, "category": 1.0, "popularity": 1.0},
    features=("text",),
    depth=1000,
    local_iterations=1,
    exposure_price=0.0,
    diversity=0.0,
    exploration=0.0,
    k=10,
)
USERS, ITEMS = 4, 40


def a_world(seed=0, *, levels=None, excluded=0.3, items=ITEMS):
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((USERS, items)) if levels is None else rng.integers(0, levels, (USERS, items))
    vectors = rng.standard_normal((items, 5)).astype(np.float32)
    never = rng.random((USERS, items)) < excluded
    return {
        "scores": scores.astype(np.float32),
        "excluded": never,
        "seen": never.sum(axis=1),
        "price": np.zeros(items, np.float32),
        "vectors": vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    }


def lists(policy, world, seed=0):
    return recommend(policy, **world, rngs=[np.random.default_rng([seed, u]) for u in range(USERS)])


def naive_lists(world, k):
    out = []
    for scores, excluded in zip(world["scores"], world["excluded"], strict=True):
        allowed = [i for i in range(len(scores)) if not excluded[i]]
        best = sorted(allowed, key=lambda i: (-scores[i], i))[:k]
        out.append(best + [-1] * (k - len(best)))
    return out


prices = st.sampled_from([0.0, 0.5, 10.0])
policies = st.builds(
    lambda depth, diversity, exploration, k: replace(
        POLICY, depth=depth, diversity=diversity, exploration=exploration, k=k
    ),
    st.integers(1, 60),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.integers(10, 50),
)


# --- whatever the policy


@given(policies, prices, st.integers(0, 99), st.sampled_from([None, 1, 3]), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_never_an_excluded_item_never_one_twice_and_every_place_that_can_be_filled_is(
    policy, price, seed, levels, excluded
):
    world = a_world(seed, levels=levels, excluded=excluded)
    world["price"] = np.linspace(0, price, ITEMS, dtype=np.float32)
    got = lists(policy, world)
    assert got.shape == (USERS, policy.k)
    reach = min(max(policy.depth, policy.k), ITEMS)
    for row, banned in zip(got, world["excluded"], strict=True):
        shown = row[row >= 0]
        assert not banned[shown].any()
        assert len(set(shown.tolist())) == len(shown)
        assert len(shown) == min(policy.k, reach, int((~banned).sum()))
        assert (row[len(shown) :] == -1).all()  # nothing stands after an empty place


@given(policies, st.integers(0, 20))
def test_the_same_chance_gives_the_same_lists(policy, seed):
    world = a_world(seed)
    assert np.array_equal(lists(policy, world, seed), lists(policy, world, seed))


@pytest.mark.parametrize("diversity", [0.0, 0.5, 1.0])
def test_scores_that_are_no_numbers_are_not_shown(diversity):
    world = a_world(excluded=0.0)
    for item, bad in enumerate([np.nan, np.inf, -np.inf]):
        world["scores"][:, item] = bad
    assert not np.isin([0, 1, 2], lists(replace(POLICY, k=ITEMS, diversity=diversity), world)).any()


# --- by score


@given(st.integers(0, 500), st.sampled_from([None, 1, 2, 5]), st.integers(1, 50), st.integers(10, 50))
def test_without_knobs_the_list_is_a_sort_by_score_then_index(seed, levels, depth, k):
    world = a_world(seed, levels=levels)
    assert lists(replace(POLICY, depth=depth, k=k), world).tolist() == naive_lists(world, k)


def test_a_list_longer_than_the_catalogue_is_filled_up():
    world = a_world(items=3, excluded=0.0)
    got = lists(POLICY, world)
    assert (got[:, :3] >= 0).all()
    assert (got[:, 3:] == -1).all()


# --- depth and exposure price


def test_depth_bounds_what_re_ranking_can_reach():
    world = a_world(excluded=0.0)
    best = np.argsort(np.argsort(-world["scores"][0])) < 15  # the best of user 0 pay
    world["price"] = 10 * best.astype(np.float32)
    for depth in (10, 15, 20, 40):
        best = set(np.argsort(-world["scores"][0])[:depth].tolist())
        got = set(lists(replace(POLICY, depth=depth), world)[0].tolist())
        assert got <= best
        assert len(got & set(np.argsort(-world["scores"][0])[15:].tolist())) == min(10, depth - 15 if depth > 15 else 0)


def test_what_an_item_pays_comes_off_its_score():
    world = a_world(excluded=0.0)
    price = np.random.default_rng(1).random(ITEMS).astype(np.float32)
    for factor in (np.float32(0.5), np.float32(2.0)):
        paid = dict(world, scores=world["scores"] - factor * price)
        assert lists(POLICY, dict(world, price=factor * price)).tolist() == naive_lists(paid, 10)


def test_a_higher_price_shows_the_popular_less():
    world = a_world(excluded=0.0)
    price = np.random.default_rng(1).random(ITEMS).astype(np.float32)
    shown = [
        price[lists(POLICY, dict(world, price=np.float32(factor) * price))].mean()
        for factor in (0.0, 0.5, 1.0, 2.0, 5.0)
    ]
    assert shown == sorted(shown, reverse=True)
    assert shown[-1] < shown[0] - 0.1


def test_an_item_pays_by_popularity_and_by_bucket():
    prior, bucket = np.array([-1.0, 0.0, 3.0], np.float32), np.array([2, 0, 1, 2])
    assert not item_prices(POLICY, prior, bucket).any()
    assert item_prices(replace(POLICY, exposure_price=2.0), prior, bucket) == pytest.approx([2.0, 0.0, 0.5, 2.0])
    own = replace(POLICY, exposure_prices=(0, 25, 100))
    assert item_prices(own, prior, bucket) == pytest.approx([1.0, 0.0, 0.25, 1.0])
    assert item_prices(replace(own, exposure_price=2.0), prior, bucket) == pytest.approx([3.0, 0.0, 0.75, 3.0])
    assert item_prices(own, prior, bucket).dtype == np.float32


@pytest.mark.parametrize("buckets", [1, 2, 4])
def test_prices_of_other_buckets_are_refused(buckets):
    with pytest.raises(ProtocolError, match=rf"exposure_prices: {buckets} prices, expected none or one for each of 3"):
        item_prices(replace(POLICY, exposure_prices=(0,) * buckets), np.zeros(3, np.float32), np.arange(3))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=20))
def test_a_price_lies_between_nothing_and_one(prior):
    price = popularity_price(np.array(prior, np.float32))
    assert price.dtype == np.float32
    assert ((price >= 0) & (price <= 1)).all()
    if len(set(prior)) > 1:
        assert price[int(np.argmax(prior))] == 1
        assert price[int(np.argmin(prior))] == 0


def test_a_price_is_linear_in_log_popularity():
    assert popularity_price(np.array([-1.0, 0.0, 3.0], np.float32)) == pytest.approx([0, 0.25, 1])
    assert popularity_price(np.array([2.0, 2.0], np.float32)).tolist() == [0, 0]


# --- diversity


def naive_mmr(scores, vectors, allowed, k, trade):
    """Carbonell and Goldstein 1998, one item at a time."""
    values = {i: float(scores[i]) for i in allowed}
    low, high = min(values.values()), max(values.values())
    chosen = []
    while len(chosen) < min(k, len(allowed)):
        best = max(
            (i for i in allowed if i not in chosen),
            key=lambda i: (
                (1 - trade) * (values[i] - low) / (high - low)
                - trade * max([float(vectors[i] @ vectors[j]) for j in chosen] + [0.0])
            ),
        )
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("trade", [0.2, 0.5, 0.9])
def test_diversity_is_maximal_marginal_relevance(trade):
    world = a_world(3)
    got = lists(replace(POLICY, diversity=trade), world)
    for row, scores, excluded in zip(got, world["scores"], world["excluded"], strict=True):
        allowed = sorted(np.flatnonzero(~excluded).tolist(), key=lambda i: -scores[i])
        assert row.tolist() == naive_mmr(scores, world["vectors"], allowed, 10, trade)


def test_more_diversity_makes_lists_less_alike():
    world = a_world(4, excluded=0.0)

    def likeness(trade):
        chosen = world["vectors"][lists(replace(POLICY, diversity=trade), world)]
        return np.einsum("uiw,ujw->uij", chosen, chosen).mean()

    assert likeness(0.0) > likeness(0.5) > likeness(1.0)


def test_hardly_any_diversity_is_the_order_by_score():
    world = a_world(5)
    assert np.array_equal(lists(replace(POLICY, diversity=1e-9), world), lists(POLICY, world))


# --- exploration


@pytest.mark.parametrize(("share", "places"), [(0.05, 1), (0.1, 2), (0.25, 5), (0.5, 10)])
def test_the_exploration_share_of_the_places_is_filled_by_chance(share, places):
    world = a_world(6, excluded=0.0)
    policy = replace(POLICY, k=20, exploration=share)
    plain, first, second = (
        lists(replace(policy, exploration=0.0), world),
        lists(policy, world, 1),
        lists(policy, world, 2),
    )
    kept = 20 - places
    assert np.array_equal(first[:, :kept], plain[:, :kept])
    assert not np.array_equal(first[:, kept:], second[:, kept:])


@pytest.mark.parametrize("share", [0.02, 0.045, 0.13])
def test_a_share_that_is_no_whole_number_of_places_holds_on_average(share):
    scores = np.arange(100, dtype=np.float32)[None]
    nothing, vectors = np.zeros(100, np.float32), np.ones((100, 1), np.float32)
    policy = replace(POLICY, k=20, exploration=share)
    lost = 0
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        got = recommend(policy, scores, np.zeros((1, 100), bool), np.zeros(1, np.int64), nothing, vectors, [rng])[0]
        same = got == np.arange(99, 79, -1)
        assert same[: 20 - int(np.ceil(share * 20))].all()
        lost += int((~same).sum())
    # A chance place that draws the very item that would have stood there anyway looks like none.
    assert lost / 2000 == pytest.approx(share * 20, rel=0.1)


def test_only_who_has_seen_enough_explores():
    world = a_world(6)
    seen = world["seen"]
    assert len(set(seen.tolist())) > 1
    policy = replace(POLICY, exploration=0.5, explore_from=int(seen.max()))
    plain, got = lists(replace(policy, exploration=0.0), world), lists(policy, world)
    changed = (plain != got).any(axis=1)
    assert np.array_equal(changed, seen == seen.max())


def test_what_is_excluded_for_another_reason_was_not_seen():
    world = a_world(6) | {"seen": np.array([5, 0, 0, 5])}
    policy = replace(POLICY, exploration=0.5, explore_from=5)
    plain, got = lists(replace(policy, exploration=0.0), world), lists(policy, world)
    assert (world["excluded"].sum(axis=1) > 5).all()
    assert (plain != got).any(axis=1).tolist() == [True, False, False, True]


def one_user(price):
    world = {name: value[:1] if value.ndim == 2 and name != "vectors" else value for name, value in a_world().items()}
    return world | {"excluded": np.zeros((1, ITEMS), bool), "seen": np.zeros(1, np.int64), "price": price}


def explored(policy, world):
    """What stood in the last place of a list, 2000 times; and the places before."""
    kept = recommend(policy, **world, rngs=[np.random.default_rng(0)])[0, :9]
    return kept, [recommend(policy, **world, rngs=[np.random.default_rng(s)])[0, 9] for s in range(2000)]


def test_every_candidate_has_the_same_chance_to_be_explored_and_no_other_item_has_any():
    world = one_user(np.zeros(ITEMS, np.float32))
    kept, seen = explored(replace(POLICY, depth=20, exploration=0.1), world)
    candidates = set(np.argsort(-world["scores"][0])[:20].tolist()) - set(kept.tolist())
    assert set(seen) == candidates
    counts = np.unique(seen, return_counts=True)[1]
    assert counts == pytest.approx(2000 / len(candidates), rel=0.3)


def test_chance_goes_to_those_that_pay_less():
    price = np.where(np.arange(ITEMS) % 4 == 0, 1e-3, 0.0).astype(np.float32)
    world = one_user(price)
    kept, seen = explored(replace(POLICY, depth=ITEMS, exploration=0.1), world)
    assert set(seen) == {item for item in range(ITEMS) if item % 4} - set(kept.tolist())


def test_where_all_pay_differently_the_cheaper_half_has_a_chance():
    world = one_user(np.linspace(0, 1e-3, ITEMS, dtype=np.float32))
    kept, seen = explored(replace(POLICY, depth=ITEMS, exploration=0.1), world)
    left = sorted(set(range(ITEMS)) - set(kept.tolist()))
    assert set(seen) == set(left[: (len(left) + 1) // 2])


def test_the_dearer_half_fills_what_the_cheaper_one_cannot():
    world = one_user(np.linspace(0, 1e-3, ITEMS, dtype=np.float32))
    got = recommend(replace(POLICY, k=ITEMS, exploration=0.5), **world, rngs=[np.random.default_rng(0)])[0]
    assert sorted(got) == list(range(ITEMS))


def test_without_exploration_chance_is_not_touched():
    class Untouched:
        def __getattr__(self, name):
            raise AssertionError(name)

    assert recommend(POLICY, **a_world(), rngs=[Untouched()] * USERS).shape == (USERS, 10)
