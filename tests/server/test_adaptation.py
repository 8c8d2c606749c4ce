from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.adaptation import ContrastiveTerms, contrast, contrastive_encoder, whiten, whitening
from shared.errors import ConfigError


def cloud(seed=0, n=300, width=8):
    """Rows that vary most in their first coordinate, around a common mean."""
    return np.random.default_rng(seed).standard_normal((n, width)) * np.geomspace(8, 0.5, width) + 3.0


def test_at_full_strength_all_directions_vary_alike():
    rows = cloud()
    covariance = np.cov(whiten(rows, whitening(rows, 1.0)).T)
    np.testing.assert_allclose(covariance, np.eye(8) * covariance[0, 0], atol=1e-8 * covariance[0, 0])


def test_half_way_a_variance_becomes_its_square_root():
    rows = cloud()
    before, after = np.linalg.eigvalsh(np.cov(rows.T)), np.linalg.eigvalsh(np.cov(whiten(rows, whitening(rows)).T))
    np.testing.assert_allclose(after / after[-1], np.sqrt(before / before[-1]), rtol=1e-6)


def test_at_no_strength_only_the_mean_goes():
    rows = cloud()
    np.testing.assert_allclose(whiten(rows, whitening(rows, 0.0)), rows - rows.mean(axis=0), atol=1e-9)


def test_rows_of_items_without_text_do_not_count_and_stay_zero():
    rows = cloud()
    with_empty = np.concatenate([rows, np.zeros((50, 8))])
    how = whitening(with_empty)
    np.testing.assert_allclose(how.mean, rows.mean(axis=0))
    assert not whiten(with_empty, how)[300:].any()


def test_fewer_rows_than_coordinates_change_nothing():
    rows = cloud(n=7)
    assert whitening(rows) is None
    np.testing.assert_array_equal(whiten(rows, None), rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.0, 1.0))
def test_directions_without_any_variance_do_no_harm(seed, strength):
    rows = cloud(seed, n=30)
    rows[:, 3] = 1.0
    assert np.isfinite(whiten(rows, whitening(rows, strength))).all()
    same = np.ones((30, 8))
    assert np.abs(whiten(same, whitening(same, strength))).max() < 1e-6


def test_the_contrastive_loss_is_the_one_of_the_paper():
    import torch

    one, other = (torch.tensor(cloud(seed, n=4)) for seed in (1, 2))
    cosine = np.array([[float(a @ b / a.norm() / b.norm()) for b in other] for a in one]) / 0.05
    expected = np.mean([np.log(np.exp(cosine[i]).sum()) - cosine[i, i] for i in range(4)])
    assert float(contrast(one, other, 0.05)) == pytest.approx(expected, rel=1e-9)


TERMS = ContrastiveTerms(rank=2, epochs=2, batch=8, learning_rate=0.05)
TEXTS = [f"{a} {b} {c}" for a in ("red", "blue") for b in ("pen", "mug", "tea") for c in ("morning", "coffee", "the")]


def test_training_repeats_itself_under_a_seed_and_leaves_the_global_generator_alone(tiny_bert):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two = (contrastive_encoder(TEXTS, tiny_bert, TERMS)[1].state_dict() for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_only_query_and_value_change_and_the_model_comes_back_whole(tiny_bert):
    from shared.text_encoder import load_text_encoder

    before, steps = load_text_encoder(tiny_bert)[1].state_dict(), []
    after = contrastive_encoder(TEXTS, tiny_bert, TERMS, progress=lambda *step: steps.append(step))[1]
    assert not after.training
    changed = {name for name, weight in after.state_dict().items() if not weight.equal(before[name])}
    assert changed == {f"encoder.layer.{n}.attention.self.{part}.weight" for n in (0, 1) for part in ("query", "value")}
    assert set(after.state_dict()) == set(before)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_catalogue_smaller_than_a_batch_trains_nothing(tiny_bert):
    from shared.text_encoder import load_text_encoder

    after = contrastive_encoder(["red pen", "", " "], tiny_bert, TERMS)[1].state_dict()
    assert all(weight.equal(after[name]) for name, weight in load_text_encoder(tiny_bert)[1].state_dict().items())


def test_a_model_without_such_projections_is_refused_in_one_sentence(tmp_path, tiny_bert):
    import shutil

    from transformers import GPT2Config, GPT2Model

    folder = shutil.copytree(tiny_bert, tmp_path / "other")
    GPT2Model(GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
    with pytest.raises(ConfigError, match="no attention projections called query and value"):
        contrastive_encoder(TEXTS, str(folder), TERMS)
