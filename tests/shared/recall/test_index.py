"""64 bytes an item: exact where everything fits, near where it does not, and W stays on the query's side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import DataError
from shared.policy.recall_policy import RecallPolicy
from shared.recall import index
from shared.recall.index import (
    TEXT_WIDTH,
    WIDTH,
    best_rows,
    framed,
    has_graphs,
    near_rows,
    open_graph,
    query_of,
    write_graph,
)
from shared.recall.scoring import scores

POLICY = RecallPolicy(
    version=1,
    similarity={"text": "dot", "lexical": "cosine", "category": "cosine"},
    weights={"text": 10.0, "lexical": 5.0, "category": 1.0, "popularity": 1.0},
    features=("text", "lexical", "category", "popularity"),
    depth=50,
    local_iterations=1,
    exposure_price=0.0,
    diversity=0.0,
    exploration=0.0,
    k=10,
)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def world(seed, items=300, text=16, lexical=20, category=8):
    rng = np.random.default_rng(seed)
    groups = {"text": rng.normal(size=(items, text)).astype(np.float32)}
    groups |= {"lexical": unit(rng.normal(size=(items, lexical))), "category": unit(rng.normal(size=(items, category)))}
    users = {group: rng.normal(size=(1, vectors.shape[1])).astype(np.float32) for group, vectors in groups.items()}
    return groups, rng.normal(size=items).astype(np.float32), users


def gained(policy, gain):
    return replace(policy, weights={g: w * (1 + gain.get(g, 0.0)) for g, w in policy.weights.items()})


@given(
    seed=st.integers(0, 1000),
    kinds=st.tuples(*[st.sampled_from(("dot", "cosine", "euclidean"))] * 3),
    gain=st.dictionaries(st.sampled_from(("text", "lexical", "category", "popularity")), st.floats(-0.9, 3)),
    weight=st.sampled_from((-3.0, 0.5, 5.0)),
)
@settings(max_examples=40, deadline=None)
def test_where_all_columns_fit_a_row_scores_as_its_vectors_do(seed, kinds, gain, weight):
    items, popularity, users = world(seed)
    similarity = dict(zip(("text", "lexical", "category"), kinds, strict=True))
    policy = replace(POLICY, similarity=similarity)
    values, frame = framed(policy, items, popularity)
    other = replace(policy, weights={**policy.weights, "lexical": weight})  # W of the request, not of the rows
    near = values.astype(np.float32) @ query_of(frame, other, users, gain)
    exact = scores(gained(other, gain), users, items, popularity)[0]
    assert np.std(near - exact) < 0.02 * np.std(exact) + 1e-3  # but for a constant, and the rounding to bytes


def test_wide_groups_are_kept_by_their_principal_directions():
    rng = np.random.default_rng(5)
    items, popularity, _ = world(5)
    few = rng.normal(size=(24, 300))  # 300 wide, but of 24 directions
    items = {**items, "lexical": unit(rng.normal(size=(300, 24)) @ few)}
    users = {group: vectors[:1] for group, vectors in items.items()}
    values, frame = framed(POLICY, items, popularity)
    near, exact = (
        values.astype(np.float32) @ query_of(frame, POLICY, users, {}),
        scores(POLICY, users, items, popularity),
    )
    assert frame.text == 16
    assert frame.basis.shape[1] == WIDTH - 16 - 1
    assert np.std(near - exact[0]) < 0.03 * np.std(exact)


def test_learned_vectors_that_are_too_wide_are_mixed_in():
    items, popularity, users = world(6, text=TEXT_WIDTH + 8, lexical=10, category=4)
    values, frame = framed(POLICY, items, popularity)
    near, exact = (
        values.astype(np.float32) @ query_of(frame, POLICY, users, {}),
        scores(POLICY, users, items, popularity),
    )
    assert (frame.text, frame.mixed) == (0, ("text", "lexical", "category"))
    assert np.std(near - exact[0]) < 0.03 * np.std(exact)


@pytest.mark.parametrize("features", [("popularity",), ("text",), ("category", "popularity")])
def test_groups_that_are_off_take_no_columns(features):
    items, popularity, users = world(7)
    policy = replace(POLICY, features=features)
    values, frame = framed(policy, items, popularity)
    near, exact = (
        values.astype(np.float32) @ query_of(frame, policy, users, {}),
        scores(policy, users, items, popularity),
    )
    assert np.std(near - exact[0]) < 0.02 * np.std(exact)
    assert (frame.step > 0).sum() == {"popularity": 1, "text": 16, "category": 9}[features[0]]


@given(count=st.integers(1, 400), among=st.one_of(st.none(), st.sets(st.integers(0, 299))), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_best_rows_are_the_best_and_ascending(count, among, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-127, 128, (300, WIDTH)).astype(np.int8)
    query = rng.normal(size=WIDTH).astype(np.float32)
    some = None if among is None else np.array(sorted(among), np.int64)
    found = best_rows(values, query, count, some)
    score = values.astype(np.float32) @ query
    pool = np.arange(300) if some is None else some
    want = pool[np.argsort(-score[pool])][:count]
    assert found.tolist() == sorted(want.tolist())


@pytest.mark.parametrize("count", [1, 600, 3000, 20_000, 30_000])
@pytest.mark.parametrize("large", [slice(None), slice(0, None, 9), slice(1, None, 9), slice(0, 600)])
def test_the_largest_of_many_are_found_whatever_a_sample_of_them_says(count, large):
    score = np.random.default_rng(count).permutation(20_000).astype(np.float32)  # a sample takes every ninth
    score[large] += 1e6
    assert index._largest(score, count).tolist() == sorted(np.argsort(-score)[:count].tolist())


def test_among_equals_as_many_as_were_asked_for_are_taken():
    assert len(index._largest(np.zeros(50_000, np.float32), 600)) == 600


@pytest.mark.skipif(not has_graphs(), reason='needs usearch (extra "index")')
def test_a_graph_from_disk_finds_most_of_the_best_and_no_row_that_was_left_out(tmp_path):
    rng = np.random.default_rng(8)
    centres = rng.normal(size=(60, WIDTH))
    vectors = centres[rng.integers(60, size=6000)] + 0.5 * rng.normal(size=(6000, WIDTH))
    values = np.rint(vectors / np.abs(vectors).max() * 127).astype(np.int8)
    kept = np.flatnonzero(np.arange(6000) % 10)
    write_graph(tmp_path / "graph", values, kept)
    graph = open_graph(tmp_path / "graph")
    shares = []
    for query in centres[:20].astype(np.float32):
        found = near_rows(graph, values, query, 100)
        assert (found % 10).all()
        shares.append(np.isin(best_rows(values, query, 100, kept), found).mean())
    assert np.mean(shares) > 0.95


@pytest.mark.skipif(not has_graphs(), reason='needs usearch (extra "index")')
@pytest.mark.parametrize("content", [None, b"", b"nothing like it" * 100])
def test_a_broken_graph_says_so(tmp_path, content):
    path = tmp_path / "graph"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable index"):
        open_graph(path)
