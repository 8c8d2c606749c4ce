from __future__ import annotations

from types import SimpleNamespace

import pytest

from shared.errors import FetchError
from shared.text_encoder import encoder_identity, load_text_encoder, mean_pool


def test_padding_never_counts():
    import torch

    hidden = torch.tensor([[[1.0, 3.0], [3.0, 5.0], [100.0, 100.0]]])
    assert mean_pool(hidden, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 4.0]]
    assert mean_pool(hidden, torch.tensor([[0, 0, 0]])).tolist() == [[0.0, 0.0]]


def test_a_model_that_cannot_be_loaded_is_one_clear_sentence(tmp_path):
    with pytest.raises(FetchError, match=r"text encoder .* cannot be loaded .*'none' for word statistics only"):
        load_text_encoder(str(tmp_path))


def test_the_identity_of_a_name_is_the_name():
    assert encoder_identity("somebody/model") == "somebody/model"


def test_a_model_without_torch_is_a_fetch_error(monkeypatch):
    import transformers

    def missing(*args, **kwargs):
        raise ImportError("AutoModel requires the PyTorch library")

    monkeypatch.setattr(transformers, "AutoTokenizer", SimpleNamespace(from_pretrained=missing))
    with pytest.raises(FetchError, match="PyTorch"):
        load_text_encoder("somebody/model")
