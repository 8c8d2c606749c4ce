"""Local training: each privacy unit's own contribution to the model, by Opacus.

``fit`` takes a batch of users; one Opacus sample is one user, so its per-sample gradient *is* that user's update
(Ponomareva et al. 2023, section 5.1, on choosing the unit). One local iteration: the gradient. Several: each user's steps run on
its own copy of the parameters (vectorised over users), and the whole change is the contribution. Clipping and noise for the
trusts "distributed" and "central" come later, in ``client/release.py``; trust "local" clips and adds noise here, at every step.

All parameters act on per-user tensors: an item tower shared by the batch would give Opacus one gradient per *item*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional

from client.batch import Batch, BatchShape, draw
from shared.encoder.spec import EncoderSpec, Floats, plain_behaviour, unpack
from shared.history import BEHAVIOUR_WIDTH, History
from shared.policy.recall_policy import RecallPolicy, Similarity
from shared.privacy.noise import NoiseSource
from shared.protocol import TrainingTerms

CHUNK = 64  # users at a time: bounds memory; results do not depend on it
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


class HistoryEncoder(nn.Module):
    """The forward pass of ``shared/encoder/encode.py`` on per-user tensors: logits of targets and negatives."""

    def __init__(
        self, spec: EncoderSpec, shape: BatchShape, similarity: Similarity, weight: float, bias: float
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(spec.text_width, spec.rank, bias=False)
        self.identity = nn.Embedding(spec.buckets, spec.rank)
        self.bias = nn.Embedding(spec.buckets, 1)
        self.behaviour = nn.Linear(BEHAVIOUR_WIDTH, 1, bias=False)
        self.context = shape.context
        self.kind, self.weight, self.bias_weight = similarity, weight, bias

    def forward(self, text: Tensor, bucket: Tensor, behaviour: Tensor, offset: Tensor) -> Tensor:
        """Logits R of the items after the context.

        Args:
            text: (users, places, text_width).
            bucket: (users, places).
            behaviour: (users, context, BEHAVIOUR_WIDTH).
            offset: (users, places - context), what the frozen groups and the prior contribute.
        """
        vectors = self.projection(text) + self.identity(bucket)
        weight = self.behaviour(behaviour).squeeze(-1)
        mean = weight / (weight.abs().sum(1, keepdim=True) + _EPS)
        user = torch.einsum("ul,ulr->ur", mean, vectors[:, : self.context])
        item = vectors[:, self.context :]
        score = self.weight * _similarity(self.kind, user, item)
        return score + self.bias_weight * self.bias(bucket[:, self.context :]).squeeze(-1) + offset


def fit(
    spec: EncoderSpec,
    parameters: Floats,
    items: Items,
    policy: RecallPolicy,
    training: TrainingTerms,
    histories: Sequence[History],
    rngs: Sequence[np.random.Generator],
) -> Iterator[Floats]:
    """Each user's unclipped contribution, in chunks.

    Yields:
        (chunk, size) float32, one row per user in the given order: the change of the parameters that the user wishes.
        The rows of an empty history are zeros.
    """
    for start in range(0, len(histories), CHUNK):
        part = slice(start, start + CHUNK)
        visits = [
            draw(histories[part], rngs[part], len(items.bucket), _shape(training))
            for _ in range(policy.local_iterations)
        ]
        if policy.local_iterations == 1:
            yield -training.learning_rate * _per_sample(spec, parameters, items, policy, training, visits[0])
        else:
            yield _several_steps(spec, parameters, items, policy, training, visits)


def fit_locally_private(
    spec: EncoderSpec,
    parameters: Floats,
    items: Items,
    policy: RecallPolicy,
    training: TrainingTerms,
    histories: Sequence[History],
    rngs: Sequence[np.random.Generator],
    *,
    clip: float,
    noise_multiplier: float,
    noise: NoiseSource,
) -> Floats:
    """Trust "local": Opacus DP-SGD over this client's users, all the noise added here at every step.

    Fixed steps (``policy.local_iterations``), every unit in every step, a public normaliser (1: the sum is taken), noise from
    ``noise`` also when all histories are empty. The result is a float release (docs/privacy.md says what that leaves open).

    Formal guarantees:
        Each step is a Gaussian mechanism of sensitivity ``clip`` and noise ``noise_multiplier * clip`` on the sum of clipped
        per-unit gradients, so the returned change costs ``local_iterations / (2 noise_multiplier^2)`` zCDP per unit.

    Returns:
        (size,) float32, the private change of the parameters, *summed* over units.
    """
    module = _module(spec, parameters, policy, training)
    optimizer = _PrivateSgd(module, training.learning_rate, clip, noise_multiplier, noise)
    for _ in range(policy.local_iterations):
        optimizer.zero_grad()
        for start in range(0, len(histories), CHUNK):
            part = slice(start, start + CHUNK)
            visit = draw(histories[part], rngs[part], len(items.bucket), _shape(training))
            _loss(module, items, policy, training, visit, spec).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.signal_skip_step(do_skip=start + CHUNK < len(histories))
            optimizer.step()
            optimizer.zero_grad()
    return _flat(p.detach() for p in module.parameters()) - parameters


class _PrivateSgd(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with noise from our source: torch's generator is not cryptographic and takes a seed."""

    def __init__(
        self, module: nn.Module, learning_rate: float, clip: float, multiplier: float, noise: NoiseSource
    ) -> None:
        sgd = torch.optim.SGD(module.parameters(), lr=learning_rate)
        super().__init__(
            sgd, noise_multiplier=multiplier, max_grad_norm=clip, expected_batch_size=None, loss_reduction="sum"
        )
        self._source = noise

    def add_noise(self) -> None:
        sigma = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            drawn = torch.from_numpy(_normal(self._source, p.numel())).to(p.dtype).reshape(p.shape)
            p.grad = p.summed_grad.reshape(p.shape) + sigma * drawn


