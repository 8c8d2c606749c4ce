"""The history encoder in torch, for training: the twin of ``shared/encoder`` and ``shared/recall/scoring.py``.

All parameters act on per-user tensors: an item tower shared by the batch would give Opacus one gradient per *item*.
Opacus' rules need what went into a layer and what flows back to its output, nothing else. So the layers here are
taps: their outputs are worked out beforehand without a graph (the projection of all items once per model, not once
per place), and autograd stops there. That leaves out the gradient summed over the batch, which autograd would add at
the price of the per-sample one. The few parameters of the history's side (``client/history.py``) need no rules at all:
every user gets a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import register_grad_sampler
from opacus.grad_sample.embedding import compute_embedding_grad_sample
from opacus.grad_sample.linear import compute_linear_grad_sample
from torch import Tensor, nn
from torch.nn import functional

from client.batch import Batch, BatchShape
from client.history import normalised, user_of
from shared.encoder.spec import EncoderSpec, Floats, Kind, plain_behaviour, unpack
from shared.policy.recall_policy import RecallPolicy, Similarity
from shared.protocol import TrainingTerms

_EPS = 1e-6
PROJECTED_AT_ONCE: Final = 4096  # items
PER_ITEM: Final = ("identity.weight", "bias.weight")


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

    @property
    def places(self) -> int:
        """Items that a user's visit reads."""
        return self.training.context + self.training.targets + self.training.negatives


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

    def to(self, device: str) -> Inputs:
        """The same on another device."""
        return Inputs(*(part.to(device) for part in self))

    def visit(self, number: int, visits: int) -> Inputs:
        """One of several visits of each user that stand one after another."""
        return Inputs(*(part.view(-1, visits, *part.shape[1:])[:, number] for part in self))

    def side_by_side(self, visits: int) -> Inputs:
        """All visits of a user as one, (users, visits * places)."""
        return Inputs(*(part.view(-1, visits * part.shape[1], *part.shape[2:]) for part in self))


class Read(NamedTuple):
    """What the parameters hold for the places of one batch, looked up beforehand.

    Attributes:
        text: (users, places, rank) projected texts.
        identity: (users, places, rank).
        bias: (users, places - context, 1).
    """

    text: Tensor
    identity: Tensor
    bias: Tensor


class Learned(NamedTuple):
    """What the parameters say of one batch.

    Attributes:
        vectors: (users, places, rank).
        user: (users, rank).
        bias: (users, places - context).
    """

    vectors: Tensor
    user: Tensor
    bias: Tensor


