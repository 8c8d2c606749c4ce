"""Local training: each privacy unit's own contribution to the model, by Opacus.

``fit`` takes a batch of users; one Opacus sample is one user, so its per-sample gradient *is* that user's update
(Ponomareva et al. 2023, section 5.1, on choosing the unit). One local iteration: the gradient. Several: each user's
steps run on its own copy of the parameters, side by side, and the whole change is the contribution. Clipping and
noise for the trusts "distributed" and "central" come later, in ``client/release.py``; trust "local" clips and adds
noise here, at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional

from client.batch import Batch, draw, together
from client.decoder import BLOCK, Examples, backward, decoded, decoder_of, examples
from client.model import (
    PER_ITEM,
    HistoryEncoder,
    Inputs,
    Items,
    Learned,
    Places,
    Problem,
    Read,
    flatten,
    gather,
    logits,
    looked_up,
    losses,
    moved_on,
    own_learned,
    projected_items,
    put_together,
    touched_rows,
    weights_of,
)
from client.strategy import Way, chosen, written
from shared.encoder.spec import EncoderSpec, Floats
from shared.history import History, stacked
from shared.policy.recall_policy import RecallPolicy
from shared.privacy.noise import NoiseSource
from shared.protocol import TrainingTerms
from shared.recall.item_rules import Mask

_PRIVATE_CHUNK: Final = 16  # users at a time under trust local
_People = tuple[Sequence[History], Sequence[int], Sequence[Mask]]


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
    keys: Sequence[int],
    barred: Sequence[Mask],
    *,
    device: str = "cpu",
    way: Way | None = None,
) -> Iterator[Floats]:
    """Each user's unclipped contribution, in chunks.

    Args:
        spec, parameters, items, policy, training: public.
        histories: one per user; held-out rows are hidden.
        keys: one 64-bit word per user, its chance in splits and negatives.
        barred: one per user, (items,) what is no target.
        device: where torch works; what comes back is on the CPU.
        way: how, for measurements; None = what :func:`client.strategy.chosen` says of the public sizes.

    Yields:
        (chunk, trained) float32, one row per user in the given order: the change of the parameters that the
        user wishes. The rows of an empty history are zeros. A row depends on its own user alone, bit for bit (see
        :class:`client.decoder.Examples`).
    """
    problem = Problem(spec, items, policy, training)
    way = way or chosen(spec, training, policy.local_iterations)
    if spec.kind == "linear":
        rate, steps = training.learning_rate, policy.local_iterations
        chunks = decoded(spec, parameters, items, rate, steps, histories, barred, way=way, device=device)
    else:
        train = _samples if way.name == "samples" else _copies
        chunks = train(problem, parameters, _drawn(problem, (histories, keys, barred), way.chunk), device)
    # A caller's threads are its own while it looks at a chunk.
    with one_thread():
        rows = next(chunks, None)
    while rows is not None:
        yield rows
        with one_thread():
            rows = next(chunks, None)


@one_thread()
def fit_locally_private(
    spec: EncoderSpec,
    parameters: Floats,
    items: Items,
    policy: RecallPolicy,
    training: TrainingTerms,
    histories: Sequence[History],
    keys: Sequence[int],
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
    module, visits = _visits(Problem(spec, items, policy, training), parameters, (histories, keys, barred))
    optimizer = _PrivateSgd(module, training.learning_rate, clip, noise_multiplier, noise)
    for step in range(policy.local_iterations):
        for number, leave_gradients in enumerate(visits, 1):
            leave_gradients(step)
            optimizer.signal_skip_step(do_skip=number < len(visits))
            optimizer.step()
            optimizer.zero_grad()
    after = [p.detach() for p in module.parameters()]
    # Targets lie in torch as in the flat vector; the layers of a two-tower encoder do not.
    flat = after[0].numpy().ravel() if spec.kind == "linear" else flatten(after, 0)
    return np.asarray(flat - parameters[-spec.trained :], np.float32)


def _visits(
    problem: Problem, parameters: Floats, everybody: _People
) -> tuple[GradSampleModule, list[Callable[[int], None]]]:
    """A model, and what leaves in it a step's gradients of one chunk of people after another; at least one chunk."""
    spec, (histories, _, barred) = problem.spec, everybody
    if spec.kind == "linear":
        module = GradSampleModule(decoder_of(spec, parameters), loss_reduction="sum")
        shown = examples(spec, parameters, problem.items, histories, barred, _PRIVATE_CHUNK)
        return module, [partial(_shown_again, module, each) for each in shown]
    module = GradSampleModule(HistoryEncoder(spec, parameters), loss_reduction="sum")
    return module, [partial(_fresh, problem, module, people) for people in _chunks(everybody, _PRIVATE_CHUNK)]


