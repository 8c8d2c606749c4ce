from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.policy.recall_policy import RecallPolicy
from shared.recall.scoring import group_scores, scores, similarity

POLICY = RecallPolicy(
    version=1,
    similarity={"text": "cosine", "lexical": "dot", "category": "euclidean"},
    weights={"text": 5.0, "lexical": 0.5, "category": 2.0, "popularity": 1.5},
    features=("text", "lexical", "category", "popularity"),
    depth=10,
    local_iterations=1,
    exposure_price=0.0,
    diversity=0.0,
    exploration=0.0,
    k=10,
)


def a_world(seed=0, users=3, items=7):
    rng = np.random.default_rng(seed)
    widths = {"text": 4, "lexical": 3, "category": 5}
    who = {g: rng.standard_normal((users, w)).astype(np.float32) for g, w in widths.items()}
    what = {g: rng.standard_normal((items, w)).astype(np.float32) for g, w in widths.items()}
    return who, what, rng.standard_normal(items).astype(np.float32)


def naive(kind, u, v):
    dot = sum(float(a) * float(b) for a, b in zip(u, v, strict=True))
    if kind == "dot":
        return dot
    if kind == "euclidean":
        return -sum((float(a) - float(b)) ** 2 for a, b in zip(u, v, strict=True))
    return dot / (np.linalg.norm(u) * np.linalg.norm(v))


@pytest.mark.parametrize("kind", ["cosine", "dot", "euclidean"])
def test_a_similarity_is_what_its_name_says(kind):
    who, what, _ = a_world()
    got = similarity(kind, who["text"], what["text"])
    wanted = [[naive(kind, u, v) for v in what["text"]] for u in who["text"]]
    assert got.dtype == np.float32
    assert got == pytest.approx(np.array(wanted), abs=1e-4)


def test_cosine_forgets_lengths_and_a_zero_vector_is_like_nothing():
    who, what, _ = a_world()
    assert similarity("cosine", 7 * who["text"], what["text"]) == pytest.approx(
        similarity("cosine", who["text"], what["text"]), abs=1e-5
    )
    assert not similarity("cosine", np.zeros((1, 4), np.float32), what["text"]).any()
    assert np.abs(similarity("cosine", who["text"], who["text"])).max() <= 1


def test_nearer_is_larger():
    items = np.array([[1.0, 0.0], [3.0, 0.0]], np.float32)
    near, far = similarity("euclidean", np.array([[1.5, 0.0]], np.float32), items)[0]
    assert 0 >= near > far


def test_r_is_the_sum_of_similarities_times_weights():
    who, what, popularity = a_world()
    wanted = POLICY.weights["popularity"] * popularity + sum(
        POLICY.weights[g] * similarity(POLICY.similarity[g], who[g], what[g]) for g in what
    )
    assert scores(POLICY, who, what, popularity) == pytest.approx(wanted, abs=1e-4)


@given(st.floats(-3, 3), st.integers(0, 50))
def test_r_is_linear_in_w(factor, seed):
    world = a_world(seed)
    scaled = replace(POLICY, weights={g: factor * w for g, w in POLICY.weights.items()})
    assert scores(scaled, *world) == pytest.approx(factor * scores(POLICY, *world), abs=1e-3)
    halves = [replace(POLICY, features=part) for part in (("text", "popularity"), ("lexical", "category"))]
    assert sum(scores(half, *world) for half in halves) == pytest.approx(scores(POLICY, *world), abs=1e-4)


def test_a_group_that_is_switched_off_says_nothing():
    who, what, popularity = a_world()
    off = replace(POLICY, features=("text",))
    assert group_scores(off, who, what, popularity).keys() == {"text"}
    assert np.array_equal(scores(off, who, what, popularity), scores(off, who, what, popularity + 9))


def test_a_group_of_weight_zero_is_not_even_asked_for():
    who, what, popularity = a_world()
    zero = replace(POLICY, weights=dict(POLICY.weights) | {"lexical": 0.0})
    parts = {g: v for g, v in what.items() if g != "lexical"}
    assert group_scores(zero, who, parts, popularity).keys() == {"text", "category", "popularity"}


def test_a_group_that_the_catalogue_does_not_have_is_left_out():
    who, what, popularity = a_world()
    what["category"] = np.zeros((7, 0), np.float32)
    who["category"] = np.zeros((3, 0), np.float32)
    assert "category" not in group_scores(POLICY, who, what, popularity)


def test_the_parts_explain_the_whole():
    world = a_world()
    assert sum(group_scores(POLICY, *world).values()) == pytest.approx(scores(POLICY, *world), abs=1e-4)