def _normal(noise: NoiseSource, size: int) -> NDArray[np.float64]:
    """Standard normals from 53-bit uniforms by Box and Muller; floating point, which is why local trust is marked so."""
    uniform = (noise.words(2 * size) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.sqrt(-2.0 * np.log1p(-uniform[:size])) * np.cos(2.0 * np.pi * uniform[size:])


def _shape(training: TrainingTerms) -> BatchShape:
    return BatchShape(training.context, training.targets, training.negatives)


def _module(spec: EncoderSpec, parameters: Floats, policy: RecallPolicy, training: TrainingTerms) -> GradSampleModule:
    module = HistoryEncoder(
        spec, _shape(training), policy.similarity["text"], policy.weight("text"), policy.weight("popularity")
    )
    _load(module, spec, parameters)
    return GradSampleModule(module, loss_reduction="sum")


def _load(module: nn.Module, spec: EncoderSpec, parameters: Floats) -> None:
    parts = {name: torch.from_numpy(part.copy()) for name, part in unpack(spec, parameters).items()}
    module.load_state_dict(
        {
            "projection.weight": parts["projection"].T,
            "identity.weight": parts["identity"],
            "bias.weight": parts["bias"][:, None],
            "behaviour.weight": parts["behaviour"][None],
        }
    )


def _flat(tensors: Iterator[Tensor]) -> Floats:
    """Module order (projection, identity, bias, behaviour) is the flat vector's; only the projection is transposed."""
    projection, *others = tensors
    parts = [projection.transpose(-1, -2), *others]
    return torch.cat([p.reshape(-1) for p in parts]).numpy()


def _per_sample(
    spec: EncoderSpec, parameters: Floats, items: Items, policy: RecallPolicy, training: TrainingTerms, visit: Batch
) -> Floats:
    """Opacus' per-sample gradients, (users, size)."""
    module = _module(spec, parameters, policy, training)
    _loss(module, items, policy, training, visit, spec).sum().backward()  # type: ignore[no-untyped-call]
    projection, *others = (p.grad_sample for p in module.parameters())
    users = len(visit.item)
    parts = [projection.transpose(-1, -2), *others]
    return torch.cat([p.reshape(users, -1) for p in parts], dim=1).numpy()


def _several_steps(
    spec: EncoderSpec,
    parameters: Floats,
    items: Items,
    policy: RecallPolicy,
    training: TrainingTerms,
    visits: list[Batch],
) -> Floats:
    """Each user's own copy of the parameters through all visits; torch.func vectorises the loop over users."""
    module = _module(spec, parameters, policy, training).to_standard_module()
    start = {name: p.detach() for name, p in module.named_parameters()}
    users = len(visits[0].item)
    own = {name: p.expand(users, *p.shape).clone() for name, p in start.items()}

    def loss(params: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        single = [x[None] for x in inputs]
        logits = torch.func.functional_call(module, params, tuple(single[:4]))
        return _losses(training, logits, *single[4:])[0]

    gradient = torch.func.vmap(torch.func.grad(loss))
    for visit in visits:
        step = gradient(own, *_inputs(items, policy, visit, spec), *_targets(visit))
        own = {name: p - training.learning_rate * step[name] for name, p in own.items()}
    change = [own[name] - start[name] for name in start]
    parts = [change[0].transpose(-1, -2), *change[1:]]
    return torch.cat([p.reshape(users, -1) for p in parts], dim=1).numpy()


def _loss(
    module: nn.Module, items: Items, policy: RecallPolicy, training: TrainingTerms, visit: Batch, spec: EncoderSpec
) -> Tensor:
    return _losses(training, module(*_inputs(items, policy, visit, spec)), *_targets(visit))


def _targets(visit: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return torch.from_numpy(visit.target), torch.from_numpy(visit.rating), torch.from_numpy(visit.negative)


def _inputs(
    items: Items, policy: RecallPolicy, visit: Batch, spec: EncoderSpec
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gather the public vectors of every place, and what the frozen groups say of the candidates."""
    context = visit.behaviour.shape[1]
    item = torch.from_numpy(visit.item)
    bucket = torch.from_numpy(items.bucket)[item]
    behaviour = torch.from_numpy(visit.behaviour)
    candidates = item[:, context:]
    offset = policy.weight("popularity") * torch.from_numpy(items.prior)[bucket[:, context:]]
    plain = behaviour @ torch.from_numpy(plain_behaviour())
    mean = plain / (plain.abs().sum(1, keepdim=True) + _EPS)
    for group in ("lexical", "category"):
        if policy.weight(group) and items.groups[group].shape[1]:
            vectors = torch.from_numpy(items.groups[group])
            profile = torch.einsum("ul,ulw->uw", mean, vectors[item[:, :context]])
            offset = offset + policy.weight(group) * _similarity(policy.similarity[group], profile, vectors[candidates])
    return torch.from_numpy(items.groups["text"])[item], bucket, behaviour, offset


def _similarity(kind: Similarity, user: Tensor, item: Tensor) -> Tensor:
    """(users, places) from (users, width) and (users, places, width); the twin of ``shared/recall/scoring.py``."""
    product = torch.einsum("uw,upw->up", user, item)
    if kind == "dot":
        return product
    if kind == "euclidean":
        return 2.0 * product - item.square().sum(-1) - user.square().sum(-1, keepdim=True)
    # The square root's slope at zero is infinite: an empty context would give NaN gradients without the small constant.
    lengths = (user.square().sum(-1, keepdim=True) + _EPS**2).sqrt() * (item.square().sum(-1) + _EPS**2).sqrt()
    return product / (lengths + _EPS)


def _losses(training: TrainingTerms, logits: Tensor, target: Tensor, rating: Tensor, negative: Tensor) -> Tensor:
    """(users,) loss of each user: the mean over its targets, 0 where there is none."""
    places = target.shape[1]
    wanted, other = logits[:, :places], logits[:, places:]
    count = target.sum(1).clamp(min=1.0)
    if training.loss == "softmax":
        # Negatives stand for the whole catalogue: uniform, so their number is a constant that cancels in the gradient's
        # direction up to the weight of the target itself (Jean et al. 2015, section 3).
        rest = torch.logsumexp(other + torch.where(negative > 0, 0.0, -1e9), dim=1, keepdim=True)
        each = torch.logaddexp(wanted, rest) - wanted
    elif training.loss == "bpr":
        pairs = functional.softplus(other[:, None, :] - wanted[:, :, None]) * negative[:, None, :]
        each = pairs.sum(2) / negative.sum(1).clamp(min=1.0)[:, None]
    else:
        each = (torch.sigmoid(wanted) - rating).square()
        missed = (torch.sigmoid(other).square() * negative).sum(1) / negative.sum(1).clamp(min=1.0)
        each = each + missed[:, None]
    return (each * target).sum(1) / count
