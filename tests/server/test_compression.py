from __future__ import annotations

import numpy as np
import pytest
import torch

from server.compression import int8_encoder, pruned_encoder, stored_bytes
from server.features import read_texts
from shared.text_encoder import load_text_encoder

TEXTS = ("red pen", "a blue mug", "tea in the morning", "coffee", "")


@pytest.fixture(scope="module")
def loaded(tiny_bert):
    return load_text_encoder(tiny_bert)


def linear_weights(encoder):
    return [layer.weight for layer in encoder.modules() if isinstance(layer, torch.nn.Linear)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_pruning_takes_the_smallest_weights_of_each_layer_and_leaves_the_model_alone(loaded, share):
    before = [weight.clone() for weight in linear_weights(loaded[1])]
    for old, new in zip(before, linear_weights(pruned_encoder(loaded[1], share)), strict=True):
        gone = new == 0
        assert int(gone.sum()) == round(share * new.numel())
        assert torch.equal(new[~gone], old[~gone])
        if gone.any() and not gone.all():
            assert old[gone].abs().max() <= old[~gone].abs().min()
    assert all(torch.equal(old, now) for old, now in zip(before, linear_weights(loaded[1]), strict=True))


def test_a_share_outside_0_to_1_is_a_wrong_call(loaded):
    with pytest.raises(ValueError, match=r"share 1\.5"):
        pruned_encoder(loaded[1], 1.5)


def test_bytes_as_weights_and_lower_precision_read_nearly_the_same(loaded):
    tokenizer, encoder = loaded
    exact = read_texts(TEXTS, tokenizer, encoder)
    others = {
        "int8": read_texts(TEXTS, tokenizer, int8_encoder(encoder)),
        "bfloat16": read_texts(TEXTS, tokenizer, encoder, precision="bfloat16"),
    }
    for name, vectors in others.items():
        assert vectors.dtype == np.float32
        assert (vectors != exact).any(), name
        assert (vectors * exact).sum(axis=1)[:4].min() > 0.99, name
        assert not vectors[4].any()
    np.testing.assert_array_equal(read_texts(TEXTS, tokenizer, encoder), exact)


def test_what_is_smaller_is_counted_as_smaller(loaded):
    encoder = loaded[1]
    whole = sum(value.numel() * value.element_size() for value in encoder.state_dict().values())
    linear = sum(4 * weight.numel() for weight in linear_weights(encoder))
    assert stored_bytes(encoder) == pytest.approx(whole, rel=0.001)  # the row of the padding token is zero
    assert whole - stored_bytes(int8_encoder(encoder)) == pytest.approx(0.75 * linear, rel=0.02)
    assert whole - stored_bytes(pruned_encoder(encoder, 0.5)) == pytest.approx((0.5 - 1 / 32) * linear, rel=0.02)
