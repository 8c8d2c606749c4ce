"""The history encoder in torch, for training: the twin of ``shared/encoder`` and ``shared/recall/scoring.py``.

All parameters act on per-user tensors: an item tower shared by the batch would give Opacus one gradient per *item*.
Opacus' rules need what went into a layer and what flows back to its output, nothing else. So the layers here are
taps: their outputs are worked out beforehand without a graph (the projection of all items once per model, not once
per place), and autograd stops there. That leaves out the gradient summed over the batch, which autograd would add at
the price of the per-sample one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import register_grad_sampler
from opacus.grad_sample.embedding import compute_embedding_grad_sample
from opacus.grad_sample.linear import compute_linear_grad_sample
from torch import Tensor, nn
from torch.nn import functional

from client.batch import Batch, BatchShape
from shared.encoder.spec import EncoderSpec, Floats, plain_behaviour, unpack
from shared.history import BEHAVIOUR_WIDTH
from shared.policy.recall_policy import RecallPolicy, Similarity
from shared.protocol import TrainingTerms

_EPS = 1e-6


@dataclass(frozen=True)
class Items:
    """The public side of training.

    Attributes:
        groups: feature group -> (items, width) float32.
        bucket: (items,) row of each item in per-item vectors.
        prior: (buckets,) log private popularity.
    """

    groups: dict[str, Floats]
    bucket: NDArray[np.int64]
    prior: Floats


@dataclass(frozen=True)
class Problem:
    """What all users share: sizes, public item vectors, the policy in force, the terms of training."""

    spec: EncoderSpec
    items: Items
    policy: RecallPolicy
    training: TrainingTerms

    @property
    def shape(self) -> BatchShape:
        """Public sizes of a batch."""
        return BatchShape(self.training.context, self.training.targets, self.training.negatives)


class Inputs(NamedTuple):
    """One batch as tensors; the first dimension is the user.

    Attributes:
        item, bucket: (users, places).
        text: (users, places, text_width).
        behaviour: (users, context, BEHAVIOUR_WIDTH).
        offset: (users, places - context), what the frozen groups and the prior contribute to the logits.
        target, rating, negative: as in :class:`client.batch.Batch`.
    """

    item: Tensor
    bucket: Tensor
    text: Tensor
    behaviour: Tensor
    offset: Tensor
    target: Tensor
    rating: Tensor
    negative: Tensor


class Learned(NamedTuple):
    """What the parameters say of one batch.

    Attributes:
        vectors: (users, places, rank).
        traits: (users, context), the weight of each behaviour, not normalised.
        bias: (users, places - context).
    """

    vectors: Tensor
    traits: Tensor
    bias: Tensor


class TappedLinear(nn.Linear):
    """A linear layer whose output is handed in; Opacus' hook keeps ``input`` for its per-sample rule."""

    def forward(self, input: Tensor, output: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002, ARG002 - see above
        """``output`` as it is."""
        return output


class TappedEmbedding(nn.Embedding):
    """An embedding whose output is handed in; Opacus' hook keeps ``input`` for its per-sample rule."""

    def forward(self, input: Tensor, output: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002, ARG002 - see above
        """``output`` as it is."""
        return output


class TappedTraits(TappedLinear):
    """A tapped layer of width one, with a per-sample rule of its own (:func:`traits_grad_sample`)."""


def traits_grad_sample(layer: nn.Linear, activations: list[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """The sum of Opacus' rule for linear layers, as a sum.

    As a product of narrow matrices its last bit depends on where in the batch a user is.
    """
    return {layer.weight: (backprops * activations[0]).sum(1, keepdim=True)}


register_grad_sampler(TappedLinear)(compute_linear_grad_sample)
register_grad_sampler(TappedTraits)(traits_grad_sample)
register_grad_sampler(TappedEmbedding)(compute_embedding_grad_sample)


class HistoryEncoder(nn.Module):
    """The parameters, on per-user tensors. The order of the layers is the order of the flat vector."""

    def __init__(self, spec: EncoderSpec, parameters: Floats) -> None:
        super().__init__()
        self.projection = TappedLinear(spec.text_width, spec.rank, bias=False)
        self.identity = TappedEmbedding(spec.buckets, spec.rank)
        self.bias = TappedEmbedding(spec.buckets, 1)
        self.behaviour = TappedTraits(BEHAVIOUR_WIDTH, 1, bias=False)
        parts = {name: torch.from_numpy(part.copy()) for name, part in unpack(spec, parameters).items()}
        self.load_state_dict(
            {
                "projection.weight": parts["projection"].T,
                "identity.weight": parts["identity"],
                "bias.weight": parts["bias"][:, None],
                "behaviour.weight": parts["behaviour"][None],
            }
        )

    def forward(self, inputs: Inputs, projected: Tensor) -> Learned:
        """See :class:`Learned`.

        Args:
            inputs: a batch.
            projected: (items, rank), what :meth:`project` says of the text vectors of all items.
        """
        bucket, candidates = inputs.bucket, inputs.bucket[:, inputs.behaviour.shape[1] :]
        identity, bias = self.identity.weight, self.bias.weight
        vectors = self.projection(inputs.text, _leaf(functional.embedding(inputs.item, projected)))
        vectors = vectors + self.identity(bucket, _leaf(functional.embedding(bucket, identity)))
        traits = self.behaviour(inputs.behaviour, _leaf(inputs.behaviour @ self.behaviour.weight.T))
        learned_bias = self.bias(candidates, _leaf(functional.embedding(candidates, bias)))
        return Learned(vectors, traits.squeeze(-1), learned_bias.squeeze(-1))

    def project(self, text: Floats) -> Tensor:
        """(items, rank) projected text vectors; one product for all batches under the same parameters."""
        return torch.from_numpy(text) @ self.projection.weight.detach().T


def _leaf(value: Tensor) -> Tensor:
    """Where autograd stops: a value whose own gradient is wanted, and nothing behind it."""
    return value.detach().requires_grad_()


def flatten(tensors: Iterator[Tensor] | list[Tensor], leading: int) -> Floats:
    """Tensors in the order of :class:`HistoryEncoder`'s parameters as flat vectors, ``leading`` dimensions kept."""
    projection, *others = tensors
    # torch keeps the projection as (rank, text_width); the flat vector as (text_width, rank).
    parts = [projection.transpose(-1, -2), *others]
    return torch.cat([p.reshape(*p.shape[:leading], -1) for p in parts], dim=leading).numpy()


def gather(problem: Problem, batch: Batch) -> Inputs:
    """The public vectors of every place, and what the frozen groups and the prior say of the candidates."""
    items, policy, context = problem.items, problem.policy, problem.training.context
    item = torch.from_numpy(batch.item)
    bucket = torch.from_numpy(items.bucket)[item]
    behaviour = torch.from_numpy(batch.behaviour)
    candidates = item[:, context:]
    offset = policy.weight("popularity") * torch.from_numpy(items.prior)[bucket[:, context:]]
    mean = normalised(behaviour @ torch.from_numpy(plain_behaviour()))
    for group in ("lexical", "category"):
        if policy.weight(group) and items.groups[group].shape[1]:
            vectors = torch.from_numpy(items.groups[group])
            profile = (mean[:, :, None] * functional.embedding(item[:, :context], vectors)).sum(1)
            near = similarity(policy.similarity[group], profile, functional.embedding(candidates, vectors))
            offset = offset + policy.weight(group) * near
    text = functional.embedding(item, torch.from_numpy(items.groups["text"]))
    marks = (torch.from_numpy(part) for part in (batch.target, batch.rating, batch.negative))
    return Inputs(item, bucket, text, behaviour, offset, *marks)


def logits(policy: RecallPolicy, learned: Learned, inputs: Inputs) -> Tensor:
    """R of the candidates, (users, places - context)."""
    context = inputs.behaviour.shape[1]
    user = (normalised(learned.traits)[:, :, None] * learned.vectors[:, :context]).sum(1)
    near = similarity(policy.similarity["text"], user, learned.vectors[:, context:])
    return policy.weight("text") * near + policy.weight("popularity") * learned.bias + inputs.offset


def normalised(traits: Tensor) -> Tensor:
    """(users, context) weights over the sum of their sizes; zeros for an empty history."""
    return traits / (traits.abs().sum(1, keepdim=True) + _EPS)


def similarity(kind: Similarity, user: Tensor, item: Tensor) -> Tensor:
    """(users, places) from (users, width) and (users, places, width); the twin of ``shared/recall/scoring.py``."""
    # Sums, not products of matrices: those round odd widths differently from place to place in a batch.
    product = (user[:, None] * item).sum(-1)
    if kind == "dot":
        return product
    if kind == "euclidean":
        return 2.0 * product - item.square().sum(-1) - user.square().sum(-1, keepdim=True)
    # The square root's slope at zero is infinite: an empty context would give NaN gradients without the small constant.
    lengths = (user.square().sum(-1, keepdim=True) + _EPS**2).sqrt() * (item.square().sum(-1) + _EPS**2).sqrt()
    return product / (lengths + _EPS)


def losses(kind: str, scores: Tensor, inputs: Inputs) -> Tensor:
    """(users,) loss of each user: the mean over its targets, 0 where there is none."""
    target, negative = inputs.target, inputs.negative
    wanted, other = scores[:, : target.shape[1]], scores[:, target.shape[1] :]
    if kind == "softmax":
        # Negatives stand for the whole catalogue: uniform, so their number is a constant that cancels in the gradient's
        # direction up to the weight of the target itself (Jean et al. 2015, section 3).
        rest = torch.logsumexp(other + torch.where(negative > 0, 0.0, -1e9), dim=1, keepdim=True)
        each = torch.logaddexp(wanted, rest) - wanted
    elif kind == "bpr":
        pairs = functional.softplus(other[:, None, :] - wanted[:, :, None]) * negative[:, None, :]
        each = pairs.sum(2) / negative.sum(1).clamp(min=1.0)[:, None]
    else:
        each = (torch.sigmoid(wanted) - inputs.rating).square()
        missed = (torch.sigmoid(other).square() * negative).sum(1) / negative.sum(1).clamp(min=1.0)
        each = each + missed[:, None]
    return (each * target).sum(1) / target.sum(1).clamp(min=1.0)


def own_learned(parts: Mapping[str, Tensor], inputs: Inputs) -> Learned:
    """As :meth:`HistoryEncoder.forward`, for parameters of which each user has its own copy (first dimension)."""
    context = inputs.behaviour.shape[1]

    def rows(name: str, bucket: Tensor) -> Tensor:
        return parts[name].gather(1, bucket[:, :, None].expand(-1, -1, parts[name].shape[2]))

    projected = inputs.text @ parts["projection.weight"].transpose(1, 2)
    traits = (inputs.behaviour * parts["behaviour.weight"]).sum(-1)
    bias = rows("bias.weight", inputs.bucket[:, context:])
    return Learned(projected + rows("identity.weight", inputs.bucket), traits, bias.squeeze(-1))
