"""Local training: each privacy unit's own contribution to the model, by Opacus.

``fit`` takes a batch of users; one Opacus sample is one user, so its per-sample gradient *is* that user's update
(Ponomareva et al. 2023, section 5.1, on choosing the unit). One local iteration: the gradient. Several: each user's
steps run on its own copy of the parameters, side by side, and the whole change is the contribution. Clipping and
noise for the trusts "distributed" and "central" come later, in ``client/release.py``; trust "local" clips and adds
noise here, at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from client.batch import Batch, draw
from client.decoder import CHUNK, backward, decoded, decoder_of, examples
from client.model import HistoryEncoder, Items, Problem, flatten, gather, logits, losses, own_learned
from shared.encoder.spec import EncoderSpec, Floats
from shared.history import History
from shared.policy.recall_policy import RecallPolicy
from shared.privacy.noise import NoiseSource
from shared.protocol import TrainingTerms
from shared.recall.item_rules import Mask

_People = tuple[Sequence[History], Sequence[np.random.Generator], Sequence[Mask]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, as a decorator too: on tensors this small a second one waits longer than it works.

    Nor may the last bit of a contribution depend on how many cores a machine has.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit(
    spec: EncoderSpec,
    parameters: Floats,
    items: Items,
    policy: RecallPolicy,
    training: TrainingTerms,
    histories: Sequence[History],
    rngs: Sequence[np.random.Generator],
    barred: Sequence[Mask],
) -> Iterator[Floats]:
    """Each user's unclipped contribution, in chunks.

    Yields:
        (chunk, trained) float32, one row per user in the given order: the change of the parameters that the
        user wishes. The rows of an empty history are zeros. A row depends on its own user alone, bit for bit (see
        ``CHUNK``).
    """
    if spec.kind == "linear":
        rate, steps = training.learning_rate, policy.local_iterations
        yield from decoded(spec, parameters, items, rate, steps, histories, barred)
        return
    problem = Problem(spec, items, policy, training)
    encoder = HistoryEncoder(spec, parameters)
    if policy.local_iterations == 1:
        module, projected = GradSampleModule(encoder, loss_reduction="sum"), _projected(problem, encoder)
    for people in _chunks(histories, rngs, barred):
        part, *_ = people
        visits = [_visit(problem, people) for _ in range(policy.local_iterations)]
        if policy.local_iterations == 1:
            rows = _one_step(problem, module, projected, visits[0])
        else:
            rows = _several_steps(problem, encoder, visits)
        yield rows[: len(part)]


@one_thread()
def fit_locally_private(
    spec: EncoderSpec,
    parameters: Floats,
    items: Items,
    policy: RecallPolicy,
    training: TrainingTerms,
    histories: Sequence[History],
    rngs: Sequence[np.random.Generator],
    barred: Sequence[Mask],
    *,
    clip: float,
    noise_multiplier: float,
    noise: NoiseSource,
) -> Floats:
    """Trust "local": Opacus DP-SGD over this client's users, all the noise added here at every step.

    Fixed steps (``policy.local_iterations``), every unit in every step, a public normaliser (1: the sum is taken),
    noise from ``noise`` also when all histories are empty. The result is a float release (docs/privacy.md says what
    that leaves open).

    Formal guarantees:
        Each step is a Gaussian mechanism of sensitivity ``clip`` and noise ``noise_multiplier * clip`` on the sum of
        clipped per-unit gradients, so the returned change costs ``local_iterations / (2 noise_multiplier^2)`` zCDP per
        unit.

    Edge cases:
        a unit whose gradient is not finite contributes zero; no unit at all -> noise alone.

    Returns:
        (trained,) float32, the private change of the parameters, *summed* over units.
    """
    module, visits = _visits(Problem(spec, items, policy, training), parameters, (histories, rngs, barred))
    optimizer = _PrivateSgd(module, training.learning_rate, clip, noise_multiplier, noise)
    for _ in range(policy.local_iterations):
        for number, leave_gradients in enumerate(visits, 1):
            leave_gradients()
            optimizer.signal_skip_step(do_skip=number < len(visits))
            optimizer.step()
            optimizer.zero_grad()
    after = [p.detach() for p in module.parameters()]
    # Targets lie in torch as in the flat vector; the layers of a two-tower encoder do not.
    flat = after[0].numpy().ravel() if spec.kind == "linear" else flatten(after, 0)
    return np.asarray(flat - parameters[-spec.trained :], np.float32)


def _visits(
    problem: Problem, parameters: Floats, everybody: _People
) -> tuple[GradSampleModule, list[Callable[[], None]]]:
    """A model, and what leaves in it the gradients of one chunk of people after another; at least one chunk."""
    spec, (histories, _, barred) = problem.spec, everybody
    if spec.kind == "linear":
        module = decoder_of(spec, parameters)
        shown = examples(spec, parameters, problem.items, histories, barred)
        return module, [partial(backward, module, z, x, free, 1.0) for _, z, x, free in shown]
    encoder = HistoryEncoder(spec, parameters)
    module = GradSampleModule(encoder, loss_reduction="sum")
    return module, [partial(_fresh, problem, module, encoder, people) for people in _chunks(*everybody)]


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

    def clip_and_accumulate(self) -> None:
        """As Opacus', but a sample that is not finite becomes zero first.

        Opacus multiplies it by a factor that is NaN or 0: the sum would be NaN whatever the noise, and a server that
        picks the parameters could make it so for exactly those who have a given item.
        """
        finite = torch.stack([torch.isfinite(p.grad_sample).flatten(1).all(1) for p in self.params]).all(0)
        for p in self.params:
            p.grad_sample[~finite] = 0.0
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Noise for every coordinate of every step, whatever the batch held."""
        sigma = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            drawn = torch.from_numpy(_normal(self._source, p.numel())).to(p.dtype).reshape(p.shape)
            p.grad = p.summed_grad.reshape(p.shape) + sigma * drawn


