"""The models that both sides train, as a peer's user would write them: plain torch, one user at a time.

The twins of ``client/decoder.py`` and ``client/model.py``; that their sums are equal is checked in every benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

_EPS = 1e-6
TEXT_WEIGHT = 5.0


class _Measured(nn.Module):
    """pfl asks every model for metrics; none are read here."""

    def metrics(self, *_data: Tensor) -> dict[str, Any]:
        """Nothing."""
        return {}


class Decoder(_Measured):
    """The linear encoder: a user's history said back from its vector."""

    def __init__(self, rank: int, buckets: int) -> None:
        super().__init__()
        self.target = nn.Linear(rank, buckets, bias=False)

    def loss(self, vector: Tensor, history: Tensor) -> Tensor:
        """Half the squared error of (rows, rank) and (rows, buckets)."""
        wrong: Tensor = self.target(vector) - history
        return wrong.square().sum() * 0.5


class TwoTower(_Measured):
    """The two-tower encoder "mean" under the loss "softmax" and cosine similarity."""

    def __init__(self, text_width: int, rank: int, buckets: int, behaviour_width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(text_width, rank, bias=False)
        self.identity = nn.Embedding(buckets, rank)
        self.bias = nn.Embedding(buckets, 1)
        self.behaviour = nn.Linear(behaviour_width, 1, bias=False)

    def loss(
        self, text: Tensor, bucket: Tensor, behaviour: Tensor, offset: Tensor, target: Tensor, negative: Tensor
    ) -> Tensor:
        """Mean over the targets of each row, summed over rows; shapes as ``client/model.py: Inputs``."""
        context = behaviour.shape[1]
        vectors = self.projection(text) + self.identity(bucket)
        traits = self.behaviour(behaviour).squeeze(-1)
        weights = traits / (traits.abs().sum(1, keepdim=True) + _EPS)
        user = (weights[:, :, None] * vectors[:, :context]).sum(1)
        near = _cosine(user, vectors[:, context:])
        scores = TEXT_WEIGHT * near + self.bias(bucket[:, context:]).squeeze(-1) + offset
        wanted, other = scores[:, : target.shape[1]], scores[:, target.shape[1] :]
        rest = torch.logsumexp(other + torch.where(negative > 0, 0.0, -1e9), dim=1, keepdim=True)
        each = torch.logaddexp(wanted, rest) - wanted
        of_rows: Tensor = (each * target).sum(1) / target.sum(1).clamp(min=1.0)
        return of_rows.sum()


class Perceptron(_Measured):
    """64 features, one hidden layer, 10 classes: what pfl was measured on before; fedrecall has no such model."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def loss(self, features: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of (rows, 64) and (rows,)."""
        return functional.cross_entropy(self.layers(features), label)


def _cosine(user: Tensor, item: Tensor) -> Tensor:
    product = (user[:, None] * item).sum(-1)
    lengths = (user.square().sum(-1, keepdim=True) + _EPS**2).sqrt() * (item.square().sum(-1) + _EPS**2).sqrt()
    return product / (lengths + _EPS)


def build(kind: str, parameters: Mapping[str, NDArray[Any]]) -> _Measured:
    """The model of a kind, with sizes and values of its parameters."""
    shape = {name: value.shape for name, value in parameters.items()}
    module: _Measured
    if kind == "linear":
        buckets, rank = shape["target.weight"]
        module = Decoder(rank, buckets)
    elif kind == "mean":
        rank, text_width = shape["projection.weight"]
        module = TwoTower(text_width, rank, shape["identity.weight"][0], shape["behaviour.weight"][1])
    else:
        module = Perceptron(shape["layers.0.weight"][0])
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in parameters.items()})
    return module
