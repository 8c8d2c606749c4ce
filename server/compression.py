"""A smaller or quicker text model: fewer bits, fewer weights. What each costs in recall: docs/large-model.md.

- int8: weights of linear layers as bytes, inputs rounded batch by batch (dynamic quantisation, as PyTorch does it).
- pruning: in every linear layer the weights of smallest magnitude become 0 (S. Han et al. 2015, without retraining).

Lower precision while reading texts is an argument of :func:`server.features.read_texts`.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def int8_encoder(encoder: Any) -> Any:  # noqa: ANN401 - transformers' auto classes are untyped
    """A copy of a text model whose linear layers hold bytes; on the processor only."""
    import torch  # noqa: PLC0415 - heavy import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch announces that this will move to another package
        quantise: Any = torch.ao.quantization.quantize_dynamic  # untyped
        return quantise(copy.deepcopy(encoder), {torch.nn.Linear}, dtype=torch.qint8)


def pruned_encoder(encoder: Any, share: float) -> Any:  # noqa: ANN401 - as above
    """A copy of a text model without the smallest ``share`` of the weights of each linear layer.

    Raises:
        ValueError: the share is not in 0..1 (a wrong call, not input).
    """
    import torch  # noqa: PLC0415 - heavy import

    if not 0 <= share <= 1:
        raise ValueError(f"share {share} of weights: must lie between 0 and 1")
    smaller = copy.deepcopy(encoder)
    with torch.no_grad():
        for layer in smaller.modules():
            if isinstance(layer, torch.nn.Linear):
                order = layer.weight.abs().flatten().argsort()
                layer.weight.view(-1)[order[: round(share * len(order))]] = 0.0
    return smaller


def stored_bytes(encoder: Any) -> int:  # noqa: ANN401 - as above
    """Bytes of a text model's weights: a matrix with many zeros as a bit a weight and what is left."""
    import torch  # noqa: PLC0415 - heavy import

    total = 0
    for value in encoder.state_dict().values():
        tensors = [t for t in (value if isinstance(value, tuple) else (value,)) if isinstance(t, torch.Tensor)]
        total += sum(_bytes(tensor) for tensor in tensors)
    return total


def _bytes(tensor: torch.Tensor) -> int:
    full = tensor.numel() * tensor.element_size()
    if tensor.is_quantized or tensor.dim() != 2:
        return full
    kept = int((tensor != 0).sum())
    return min(full, kept * tensor.element_size() + -(-tensor.numel() // 8))  # a bit a weight says which are there