def _normal(noise: NoiseSource, size: int) -> NDArray[np.float64]:
    """Standard normals from 53-bit uniforms by Box and Muller; floating point, so local trust is marked as such."""
    uniform = (noise.words(2 * size) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.asarray(np.sqrt(-2.0 * np.log1p(-uniform[:size])) * np.cos(2.0 * np.pi * uniform[size:]), np.float64)


def _chunks(
    histories: Sequence[History], rngs: Sequence[np.random.Generator], barred: Sequence[Mask]
) -> Iterator[_People]:
    """``CHUNK`` users at a time; at least one chunk, so that a step and its noise are never left out."""
    for start in range(0, max(len(histories), 1), CHUNK):
        part = slice(start, start + CHUNK)
        yield histories[part], rngs[part], barred[part]


def _visit(problem: Problem, people: _People) -> Batch:
    return draw(*people, len(problem.items.bucket), problem.shape, rows=CHUNK)


def _fresh(problem: Problem, module: nn.Module, encoder: HistoryEncoder, people: _People) -> None:
    """A new visit to the same people, against the parameters as they are by now."""
    _backward(problem, module, _projected(problem, encoder), _visit(problem, people), 1.0)


def _backward(problem: Problem, module: nn.Module, projected: Tensor, visit: Batch, factor: float) -> None:
    """Leave ``factor`` times each user's gradient in ``grad_sample``, (CHUNK, ...), of every parameter."""
    inputs = gather(problem, visit)
    scores = logits(problem.policy, module(inputs, projected), inputs)
    (losses(problem.training.loss, scores, inputs).sum() * factor).backward()  # type: ignore[no-untyped-call]


@one_thread()
def _projected(problem: Problem, encoder: HistoryEncoder) -> Tensor:
    return encoder.project(problem.items.groups["text"])


@one_thread()
def _one_step(problem: Problem, module: GradSampleModule, projected: Tensor, visit: Batch) -> Floats:
    """Opacus' per-sample gradients times minus the learning rate, (CHUNK, size)."""
    _backward(problem, module, projected, visit, -problem.training.learning_rate)
    rows = flatten([p.grad_sample for p in module.parameters()], 1)
    module.zero_grad()
    return rows


@one_thread()
def _several_steps(problem: Problem, encoder: HistoryEncoder, visits: Sequence[Batch]) -> Floats:
    """Each user's own copy of the parameters through all visits, side by side; its whole change, (CHUNK, size)."""
    start = {name: p.detach() for name, p in encoder.named_parameters()}
    own = {name: p.expand(CHUNK, *p.shape).clone() for name, p in start.items()}
    for visit in visits:
        inputs = gather(problem, visit)
        leaves = [p.requires_grad_() for p in own.values()]
        scores = logits(problem.policy, own_learned(problem.spec.kind, own, inputs), inputs)
        # The sum keeps users apart: nobody's loss depends on another's copy.
        steps = torch.autograd.grad(losses(problem.training.loss, scores, inputs).sum(), leaves)
        rate = problem.training.learning_rate
        own = {name: p.detach() - rate * step for (name, p), step in zip(own.items(), steps, strict=True)}
    return flatten([own[name] - start[name] for name in start], 1)
