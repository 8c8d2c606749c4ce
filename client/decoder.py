"""Local training of the linear encoder: one linear layer under the squared-error objective, by Opacus.

A user's vector z is worked out from the frozen contexts; the layer is to say the user's history x (at length one) back
from it: ``1/2 |x - B z|^2`` over the whole catalogue, so there are no negatives to draw and nothing depends on chance.
One Opacus sample is one user, and its per-sample gradient ``(B z - x) z'`` is that user's update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from opacus import GradSampleModule
from torch import nn

from client.model import Items
from shared.encoder.encode import at_length_one, context_vectors, pad, user_vectors
from shared.encoder.spec import EncoderSpec, Floats, plain_behaviour, unpack
from shared.history import NOT_INTERESTED, History
from shared.recall.item_rules import Mask

# Users at a time. Always this many, the last ones empty: kernels round differently for other shapes, and a user's
# contribution must not depend, not even in its last bit, on who else is in the batch. That holds where the widths of
# text and item vectors and the number of places are multiples of 16 (rows then begin at multiples of a vector
# register); for other sizes it holds up to the rounding of float32.
CHUNK: Final = 16


def decoder_of(spec: EncoderSpec, parameters: Floats) -> GradSampleModule:
    """The targets as a layer: (users, rank) vectors in, (users, buckets) entries of histories out."""
    layer = nn.Linear(spec.rank, spec.buckets, bias=False)
    layer.load_state_dict({"weight": torch.from_numpy(unpack(spec, parameters)["target"].copy())})
    return GradSampleModule(layer, loss_reduction="sum")


def examples(
    spec: EncoderSpec, parameters: Floats, items: Items, histories: Sequence[History], barred: Sequence[Mask]
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What the layer sees, ``CHUNK`` users at a time; at least one chunk.

    Args:
        spec, parameters, items: the encoder and the public side.
        histories: one per user; held-out rows are hidden.
        barred: one per user, (items,) what is no target.

    Yields:
        ``(users, z, x, free)``: how many of the rows are users; (CHUNK, rank) and twice (CHUNK, buckets). Rows of z and
        x are zeros for an empty history and for nobody; ``free`` is 1, and 0 where all of a bucket's items are barred:
        it is learned neither for nor against.
    """
    context = context_vectors(spec, parameters, items.groups[spec.reads], items.bucket)
    for start in range(0, max(len(histories), 1), CHUNK):
        part = histories[start : start + CHUNK]
        z, x = np.zeros((CHUNK, spec.rank), np.float32), np.zeros((CHUNK, spec.buckets), np.float32)
        free = np.ones_like(x)
        for row, history in enumerate(part):
            # One at a time: what a user contributes must not depend, not even in its last bit, on who else is here.
            z[row] = at_length_one(user_vectors(plain_behaviour(), context, pad([history])))[0]
            wanted = history.item[~history.held_out & (history.kind != NOT_INTERESTED)]
            x[row, items.bucket[wanted[~barred[start + row][wanted]]]] = 1.0
            free[row] = np.bincount(items.bucket, ~barred[start + row], minlength=spec.buckets) > 0
        yield len(part), torch.from_numpy(z), torch.from_numpy(at_length_one(x)), torch.from_numpy(free)


def backward(module: nn.Module, z: torch.Tensor, x: torch.Tensor, free: torch.Tensor, factor: float) -> None:
    """Leave ``factor`` times each user's gradient in ``grad_sample``, (CHUNK, buckets, rank)."""
    # Opacus' hook wants an input that gradients flow to; nobody reads that one.
    residual = (module(z.requires_grad_()) - x) * free
    (residual.square().sum() * (0.5 * factor)).backward()


def decoded(
    spec: EncoderSpec,
    parameters: Floats,
    items: Items,
    learning_rate: float,
    iterations: int,
    histories: Sequence[History],
    barred: Sequence[Mask],
) -> Iterator[Floats]:
    """Each user's unclipped contribution, in chunks; as :func:`client.training.fit`.

    With vectors of length one a user's own copy of the layer moves along one line, so several local steps are one that
    is longer: ``1 - (1 - learning rate)^iterations`` of the way to no residual.
    """
    module = decoder_of(spec, parameters)
    far = 1.0 - (1.0 - min(learning_rate, 1.0)) ** iterations
    for users, z, x, free in examples(spec, parameters, items, histories, barred):
        backward(module, z, x, free, -far)
        (weight,) = module.parameters()
        yield weight.grad_sample.reshape(CHUNK, -1)[:users].numpy().copy()
        module.zero_grad()
