from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server import features
from server.features import build_catalogue, category_vectors, lexical_vectors, mean_pool, text_vectors, unit_rows
from shared.errors import DataError, FetchError

TEXTS = ("red pen", "red pen", "a blue mug for tea and coffee in the morning", "", "tea")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"red pen a blue mug for tea and coffee in the morning".split()]  # noqa: SIM905 - a sentence


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A BERT of 16 dimensions with random weights: everything but the meaning is real."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), **shape)).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def lengths(vectors):
    return np.linalg.norm(vectors, axis=1)


def test_text_vectors_have_length_one_and_an_empty_text_has_none(tiny):
    vectors = text_vectors(TEXTS, tiny)
    assert vectors.shape == (5, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(lengths(vectors), [1, 1, 1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert vectors[0] @ vectors[2] < 0.999


def test_neither_batches_nor_padding_change_a_vector(tiny):
    together = text_vectors(TEXTS, tiny)
    for batch in (1, 2, 3):
        np.testing.assert_allclose(text_vectors(TEXTS, tiny, batch=batch), together, atol=1e-5)


def test_a_text_vector_is_the_mean_of_the_last_hidden_states(tiny):
    import torch
    from transformers import AutoModel, AutoTokenizer

    with torch.no_grad():
        tokens = AutoTokenizer.from_pretrained(tiny)("blue mug", return_tensors="pt")
        mean = AutoModel.from_pretrained(tiny).eval()(**tokens).last_hidden_state[0].mean(dim=0).numpy()
    np.testing.assert_allclose(text_vectors(["blue mug"], tiny)[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_padding_never_counts():
    import torch

    hidden = torch.tensor([[[1.0, 3.0], [3.0, 5.0], [100.0, 100.0]]])
    assert mean_pool(hidden, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 4.0]]
    assert mean_pool(hidden, torch.tensor([[0, 0, 0]])).tolist() == [[0.0, 0.0]]


def test_texts_beyond_the_public_length_are_cut(tiny):
    tail = text_vectors(["tea " * 126 + "red red red", "tea " * 126 + "pen pen"], tiny)
    np.testing.assert_allclose(tail[0], tail[1], atol=1e-6)


def test_progress_counts_up_to_the_number_of_texts(tiny):
    seen = []
    text_vectors(TEXTS, tiny, batch=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


def catalogue(model, texts=TEXTS, **options):
    n = len(texts)
    return build_catalogue([str(i) for i in range(n)], texts, texts, [("pens",)] * n, model=model, **options)


def counted(monkeypatch):
    calls, real = [], features.text_vectors
    monkeypatch.setattr(features, "text_vectors", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    return calls


def test_a_catalogue_has_three_groups_and_the_same_version_from_the_cache(tiny, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    made, again = (catalogue(tiny, cache=tmp_path) for _ in range(2))
    assert set(made.groups) == {"text", "lexical", "category"}
    assert made.version() == again.version()
    assert len(calls) == 1


def test_other_texts_or_another_model_are_computed_anew(tiny, tmp_path, monkeypatch):
    import shutil

    calls = counted(monkeypatch)
    catalogue(tiny, cache=tmp_path / "cache")
    catalogue(tiny, ("red mug", *TEXTS[1:]), cache=tmp_path / "cache")
    changed = shutil.copytree(tiny, tmp_path / "changed")
    catalogue(str(changed), cache=tmp_path / "cache")  # the same files elsewhere: from the cache
    assert len(calls) == 2
    config = json.loads((changed / "config.json").read_text(encoding="utf-8"))
    (changed / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}), encoding="utf-8")
    catalogue(str(changed), cache=tmp_path / "cache")
    assert len(calls) == 3


def test_a_damaged_cache_file_is_made_again(tiny, tmp_path):
    first = catalogue(tiny, cache=tmp_path)
    (kept,) = (tmp_path / "vectors").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert catalogue(tiny, cache=tmp_path).version() == first.version()


def test_without_a_model_the_text_group_is_the_lexical_one():
    made = catalogue("none")
    np.testing.assert_array_equal(made.groups["text"], made.groups["lexical"])


def test_a_model_that_cannot_be_loaded_is_one_clear_sentence(tmp_path):
    with pytest.raises(FetchError, match=r"text encoder .* cannot be loaded .*'none' for word statistics only"):
        text_vectors(["a"], str(tmp_path))


def test_repeated_ids_are_refused():
    with pytest.raises(DataError, match="'a' appears twice"):
        build_catalogue(["a", "a"], ["x", "y"], ["x", "y"], [(), ()], model="none")


def test_lexical_vectors_know_shared_words():
    vectors = lexical_vectors(["red pen", "red pencil case", "garden hose", "a pen, red"])
    assert vectors.shape[1] <= 64
    assert vectors[0] @ vectors[3] > vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_a_large_vocabulary_is_reduced_to_64_and_the_same_every_time():
    generator = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in generator.integers(300, size=6)) for _ in range(200)]
    vectors = lexical_vectors(texts)
    assert vectors.shape == (200, 64)
    np.testing.assert_allclose(lengths(vectors), 1.0, atol=1e-6)
    np.testing.assert_array_equal(vectors, lexical_vectors(texts))


def test_a_word_said_eight_times_does_not_drown_the_others():
    often, others = lexical_vectors(["pen pen pen pen pen pen pen pen mug cup", "mug cup"])
    assert often @ others > 0.2  # 0.1 with plain counts


@pytest.mark.parametrize("texts", [[""], ["", "."], ["pen"], ["pen", ""]])
def test_tiny_catalogues_have_lexical_vectors_too(texts):
    vectors = lexical_vectors(texts)
    expected = [1.0 if text == "pen" else 0.0 for text in texts]
    np.testing.assert_allclose(lengths(vectors), expected, atol=1e-6)


def test_a_rare_category_weighs_more_than_a_common_one():
    vectors = category_vectors([("common", "rare"), ("common",), ("common",), ()])
    common, rare = vectors[0]
    assert rare > common > 0
    np.testing.assert_allclose(lengths(vectors), [1, 1, 1, 0], atol=1e-6)
    ratio = np.log1p(4 / 1) / np.log1p(4 / 3)
    assert rare / common == pytest.approx(ratio, rel=1e-5)


def test_no_categories_at_all_give_zero_rows():
    assert category_vectors([(), ()]).tolist() == [[0.0], [0.0]]


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(-1e6, 1e6)))
def test_rows_have_length_one_or_nothing(rows):
    found = lengths(unit_rows(rows))
    assert all(abs(length - 1) < 1e-5 or length == 0 for length in found)
    assert ((found == 0) == (np.linalg.norm(rows, axis=1) <= 1e-6)).all()


def test_the_identity_of_a_name_is_the_name():
    assert features._identity("somebody/model") == "somebody/model"


def test_a_model_without_torch_is_a_fetch_error(monkeypatch):
    import transformers

    def missing(*args, **kwargs):
        raise ImportError("AutoModel requires the PyTorch library")

    monkeypatch.setattr(transformers, "AutoTokenizer", SimpleNamespace(from_pretrained=missing))
    with pytest.raises(FetchError, match="PyTorch"):
        text_vectors(["a"], "somebody/model")


@pytest.mark.slow
def test_the_default_encoder_knows_meanings(tmp_path):
    from simulations.download import cache_folder
    from simulations.fetch import DEFAULT_MODEL, fetch_encoder

    vectors = text_vectors(
        ["watering can", "garden hose", "guitar strings"], fetch_encoder(DEFAULT_MODEL, cache_folder())
    )
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
