"""A basis gives every item of its build the row that it has there, and new ones a row in the same space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import features
from server.basis import load_basis, save_basis, unknown_words, vectors_of_new
from server.features import adapted_encoder, build_with_basis, text_vectors
from shared.errors import DataError
from shared.files import read_arrays, write_arrays

VOCABULARY = "red pen a blue mug for tea and coffee in the morning".split()  # noqa: SIM905 - a sentence
KINDS = ("pens", "mugs", "gifts")


def items(n=60, seed=0):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(VOCABULARY, 5)) for _ in range(n - 1)] + [""]
    categories = [tuple(rng.choice(KINDS, rng.integers(0, 3), replace=False).tolist()) for _ in range(n)]
    return texts, categories


def built(texts, categories, **reading):
    ids = [str(at) for at in range(len(texts))]
    return build_with_basis(ids, texts, texts, categories, **{"model": "none", **reading})


def assert_same_rows(catalogue, found, rows, atol=2e-5):
    assert found.keys() == catalogue.groups.keys()
    for name, vectors in found.items():
        np.testing.assert_allclose(vectors, catalogue.groups[name][rows], atol=atol, err_msg=name)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 100),
    reading=st.sampled_from([{}, {"adaptation": "whiten"}, {"vectors": "int8"}]),
    rows=st.lists(st.integers(0, 59), max_size=5),
)
def test_an_item_that_is_there_gets_the_row_that_it_has(seed, reading, rows):
    texts, categories = items(seed=seed)
    catalogue, basis = built(texts, categories, **reading)
    found = vectors_of_new(basis, [texts[at] for at in rows], [categories[at] for at in rows], None)
    # One part in 127 is what a byte rounds by, where the floats differ in their last bit.
    assert_same_rows(catalogue, found, rows, 0.01 if "vectors" in reading else 2e-5)


def test_so_it_does_where_words_are_reduced_to_their_axes(monkeypatch):
    monkeypatch.setattr(features, "EXACT_WORDS", 5)
    monkeypatch.setattr(features, "LEXICAL_SIZE", 4)
    texts, categories = items()
    catalogue, basis = built(texts, categories)
    assert catalogue.groups["lexical"].shape == (60, 4 + features.ROOM)
    assert_same_rows(catalogue, vectors_of_new(basis, texts, categories, None), slice(None))


@pytest.mark.parametrize("adaptation", ["none", "whiten"])
def test_so_it_does_with_a_text_encoder(tiny_bert, adaptation, tmp_path):
    texts, categories = items()
    catalogue, basis = built(texts, categories, model=tiny_bert, adaptation=adaptation)
    save_basis(basis, tmp_path / "basis.npz")
    read = text_vectors(texts[3:5], tiny_bert)
    found = vectors_of_new(load_basis(tmp_path / "basis.npz"), texts[3:5], categories[3:5], read)
    assert_same_rows(catalogue, found, slice(3, 5))


def test_an_encoder_that_was_adapted_is_kept_and_reads_as_it_did(tiny_bert, tmp_path):
    texts, categories = items(130)
    adapted_encoder(texts, tiny_bert, tmp_path / "encoder")
    kept, basis = built(texts, categories, model=str(tmp_path / "encoder"))
    at_once, _ = built(texts, categories, model=tiny_bert, adaptation="contrastive")
    raw, _ = built(texts, categories, model=tiny_bert)
    np.testing.assert_allclose(kept.groups["text"], at_once.groups["text"], atol=1e-5)
    assert np.abs(kept.groups["text"] - raw.groups["text"]).max() > 1e-3
    read = text_vectors(texts[:2], str(tmp_path / "encoder"))
    assert_same_rows(kept, vectors_of_new(basis, texts[:2], categories[:2], read), slice(2))


@pytest.mark.parametrize("reading", [{}, {"adaptation": "whiten"}, {"vectors": "int8"}])
def test_a_basis_is_the_same_after_it_was_written(tmp_path, reading):
    texts, categories = items(200)
    _, basis = built(texts, categories, **reading)
    save_basis(basis, tmp_path / "basis.npz")
    loaded = load_basis(tmp_path / "basis.npz")
    one, other = (vectors_of_new(b, ["red mug", "tea"], [("mugs",), ()], None) for b in (basis, loaded))
    for name, vectors in one.items():
        np.testing.assert_array_equal(vectors, other[name])


def test_a_new_item_lies_next_to_what_it_is_like():
    texts, categories = items()
    catalogue, basis = built([*texts, "red pen and blue pen"], [*categories, ("pens",)])
    new = vectors_of_new(basis, ["blue pen and red pen", "coffee mug"], [("pens",), ("mugs",)], None)
    for name in ("lexical", "text", "compact", "category"):
        near = catalogue.groups[name] @ new[name].T
        assert near[-1, 0] == pytest.approx(1.0, abs=1e-5)
        assert near[-1, 1] < 0.9


def test_room_for_new_words_changes_no_score_of_the_first_items():
    texts, categories = items()
    with_room, _ = built(texts, categories)
    without = features.build_catalogue(with_room.ids, texts, texts, categories, model="none")
    for name, vectors in without.groups.items():
        np.testing.assert_allclose(with_room.groups[name] @ with_room.groups[name].T, vectors @ vectors.T, atol=1e-5)
    assert with_room.groups["lexical"].shape[1] == without.groups["lexical"].shape[1] + features.ROOM


def test_a_new_word_takes_its_share_of_a_row_and_counts_between_new_items_only():
    """By hand: with one item more, a word of that item alone weighs ln((2 + n) / 2) + 1."""
    texts, categories = items()
    catalogue, basis = built(texts, categories)
    plain, strange, other = vectors_of_new(basis, ["mug", "mug zeppelin", "zeppelin"], [()] * 3, None)["lexical"]
    known, new = basis.words.idf[basis.words.vocabulary.index("mug")], np.log(62 / 2) + 1
    assert plain @ strange == pytest.approx(known / np.hypot(known, new), abs=1e-6)
    assert other @ strange == pytest.approx(new / np.hypot(known, new), abs=1e-6)
    assert not (catalogue.groups["lexical"] @ other).any()
    assert unknown_words(basis.words, ["red zeppelin mug", "Zeppelin!"]) == pytest.approx(0.5)
    assert unknown_words(basis.words, ["", "?"]) == 0.0


def test_different_new_words_have_nothing_in_common_on_average():
    _, basis = built(*items())
    rows = vectors_of_new(basis, [f"zeppelin{n} airship{n}" for n in range(300)], [()] * 300, None)["lexical"]
    common = (rows @ rows.T)[np.triu_indices(300, 1)]
    assert abs(common.mean()) < 0.01
    assert common.std() < 1.5 / features.ROOM**0.5


def test_a_new_word_counts_as_much_as_known_ones_where_words_are_reduced(monkeypatch):
    monkeypatch.setattr(features, "EXACT_WORDS", 5)
    monkeypatch.setattr(features, "LEXICAL_SIZE", 6)
    texts, categories = items(400)
    _, basis = built(texts, categories)
    assert 0.3 < basis.words.length < 1.0
    found = vectors_of_new(basis, [f"{text} zeppelin" for text in texts[:100]], [()] * 100, None)["lexical"]
    share = np.square(found[:, 6:]).sum(axis=1).mean()
    idf = dict(zip(basis.words.vocabulary, basis.words.idf, strict=True))
    known = np.mean([sum(idf.get(word, 0.0) ** 2 for word in set(text.split())) for text in texts[:100]])
    assert share == pytest.approx(1 / (1 + known / basis.words.rarest**2), abs=0.1)


def test_a_new_category_counts_for_nothing():
    _, basis = built(*items())
    one, other = vectors_of_new(basis, ["", ""], [("mugs",), ("mugs", "zeppelins")], None)["category"]
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("texts", [["", ""], ["same pen"] * 3])
def test_catalogues_with_next_to_nothing_in_them_have_a_basis_too(texts, tmp_path):
    catalogue, basis = built(texts, [()] * len(texts))
    save_basis(basis, tmp_path / "basis.npz")
    found = vectors_of_new(load_basis(tmp_path / "basis.npz"), texts, [()] * len(texts), None)
    assert_same_rows(catalogue, found, slice(None))
    assert {name: v.shape for name, v in vectors_of_new(basis, [], [], None).items()} == {
        name: (0, v.shape[1]) for name, v in catalogue.groups.items()
    }


def test_texts_read_by_another_encoder_are_refused(tiny_bert):
    texts, categories = items()
    _, basis = built(texts, categories, model=tiny_bert)
    for read in (None, np.zeros((1, 8), np.float32)):
        with pytest.raises(DataError, match=r"directions read \(1, 16\): use the text encoder that it was built with"):
            vectors_of_new(basis, ["tea"], [()], read)


def test_a_file_that_is_no_basis_is_a_sentence(tmp_path):
    path = tmp_path / "basis.npz"
    _, basis = built(*items())
    save_basis(basis, path)
    arrays = read_arrays(path)
    for broken in (
        {name: value for name, value in arrays.items() if name != "idf"},
        arrays | {"said": np.frombuffer(b"[]", np.uint8)},
        arrays | {"said": np.frombuffer(b'{"format": "other", "vectors": "int8"}', np.uint8)},
    ):
        write_arrays(path, broken)
        with pytest.raises(DataError, match=r"basis\.npz: "):
            load_basis(path)
