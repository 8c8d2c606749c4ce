"""New items: known ones keep their rows, new ones take after their neighbours, and are recommended at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import newcomers
from client.newcomers import grown
from client.recommending import shelf_of, shown_to
from shared.catalogue import Catalogue
from shared.catalogue_change import apply_change, change_between, change_bytes, change_of, composed, part_of
from shared.encoder.encode import item_vectors
from shared.encoder.spec import EncoderSpec, bucket_of, initial_parameters, unpack
from shared.errors import DataError
from shared.policy.recall_policy import RecallPolicy

ITEMS = 48
PLAIN = RecallPolicy(
    version=1,
    similarity={"text": "cosine", "lexical": "cosine", "category": "cosine"},
    weights={"text": 5.0, "lexical": 1.0, "category": 2.0, "popularity": 1.0},
    features=("text", "popularity"),
    depth=60,
    local_iterations=1,
    exposure_price=0.0,
    diversity=0.0,
    exploration=0.0,
    k=10,
)


@pytest.fixture(scope="module")
def catalogue(catalogue):
    """With the vectors that either encoder reads."""
    return replace(catalogue, groups={**catalogue.groups, "compact": catalogue.groups["text"]})


def model(buckets=ITEMS, seed=0, kind="mean"):
    rng = np.random.default_rng(seed)
    spec = EncoderSpec(text_width=16, rank=16, buckets=buckets, kind=kind)
    parameters = initial_parameters(spec, rng) + rng.normal(0, 0.3, spec.size).astype(np.float32)
    return spec, parameters, rng.normal(0, 1, buckets).astype(np.float32)


def with_items(catalogue, text, place=None):
    """The next version of a catalogue; new items at the end, or everything in another order."""
    count = len(text)
    names = catalogue.ids + tuple(f"new {n}" for n in range(count))
    vectors = {
        name: np.concatenate(
            [rows, text if name in {"text", "compact"} else np.zeros((count, rows.shape[1]), np.float32)]
        )
        for name, rows in catalogue.groups.items()
    }
    order = np.arange(len(names)) if place is None else place
    names = tuple(names[at] for at in order)
    return Catalogue(names, names, names, ((),) * len(names), {name: rows[order] for name, rows in vectors.items()})


def between(catalogue, *items):
    middle = catalogue.groups["text"][list(items)].sum(axis=0, keepdims=True)
    return middle / np.linalg.norm(middle)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), buckets=st.sampled_from([ITEMS, 7]), kind=st.sampled_from(["mean", "linear"]))
def test_known_items_keep_their_vectors_wherever_they_stand(catalogue, seed, buckets, kind):
    spec, parameters, prior = model(buckets, seed, kind)
    place = np.random.default_rng(seed).permutation(ITEMS + 3)
    later = with_items(catalogue, catalogue.groups["text"][:3], place)
    after = grown(spec, parameters, prior, catalogue.ids, later)
    old, new = (
        shelf_of(spec, parameters, prior, catalogue),
        shelf_of(after.spec, after.parameters, after.prior, later, bucket=after.bucket),
    )
    for at, name in enumerate(later.ids):
        if name in catalogue.ids:
            before = catalogue.ids.index(name)
            assert new.items["text"][at] == pytest.approx(old.items["text"][before], abs=1e-5)
            assert new.popularity[at] == old.popularity[before]


def test_nothing_new_is_the_model_as_it_was(catalogue):
    spec, parameters, prior = model()
    after = grown(spec, parameters, prior, catalogue.ids, catalogue)
    assert after.spec == spec
    assert np.array_equal(after.parameters, parameters)
    assert np.array_equal(after.prior, prior)
    assert np.array_equal(after.bucket, bucket_of(catalogue.ids, ITEMS))


@pytest.mark.parametrize("buckets", [ITEMS, 7])
def test_a_new_item_takes_after_the_known_items_whose_texts_are_nearest(catalogue, buckets):
    """By hand: the two between which it lies; its own text through the shared projection on top."""
    spec, parameters, prior = model(buckets)
    later = with_items(catalogue, between(catalogue, 4, 9))
    near = catalogue.groups["text"] @ later.groups["text"][-1]
    assert set(np.argsort(-near)[:2].tolist()) == {4, 9}
    after = grown(spec, parameters, prior, catalogue.ids, later, neighbours=2)
    parts, rows = unpack(spec, parameters), bucket_of(catalogue.ids, buckets)[[4, 9]]
    vectors = item_vectors(after.spec, after.parameters, later.groups["text"], after.bucket)
    own = later.groups["text"][-1] @ parts["projection"] + parts["identity"][rows].mean(axis=0)
    assert vectors[-1] == pytest.approx(own, abs=1e-5)


def test_a_target_is_as_long_as_the_new_item_is_said_to_be_popular(catalogue):
    """Encoder linear: what the neighbours say per unit of popularity, times the popularity of the ninth decile."""
    spec, parameters, prior = model(kind="linear")
    later = with_items(catalogue, between(catalogue, 4, 9))
    after = grown(spec, parameters, prior, catalogue.ids, later, neighbours=2)
    target, popularity = unpack(spec, parameters)["target"], np.exp(prior)
    per_unit = (target[4] + target[9]) / (popularity[4] + popularity[9])
    expected = per_unit * np.exp(np.quantile(prior, 0.9))
    assert unpack(after.spec, after.parameters)["target"][after.bucket[-1]] == pytest.approx(expected, rel=1e-4)
    context = unpack(spec, parameters)["context"]
    new = unpack(after.spec, after.parameters)["context"][after.bucket[-1]]
    assert new == pytest.approx(context[[4, 9]].mean(axis=0), abs=1e-6)


@pytest.mark.parametrize("kind", ["mean", "linear"])
def test_nine_in_ten_known_items_are_less_popular_than_a_new_one(catalogue, kind):
    spec, parameters, prior = model(kind=kind)
    later = with_items(catalogue, between(catalogue, 4, 9))
    after = grown(spec, parameters, prior, catalogue.ids, later)
    shelf = shelf_of(after.spec, after.parameters, after.prior, later, bucket=after.bucket)
    assert (shelf.popularity[:-1] < shelf.popularity[-1]).mean() == pytest.approx(0.9, abs=0.02)


def test_new_items_share_rows_with_nobody(catalogue):
    spec, parameters, prior = model(7)
    after = grown(spec, parameters, prior, catalogue.ids, with_items(catalogue, catalogue.groups["text"][:5]))
    assert after.spec.buckets == 12
    assert sorted(after.bucket[ITEMS:].tolist()) == [7, 8, 9, 10, 11]
    assert after.bucket[:ITEMS].max() < 7
    assert len(after.prior) == 12


def test_a_new_item_with_text_is_recommended_at_once(catalogue, history):
    """Who used what it is like finds it on the next list, and nobody has touched it."""
    spec, _, _ = model()
    one = replace(history(1, 2, 0), item=np.array([4, 9], np.int32), kind=np.ones(2, np.int8))
    later = with_items(catalogue, between(catalogue, 4, 9))
    flat = np.zeros(ITEMS, np.float32)
    after = grown(spec, initial_parameters(spec, np.random.default_rng(0)), flat, catalogue.ids, later)
    shelf = shelf_of(after.spec, after.parameters, after.prior, later, bucket=after.bucket)
    assert shown_to(shelf, PLAIN, one, np.random.default_rng(0)).item[0] == ITEMS


def test_items_that_are_gone_are_gone(catalogue):
    spec, parameters, prior = model()
    kept = np.arange(10, ITEMS)
    names = tuple(catalogue.ids[at] for at in kept)
    smaller = Catalogue(names, names, names, ((),) * len(names), {g: v[kept] for g, v in catalogue.groups.items()})
    after = grown(spec, parameters, prior, catalogue.ids, smaller)
    assert after.spec == spec
    assert after.bucket.tolist() == kept.tolist()


def later_by_changes(catalogue):
    """As a device gets it: some items left, others came, in two steps that arrive as one."""
    came = with_items(catalogue, np.concatenate([between(catalogue, 4, 9), between(catalogue, 20, 21)]))
    without = part_of(came, np.array([at for at in range(ITEMS + 2) if at not in (0, 4, 30)], np.int64))
    last = part_of(without, np.array([at for at in range(len(without)) if without.ids[at] != "new 1"], np.int64))
    change = composed(change_between(catalogue, without), change_between(without, last))
    return apply_change(catalogue, change_of(change_bytes(change), "publication"))


@pytest.mark.parametrize("buckets", [ITEMS, 7])
@pytest.mark.parametrize("kind", ["mean", "linear"])
def test_a_catalogue_that_items_left_and_came_to_by_a_change_is_served_at_once(catalogue, history, kind, buckets):
    """Known items score as before, wherever they stand now; who came takes after those that are left."""
    spec, parameters, prior = model(buckets, kind=kind)
    later = later_by_changes(catalogue)
    after = grown(spec, parameters, prior, catalogue.ids, later, neighbours=2)
    shelf = shelf_of(after.spec, after.parameters, after.prior, later, bucket=after.bucket)
    old = shelf_of(spec, parameters, prior, catalogue)
    assert len(later) == ITEMS - 2
    for at, name in enumerate(later.ids[:-1]):
        before = catalogue.ids.index(name)
        assert shelf.items["text"][at] == pytest.approx(old.items["text"][before], abs=1e-5)
        assert shelf.popularity[at] == old.popularity[before]
    near = [later.ids[at] for at in np.argsort(-(later.groups["text"][:-1] @ later.groups["text"][-1]))[:2]]
    assert "i9" in near
    assert "i4" not in later.ids  # which was as near
    name = "context" if kind == "linear" else "identity"
    rows = bucket_of(catalogue.ids, buckets)[[catalogue.ids.index(item) for item in near]]
    found = unpack(after.spec, after.parameters)[name][after.bucket[-1]]
    assert found == pytest.approx(unpack(spec, parameters)[name][rows].mean(axis=0), abs=1e-6)
    one = replace(history(1, 2, 0), item=np.array([3, 8], np.int32), kind=np.ones(2, np.int8))
    assert len(shown_to(shelf, PLAIN, one, np.random.default_rng(0)).item) == PLAIN.k


def test_the_nearest_are_found_in_pieces_as_at_once_and_ties_go_to_the_earlier_item(catalogue, monkeypatch):
    spec, parameters, prior = model()
    twins = replace(catalogue, groups={**catalogue.groups, "text": np.repeat(catalogue.groups["text"][:12], 4, axis=0)})
    later = with_items(twins, twins.groups["text"][[0, 4, 8, 44]])
    at_once = grown(spec, parameters, prior, twins.ids, later, neighbours=3)
    rows = unpack(spec, parameters)["identity"]
    found = unpack(at_once.spec, at_once.parameters)["identity"][ITEMS:]
    assert found == pytest.approx(np.stack([rows[at : at + 3].mean(axis=0) for at in (0, 4, 8, 44)]), abs=1e-6)
    monkeypatch.setattr(newcomers, "CHUNK", 1)
    in_pieces = grown(spec, parameters, prior, twins.ids, later, neighbours=3)
    assert np.array_equal(in_pieces.parameters, at_once.parameters)


def test_a_catalogue_of_another_model_is_a_sentence(catalogue):
    spec, parameters, prior = model()
    with pytest.raises(DataError, match="none of them fits the model, which was trained with 2 others of width 16"):
        grown(spec, parameters, prior, ("x", "y"), catalogue)
    other = replace(catalogue, groups={"text": catalogue.groups["lexical"]})
    with pytest.raises(DataError, match="text vectors of width 7"):
        grown(spec, parameters, prior, catalogue.ids, other)