class TappedLinear(nn.Linear):
    """A linear layer whose output is handed in; Opacus' hook keeps ``input`` for its per-sample rule."""

    def forward(self, input: Tensor, output: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002, ARG002 - see above
        """``output`` as it is."""
        return output

    def reset_parameters(self) -> None:
        """Nothing is drawn that is not kept: the parameters are handed in, too."""


class TappedEmbedding(nn.Embedding):
    """An embedding whose output is handed in; Opacus' hook keeps ``input`` for its per-sample rule."""

    def forward(self, input: Tensor, output: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002, ARG002 - see above
        """``output`` as it is."""
        return output

    def reset_parameters(self) -> None:
        """Nothing is drawn that is not kept: the parameters are handed in, too."""


class Copied(nn.Module):
    """A parameter of which every user gets a copy; what flows back to the copy is the user's gradient."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    def forward(self, copies: Tensor) -> Tensor:
        """``copies`` as they are: (users, *shape) views of the parameter, cut off from it."""
        return copies


def copied_grad_sample(layer: Copied, _activations: list[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """Per-sample rule of :class:`Copied`."""
    return {layer.weight: backprops}


class Places(nn.Module):
    """What a user's places read of the parameters, each as a copy of its own; the history's side as it is.

    A place's vector is its text through the projection plus a row of the identities, so its gradient is all that either
    needs; and a user touches no other rows.
    """

    def __init__(self, spec: EncoderSpec, context: int, places: int) -> None:
        super().__init__()
        self.identity, self.bias = Copied((places, spec.rank)), Copied((places - context, 1))
        self.history = nn.ModuleDict({name: Copied(shape) for name, shape in spec.history_shapes().items()})
        self.kind = spec.kind

    def forward(self, behaviour: Tensor, read: Read, history: Mapping[str, Tensor]) -> Learned:
        """See :class:`Learned`.

        Args:
            behaviour: of :class:`Inputs`.
            read: what the parameters hold for a batch.
            history: the module's name of a parameter -> (users, *shape), each user's own.
        """
        vectors = self.identity(_leaf(read.text + read.identity))
        own = {name: layer(_leaf(history[f"history.{name}.weight"])) for name, layer in self.history.items()}
        user = user_of(self.kind, own, vectors[:, : behaviour.shape[1]], behaviour)
        return Learned(vectors, user, self.bias(_leaf(read.bias)).squeeze(-1))


register_grad_sampler(TappedLinear)(compute_linear_grad_sample)
register_grad_sampler(TappedEmbedding)(compute_embedding_grad_sample)
register_grad_sampler(Copied)(copied_grad_sample)


class HistoryEncoder(nn.Module):
    """The parameters, on per-user tensors. The order of the layers is the order of the flat vector."""

    def __init__(self, spec: EncoderSpec, parameters: Floats) -> None:
        super().__init__()
        self.projection = TappedLinear(spec.text_width, spec.rank, bias=False)
        self.identity = TappedEmbedding(spec.buckets, spec.rank)
        self.bias = TappedEmbedding(spec.buckets, 1)
        self.history = nn.ModuleDict({name: Copied(shape) for name, shape in spec.history_shapes().items()})
        self.kind = spec.kind
        self.load_state_dict(weights_of(spec, parameters), assign=True)

    def forward(self, inputs: Inputs, read: Read) -> Learned:
        """See :class:`Learned`.

        Args:
            inputs: a batch.
            read: what the parameters hold for it.
        """
        users, context = inputs.behaviour.shape[:2]
        vectors = self.projection(inputs.text, _leaf(read.text))
        vectors = vectors + self.identity(inputs.bucket, _leaf(read.identity))
        learned_bias = self.bias(inputs.bucket[:, context:], _leaf(read.bias))
        own = {
            name: layer(_leaf(_copies(layer.get_parameter("weight"), users))) for name, layer in self.history.items()
        }
        user = user_of(self.kind, own, vectors[:, :context], inputs.behaviour)
        return Learned(vectors, user, learned_bias.squeeze(-1))


def weights_of(spec: EncoderSpec, parameters: Floats) -> dict[str, Tensor]:
    """The parameters of a two-tower encoder by their names in :class:`HistoryEncoder`, a copy."""
    parts = {name: torch.from_numpy(part.copy()) for name, part in unpack(spec, parameters).items()}
    return {
        "projection.weight": parts["projection"].T,
        "identity.weight": parts["identity"],
        "bias.weight": parts["bias"][:, None],
        **{f"history.{name}.weight": parts[name] for name in spec.history_shapes()},
    }


def looked_up(weights: Mapping[str, Tensor], inputs: Inputs, projected: Tensor | None) -> Read:
    """What the parameters hold for a batch.

    Args:
        weights: "projection.weight" (rank, text_width), "identity.weight" and "bias.weight".
        inputs: the batch, ``bucket`` as the weights have it.
        projected: (items, rank) of :func:`projected_items`; None = the texts of each place are projected by themselves.
    """
    candidates = inputs.bucket[:, inputs.behaviour.shape[1] :]
    if projected is None:
        whole = weights["projection.weight"].T
        text = torch.bmm(inputs.text, whole.expand(len(inputs.text), *whole.shape))
    else:
        text = functional.embedding(inputs.item, projected)
    identity = functional.embedding(inputs.bucket, weights["identity.weight"])
    return Read(text, identity, functional.embedding(candidates, weights["bias.weight"]))


def projected_items(weights: Mapping[str, Tensor], text: Floats) -> Tensor | None:
    """(items, rank) projected texts, one product for all batches under the same parameters.

    None where that is no gain: in a large catalogue only what somebody reads is worth projecting. A matter of the
    catalogue's size alone, so that no bit of a contribution depends on who else is in the batch.
    """
    whole = weights["projection.weight"]
    return None if len(text) > PROJECTED_AT_ONCE else torch.from_numpy(text) @ whole.T.cpu()


def _leaf(value: Tensor) -> Tensor:
    """Where autograd stops: a value whose own gradient is wanted, and nothing behind it."""
    return value.detach().requires_grad_()


def _copies(weight: Tensor, users: int) -> Tensor:
    """(users, *shape), without any copying."""
    return weight.expand(users, *weight.shape)


def flatten(tensors: Iterator[Tensor] | list[Tensor], leading: int) -> Floats:
    """Tensors in the order of :class:`HistoryEncoder`'s parameters as flat vectors, ``leading`` dimensions kept."""
    projection, *others = tensors
    # torch keeps the projection as (rank, text_width); the flat vector as (text_width, rank).
    parts = [projection.transpose(-1, -2), *others]
    return torch.cat([p.reshape(*p.shape[:leading], -1) for p in parts], dim=leading).numpy()


def moved_on(read: Read, inputs: Inputs, before: Inputs, vectors: Tensor, bias: Tensor) -> Read:
    """What each user's own parameters hold for a batch, after the visits that moved them.

    Args:
        read: what they held before there was any.
        inputs: the batch.
        before: of the visits, side by side: places (users, n).
        vectors: (users, n, rank) what each place added to its row and, times its text, to the projection.
        bias: (users, n) what it added to the bias.
    """
    context = inputs.behaviour.shape[1]
    same = (inputs.bucket[:, :, None] == before.bucket[:, None]).to(read.text.dtype)
    near = torch.bmm(inputs.text, before.text.transpose(1, 2)).add_(same)
    more = torch.bmm(same[:, context:], bias[:, :, None])
    return Read(read.text + torch.bmm(near, vectors), read.identity, read.bias + more)


def touched_rows(bucket: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
    """Which rows of per-item parameters each user's places read, each once.

    Args:
        bucket: (users, visits, places).
        buckets: how many there are.

    Returns:
        ``(touched, slots)``: (users, n) buckets in order, the last once more where there are fewer than n, a public
        number; and where among these each place finds its own, as ``bucket``.
    """
    flat = bucket.flatten(1)
    ordered, order = flat.sort(1)
    new = torch.ones_like(ordered)
    new[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).long()
    slot = new.cumsum(1) - 1
    touched = ordered[:, -1:].expand(-1, min(flat.shape[1], buckets)).clone().scatter_(1, slot, ordered)
    return touched, torch.empty_like(slot).scatter_(1, order, slot).reshape(bucket.shape)


def put_together(spec: EncoderSpec, found: Mapping[str, Tensor], bucket: Tensor, text: Tensor | None = None) -> Floats:
    """Flat vectors of what belongs to all parameters, from what belongs to the rows that users touched.

    Args:
        spec: the encoder.
        found: "identity" (users, n, rank), "bias" (users, n), "history.*" (users, ...); and "projection", (users,
            rank, text_width), unless texts are given.
        bucket: (users, n) the row of the per-item parameters that each belongs to; what is of one row is added.
        text: (users, n, text_width), what each was projected from: a projection's gradient is made of these.

    Returns:
        (users, size) float32, on the CPU.
    """
    flat = torch.empty(len(bucket), spec.size, device=bucket.device)
    start = 0
    for name, shape in spec.shapes().items():
        stop = start + math.prod(shape)
        out = flat[:, start:stop].view(-1, *shape)
        if name == "projection" and text is not None:
            torch.bmm(text.transpose(1, 2), found["identity"], out=out)
        elif name == "projection":
            # torch keeps it as (rank, text_width); the flat vector as (text_width, rank).
            out.copy_(found["projection"].transpose(1, 2))
        elif name == "identity":
            out.zero_().scatter_add_(1, bucket[:, :, None].expand_as(found["identity"]), found["identity"])
        elif name == "bias":
            out.zero_().scatter_add_(1, bucket, found["bias"])
        else:
            out.copy_(found[f"history.{name}"])
        start = stop
    return np.asarray(flat.cpu().numpy(), np.float32)


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
    near = similarity(policy.similarity["text"], learned.user, learned.vectors[:, context:])
    return policy.weight("text") * near + policy.weight("popularity") * learned.bias + inputs.offset


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


def own_learned(kind: Kind, parts: Mapping[str, Tensor], inputs: Inputs) -> Learned:
    """As :meth:`HistoryEncoder.forward`, for parameters of which each user has its own copy (first dimension)."""
    context = inputs.behaviour.shape[1]

    def rows(name: str, bucket: Tensor) -> Tensor:
        return parts[name].gather(1, bucket[:, :, None].expand(-1, -1, parts[name].shape[2]))

    vectors = inputs.text @ parts["projection.weight"].transpose(1, 2) + rows("identity.weight", inputs.bucket)
    bias = rows("bias.weight", inputs.bucket[:, context:])
    own = {name.split(".")[1]: part for name, part in parts.items() if name.startswith("history.")}
    user = user_of(kind, own, vectors[:, :context], inputs.behaviour)
    return Learned(vectors, user, bias.squeeze(-1))