def _shown_again(module: GradSampleModule, shown: Examples, _step: int) -> None:
    backward(module, shown, 1.0)


def _fresh(problem: Problem, module: GradSampleModule, people: _People, step: int) -> None:
    """A new visit to the same people, against the parameters as they are by now."""
    histories, keys, barred = people
    batch = draw(
        stacked(histories), keys, barred, len(problem.items.bucket), problem.shape, visit=step, rows=_PRIVATE_CHUNK
    )
    inputs, now = gather(problem, batch), _weights(module)
    read = looked_up(now, inputs, projected_items(now, problem.items.groups["text"]))
    _backward(problem, module(inputs, read), inputs, 1.0)


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


def _chunks(everybody: _People, size: int) -> Iterator[_People]:
    """``size`` users at a time; at least one chunk, so that a step and its noise are never left out."""
    histories, keys, barred = everybody
    for start in range(0, max(len(histories), 1), size):
        part = slice(start, start + size)
        yield histories[part], keys[part], barred[part]


def _drawn(problem: Problem, everybody: _People, chunk: int) -> Iterator[tuple[int, Batch]]:
    """How many users a chunk has, and its batch: a row for each local step of each user, steps of one user together.

    Always of ``chunk`` users, the last ones empty.
    """
    visits, items = problem.policy.local_iterations, len(problem.items.bucket)
    for histories, keys, barred in _chunks(everybody, BLOCK):
        seen, rows = stacked(histories), -(-max(len(histories), 1) // chunk) * chunk
        batches = [draw(seen, keys, barred, items, problem.shape, visit=n, rows=rows) for n in range(visits)]
        whole = together(batches)
        for start in range(0, max(len(histories), 1), chunk):
            yield min(chunk, len(histories) - start), whole.rows(slice(start * visits, (start + chunk) * visits))


def _parameters(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters by the names that they have without Opacus."""
    return ((name.removeprefix("_module."), p) for name, p in module.named_parameters())


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in _parameters(module)}


def _backward(problem: Problem, learned: Learned, inputs: Inputs, factor: float) -> None:
    """Leave ``factor`` times each user's gradient in ``grad_sample``, (chunk, ...), of every parameter."""
    scores = logits(problem.policy, learned, inputs)
    (losses(problem.training.loss, scores, inputs).sum() * factor).backward()  # type: ignore[no-untyped-call]


def _samples(
    problem: Problem, parameters: Floats, chunks: Iterator[tuple[int, Batch]], device: str
) -> Iterator[Floats]:
    """Opacus' per-sample gradients of what each place reads, times minus the learning rate; put together at the end.

    No copy of the projection is needed for several steps: after some, a place's vector has moved along the places that
    came before, by the product of both texts (and by one where they share a row)::

        V_s = V - rate * sum over t < s of (X_s X_t' + [bucket_s = bucket_t]) G_t

    which is gradient descent seen from the vectors (the tangent kernel of a linear layer).
    """
    spec, context, rate = problem.spec, problem.training.context, problem.training.learning_rate
    now = weights_of(spec, parameters)
    projected = projected_items(now, problem.items.groups["text"])
    visits, places = problem.policy.local_iterations, problem.places
    module = GradSampleModule(Places(spec, context, places).to(device), loss_reduction="sum")
    first = {name: p.to(device) for name, p in now.items() if name.startswith("history.")}
    for users, batch in chunks:
        own = {name: p.expand(len(batch.item) // visits, *p.shape) for name, p in first.items()}
        inputs = gather(problem, batch)
        read = Read(*(part.to(device).view(-1, visits, *part.shape[1:]) for part in looked_up(now, inputs, projected)))
        inputs = inputs.to(device)
        whole = inputs.side_by_side(visits)
        vectors, bias = whole.text.new_zeros(*whole.bucket.shape, spec.rank), whole.text.new_zeros(whole.bucket.shape)
        for number in range(visits):
            visit, seen = inputs.visit(number, visits), number * places
            now_read = Read(*(part[:, number] for part in read))
            if number:
                before = whole._replace(text=whole.text[:, :seen], bucket=whole.bucket[:, :seen])
                now_read = moved_on(now_read, visit, before, vectors[:, :seen], bias[:, :seen])
            _backward(problem, module(visit.behaviour, now_read, own), visit, -rate)
            found: dict[str, Tensor] = {name: p.grad_sample for name, p in _parameters(module)}
            vectors[:, seen : seen + places] = found["identity.weight"]
            bias[:, seen + context : seen + places] = found["bias.weight"].squeeze(-1)
            own = {name: p + found[name] for name, p in own.items()}
            module.zero_grad()
        change = {name.removesuffix(".weight"): p - first[name] for name, p in own.items()}
        rows = {"identity": vectors, "bias": bias, **change}
        yield from _written(spec, users, rows, whole.bucket, whole.text)


def _copies(problem: Problem, parameters: Floats, chunks: Iterator[tuple[int, Batch]], device: str) -> Iterator[Floats]:
    """Each user's own copy of the parameters through all visits, side by side; its whole change.

    Of the per-item parameters a user has copies of the rows that its visits touch, no others.
    """
    spec, rate = problem.spec, problem.training.learning_rate
    now = {name: p.to(device) for name, p in weights_of(spec, parameters).items()}
    visits = problem.policy.local_iterations
    for users, batch in chunks:
        inputs = gather(problem, batch).to(device)
        touched, slots = touched_rows(inputs.bucket.view(-1, visits, problem.places), spec.buckets)
        inputs = inputs._replace(bucket=slots.flatten(0, 1))
        start = {
            name: functional.embedding(touched, p) if name in PER_ITEM else p.expand(len(touched), *p.shape)
            for name, p in now.items()
        }
        own = {name: p.clone() for name, p in start.items()}
        for number in range(visits):
            visit = inputs.visit(number, visits)
            leaves = [p.requires_grad_() for p in own.values()]
            scores = logits(problem.policy, own_learned(spec.kind, own, visit), visit)
            # The sum keeps users apart: nobody's loss depends on another's copy.
            steps = torch.autograd.grad(losses(problem.training.loss, scores, visit).sum(), leaves)
            own = {name: p.detach().sub_(step, alpha=rate) for (name, p), step in zip(own.items(), steps, strict=True)}
        change = {name.removesuffix(".weight"): own[name] - start[name] for name in own}
        yield from _written(spec, users, change | {"bias": change["bias"].squeeze(-1)}, touched)


def _written(
    spec: EncoderSpec, users: int, found: Mapping[str, Tensor], bucket: Tensor, text: Tensor | None = None
) -> Iterator[Floats]:
    """What :func:`client.model.put_together` makes of a chunk, few users at a time; ``users`` rows in all."""
    size = written(spec)
    for start in range(0, max(users, 1), size):
        part = slice(start, start + size)
        mine = {name: parts[part] for name, parts in found.items()}
        yield put_together(spec, mine, bucket[part], None if text is None else text[part])[: users - start]
