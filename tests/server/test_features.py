from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server import features
from server.basis import unit_rows
from server.features import (
    build_catalogue,
    text_vectors,
)
from shared.errors import DataError
from shared.recall.quantised import whole_rows

TEXTS = ("red pen", "red pen", "a blue mug for tea and coffee in the morning", "", "tea")


def lexical_vectors(texts):
    return features.lexical_vectors(texts)[0]


def category_vectors(categories):
    return features.category_vectors(categories)[0]


def compact_vectors(text, lexical):
    return features.compact_vectors(text, lexical)[0]


def lengths(vectors):
    return np.linalg.norm(vectors, axis=1)


def test_text_vectors_have_length_one_and_an_empty_text_has_none(tiny_bert):
    vectors = text_vectors(TEXTS, tiny_bert)
    assert vectors.shape == (5, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(lengths(vectors), [1, 1, 1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert vectors[0] @ vectors[2] < 0.999


def test_neither_batches_nor_padding_change_a_vector(tiny_bert):
    together = text_vectors(TEXTS, tiny_bert)
    for batch in (1, 2, 3):
        np.testing.assert_allclose(text_vectors(TEXTS, tiny_bert, batch=batch), together, atol=1e-5)


def test_a_text_vector_is_the_mean_of_the_last_hidden_states(tiny_bert):
    import torch
    from transformers import AutoModel, AutoTokenizer

    with torch.no_grad():
        tokens = AutoTokenizer.from_pretrained(tiny_bert)("blue mug", return_tensors="pt")
        mean = AutoModel.from_pretrained(tiny_bert).eval()(**tokens).last_hidden_state[0].mean(dim=0).numpy()
    np.testing.assert_allclose(text_vectors(["blue mug"], tiny_bert)[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_texts_beyond_the_public_length_are_cut(tiny_bert):
    tail = text_vectors(["tea " * 126 + "red red red", "tea " * 126 + "pen pen"], tiny_bert)
    np.testing.assert_allclose(tail[0], tail[1], atol=1e-6)


def test_progress_counts_up_to_the_number_of_texts(tiny_bert):
    seen = []
    text_vectors(TEXTS, tiny_bert, batch=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


def catalogue(model, texts=TEXTS, **options):
    n = len(texts)
    return build_catalogue([str(i) for i in range(n)], texts, texts, [("pens",)] * n, model=model, **options)


def counted(monkeypatch):
    calls, real = [], features.text_vectors
    monkeypatch.setattr(features, "text_vectors", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    return calls


def test_a_catalogue_has_four_groups_and_the_same_version_from_the_cache(tiny_bert, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    made, again = (catalogue(tiny_bert, cache=tmp_path) for _ in range(2))
    assert set(made.groups) == {"text", "lexical", "category", "compact"}
    assert made.version() == again.version()
    assert len(calls) == 1


def test_other_texts_or_another_model_are_computed_anew(tiny_bert, tmp_path, monkeypatch):
    import shutil

    calls = counted(monkeypatch)
    catalogue(tiny_bert, cache=tmp_path / "cache")
    catalogue(tiny_bert, ("red mug", *TEXTS[1:]), cache=tmp_path / "cache")
    changed = shutil.copytree(tiny_bert, tmp_path / "changed")
    catalogue(str(changed), cache=tmp_path / "cache")  # the same files elsewhere: from the cache
    assert len(calls) == 2
    config = json.loads((changed / "config.json").read_text(encoding="utf-8"))
    (changed / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}), encoding="utf-8")
    catalogue(str(changed), cache=tmp_path / "cache")
    assert len(calls) == 3


def test_damaged_cache_files_are_made_again(tiny_bert, tmp_path):
    first = catalogue(tiny_bert, cache=tmp_path)
    for folder in ("vectors", "catalogues"):
        (kept,) = (tmp_path / folder).iterdir()
        kept.write_bytes(kept.read_bytes()[:100])
    assert catalogue(tiny_bert, cache=tmp_path).version() == first.version()


def test_a_whole_catalogue_comes_from_the_cache_and_nothing_is_computed(tiny_bert, tmp_path, monkeypatch):
    first = catalogue(tiny_bert, spread_out(), adaptation="whiten", vectors="int8", cache=tmp_path)
    monkeypatch.setattr(features, "_built", lambda *_: pytest.fail("computed twice"))
    again = catalogue(tiny_bert, spread_out(), adaptation="whiten", vectors="int8", cache=tmp_path)
    assert again.version() == first.version()
    for name, rows in first.groups.items():
        assert rows.tobytes() == again.groups[name].tobytes()


@pytest.mark.parametrize("other", [{"vectors": "int8"}, {"adaptation": "whiten"}, {"texts": ("another", *TEXTS[1:])}])
def test_what_vectors_are_made_from_is_in_the_key_of_a_catalogue(tiny_bert, tmp_path, other):
    for options in ({}, other):
        catalogue(tiny_bert, cache=tmp_path, **options)
    assert len(list((tmp_path / "catalogues").iterdir())) == 2


def test_categories_and_the_code_are_in_the_key_of_a_catalogue(tmp_path, monkeypatch):
    for names in ("pens", "mugs"):
        build_catalogue(["a"], ["pen"], ["pen"], [(names,)], model="none", cache=tmp_path)
    monkeypatch.setattr(features, "code_of", lambda *_: [b"changed"])
    build_catalogue(["a"], ["pen"], ["pen"], [("mugs",)], model="none", cache=tmp_path)
    assert len(list((tmp_path / "catalogues").iterdir())) == 3


def test_without_a_model_the_text_group_is_the_lexical_one():
    made = catalogue("none")
    np.testing.assert_array_equal(made.groups["text"], made.groups["lexical"])


def spread_out(n=40):
    """Enough texts for the covariance of 16 coordinates."""
    words = "red pen a blue mug for tea and coffee in the morning".split()  # noqa: SIM905 - a sentence
    rng = np.random.default_rng(0)
    return (*(" ".join(rng.choice(words, 5)) for _ in range(n)), "")


def test_whitening_takes_off_what_all_texts_have_in_common(tiny_bert):
    raw, white = (catalogue(tiny_bert, spread_out(), adaptation=how).groups["text"] for how in ("none", "whiten"))
    np.testing.assert_allclose(lengths(white), [1] * 40 + [0], atol=1e-6)
    assert np.linalg.norm(raw[:40].mean(axis=0)) > 0.5
    assert np.linalg.norm(white[:40].mean(axis=0)) < 0.2


def test_an_adaptation_leaves_the_other_groups_and_the_cache_of_the_raw_vectors_alone(tiny_bert, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    raw, white = (catalogue(tiny_bert, spread_out(), adaptation=how, cache=tmp_path) for how in ("none", "whiten"))
    assert len(calls) == 1
    for name in ("lexical", "category"):
        np.testing.assert_array_equal(raw.groups[name], white.groups[name])


def test_a_contrastive_model_has_a_cache_entry_of_its_own(tiny_bert, tmp_path):
    texts = spread_out(130)
    made = [
        catalogue(tiny_bert, texts, adaptation=how, cache=tmp_path) for how in ("none", "contrastive", "contrastive")
    ]
    assert len(list((tmp_path / "vectors").iterdir())) == 2
    assert made[0].version() != made[1].version() == made[2].version()


def test_who_waits_for_a_contrastive_model_sees_it_learn_and_read(tiny_bert):
    texts, seen = spread_out(130), []
    catalogue(tiny_bert, texts, adaptation="contrastive", progress=lambda *told: seen.append(told))
    assert seen == [(65, 260), (130, 260), (194, 260), (258, 260), (260, 260)]


def test_a_contrastive_model_without_a_model_is_refused():
    with pytest.raises(DataError, match=r'model\.adaptation "contrastive" needs a text encoder.*is "none"'):
        catalogue("none", adaptation="contrastive")


def test_int8_vectors_are_what_bytes_stand_for_and_close_to_the_floats(tiny_bert):
    exact, rough = (catalogue(tiny_bert, spread_out(), vectors=kind).groups for kind in ("float32", "int8"))
    for name in exact:
        assert whole_rows(rough[name]) is not None
        assert (exact[name] * rough[name]).sum(axis=1).min(where=lengths(exact[name]) > 0, initial=1.0) > 0.999


def test_repeated_ids_are_refused():
    with pytest.raises(DataError, match="'a' appears twice"):
        build_catalogue(["a", "a"], ["x", "y"], ["x", "y"], [(), ()], model="none")


def test_lexical_vectors_know_shared_words():
    vectors = lexical_vectors(["red pen", "red pencil case", "garden hose", "a pen, red"])
    assert vectors[0] @ vectors[3] > vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_words_are_exact_while_there_are_few_and_reduced_the_same_every_time_when_there_are_many(monkeypatch):
    generator = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in generator.integers(300, size=6)) for _ in range(200)]
    exact = lexical_vectors(texts)
    assert exact.shape == (200, len({word for text in texts for word in text.split()}))
    np.testing.assert_allclose(lengths(exact), 1.0, atol=1e-6)
    monkeypatch.setattr(features, "EXACT_WORDS", exact.shape[1] - 1)
    monkeypatch.setattr(features, "LEXICAL_SIZE", 64)
    vectors = lexical_vectors(texts)
    assert vectors.shape == (200, 64)
    np.testing.assert_allclose(lengths(vectors), 1.0, atol=1e-6)
    np.testing.assert_array_equal(vectors, lexical_vectors(texts))


def test_compact_vectors_are_the_leading_directions_of_each_group_half_whitened():
    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.standard_normal((40, 40)))[0]
    group = (generator.standard_normal((500, 40)) * 0.8 ** np.arange(40)) @ directions.T
    vectors = compact_vectors(group.astype(np.float32), group[:, :3].astype(np.float32))
    assert vectors.shape == (500, 16 + 3)
    np.testing.assert_allclose(lengths(vectors), 1.0, atol=1e-6)
    centred = group - group.mean(0)
    values, found = np.linalg.eigh(centred.T @ centred)
    first = centred @ found[:, ::-1][:, :16] / values[::-1][:16] ** 0.25
    ours = vectors[:, :16] / np.linalg.norm(vectors[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(ours), np.abs(first / lengths(first)[:, None]), atol=1e-4)


def test_compact_vectors_of_nothing_are_nothing():
    assert compact_vectors(np.ones((5, 3), np.float32), np.zeros((5, 1), np.float32)).tolist() == [[0.0]] * 5


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


@pytest.mark.slow
def test_the_default_encoder_knows_meanings(tmp_path):
    from simulations.download import cache_folder
    from simulations.fetch import DEFAULT_MODEL, fetch_encoder

    vectors = text_vectors(
        ["watering can", "garden hose", "guitar strings"], fetch_encoder(DEFAULT_MODEL, cache_folder())
    )
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_the_key_of_a_catalogue_covers_the_code_that_makes_vectors():
    import ast
    from pathlib import Path

    # What neither makes nor changes a vector: types, errors, files, the cache itself, where the encoder computes.
    beside = {f"shared.{name}" for name in ("catalogue", "device", "errors", "files", "kept", "policy.recall_policy")}
    code = {"server.features", *features._CODE}
    for name in code:
        tree = ast.parse(Path(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
        used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        own = {module for module in used if module.split(".")[0] in {"shared", "server"}}
        assert own - code <= beside, name
