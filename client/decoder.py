"""Local training of the linear encoder: one linear layer under the squared-error objective, by Opacus.

A user's vector z is worked out from the frozen contexts; the layer is to say the user's history x (at length one) back
from it: ``1/2 |x - B z|^2`` over the whole catalogue, so there are no negatives to draw and nothing depends on chance.
One Opacus sample is one user, and its per-sample gradient ``(B z - x) z'`` is that user's update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.grad_sample.linear import compute_linear_grad_sample
from torch import Tensor

from client.batch import barred_of
from client.model import Items, TappedLinear
from client.strategy import Way, written
from shared.encoder.encode import at_length_one
from shared.encoder.spec import EncoderSpec, Floats, plain_behaviour, unpack
from shared.history import NOT_INTERESTED, History, stacked
from shared.recall.item_rules import Mask

BLOCK: Final = 256  # users whose histories are looked at together
_TILE: Final = 128  # items at a time: always this many, see Examples


@dataclass(frozen=True)
class Examples:
    """What the layer sees of a chunk of users.

    A row is its user's alone, to the last bit. Kernels round differently for other shapes, so products of matrices
    always have the same: the last rows are nobody's, zeros. That holds where the widths of text and item vectors are
    multiples of 16 (rows then begin at multiples of a vector register); for other sizes it holds up to the rounding of
    float32.

    Attributes:
        users: how many of the rows are users.
        z: (chunk, rank) what a user's items add up to, at length one; zeros for an empty history and for nobody.
        row, bucket, value: (entries,) what is not zero in x, (chunk, buckets) histories at length one.
        free: (chunk, buckets), 0 where all of a bucket's items are barred: it is learned neither for nor against; None
            = all are learned.
    """

    users: int
    z: Floats
    row: NDArray[np.int64]
    bucket: NDArray[np.int64]
    value: Floats
    free: Floats | None


def decoder_of(spec: EncoderSpec, parameters: Floats, device: str = "cpu") -> TappedLinear:
    """The targets as a layer: (users, rank) vectors in, (users, buckets) entries of histories out."""
    layer = TappedLinear(spec.rank, spec.buckets, bias=False)
    layer.load_state_dict({"weight": torch.from_numpy(unpack(spec, parameters)["target"].copy())}, assign=True)
    return layer.to(device)


def examples(
    spec: EncoderSpec,
    parameters: Floats,
    items: Items,
    histories: Sequence[History],
    barred: Sequence[Mask],
    chunk: int,
) -> Iterator[Examples]:
    """What the layer sees, ``chunk`` users at a time; at least one chunk.

    Args:
        spec, parameters, items: the encoder and the public side.
        histories: one per user; held-out rows are hidden.
        barred: one per user, (items,) what is no target.
        chunk: rows, a divisor of ``BLOCK``.
    """
    learned: dict[int, Floats | None] = {}  # by the mask itself: users share them
    for start in range(0, max(len(histories), 1), BLOCK):
        part, masks = histories[start : start + BLOCK], barred[start : start + BLOCK]
        z, row, bucket, value = _seen(spec, parameters, items, part, masks)
        for mask in masks:
            if id(mask) not in learned:
                learned[id(mask)] = _learned(spec, items, mask)
        for first in range(0, max(len(part), 1), chunk):
            mine = slice(*np.searchsorted(row, [first, first + chunk]))
            yield Examples(
                users=min(chunk, len(part) - first),
                z=z[first : first + chunk],
                row=row[mine] - first,
                bucket=bucket[mine],
                value=value[mine],
                free=_free(spec, [learned[id(mask)] for mask in masks[first : first + chunk]], chunk),
            )


def _seen(
    spec: EncoderSpec, parameters: Floats, items: Items, histories: Sequence[History], barred: Sequence[Mask]
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], Floats]:
    """z, (BLOCK, rank), and the entries of x, users in order."""
    seen = stacked(histories)
    z = np.zeros((BLOCK, spec.rank), np.float32)
    if len(seen.user):
        kept = plain_behaviour()[seen.rows.kind, None] * _contexts(spec, parameters, items, seen.rows.item)
        # Over the rows of each user by itself, whoever else is here.
        z[: len(histories)][seen.length > 0] = np.add.reduceat(kept, seen.first, axis=0)
    wanted = (seen.rows.kind != NOT_INTERESTED) & ~barred_of(barred, seen.user, seen.rows.item)
    # Items that share a bucket are one entry.
    entries = np.unique(seen.user[wanted] * spec.buckets + items.bucket[seen.rows.item[wanted]])
    row, bucket = np.divmod(entries, spec.buckets)
    length = np.sqrt(np.bincount(row, minlength=BLOCK).astype(np.float32))
    return at_length_one(z), row, bucket, np.asarray(1.0 / length[row], np.float32)


def _contexts(spec: EncoderSpec, parameters: Floats, items: Items, item: NDArray[np.int32]) -> Floats:
    """(n, rank) context vectors of some items; as :func:`shared.encoder.encode.context_vectors` has them of all."""
    parts, text = unpack(spec, parameters), items.groups[spec.reads]
    here, back = np.unique(item, return_inverse=True)
    full = np.concatenate([here, np.zeros(-len(here) % _TILE, here.dtype)])
    tiles = text[full].reshape(-1, _TILE, spec.text_width)
    projected = np.concatenate([tile @ parts["projection"] for tile in tiles])[: len(here)]
    return np.asarray((projected + parts["context"][items.bucket[here]])[back], np.float32)


def _learned(spec: EncoderSpec, items: Items, mask: Mask) -> Floats | None:
    """(buckets,) 1 where an item of the bucket is open; None where nothing is barred."""
    if not mask.any():
        return None
    return (np.bincount(items.bucket, ~mask, minlength=spec.buckets) > 0).astype(np.float32)


def _free(spec: EncoderSpec, learned: Sequence[Floats | None], chunk: int) -> Floats | None:
    if all(row is None for row in learned):
        return None
    free = np.ones((chunk, spec.buckets), np.float32)
    for out, row in zip(free, learned, strict=False):
        if row is not None:
            out[:] = row
    return free


def backward(module: GradSampleModule, shown: Examples, factor: float) -> None:
    """Leave ``factor`` times each user's gradient in ``grad_sample``, (chunk, buckets, rank)."""
    (weight,) = module.parameters()
    z, residual = _residual(weight.detach(), shown, factor)
    # The squared error's gradient at the layer's output is the residual: Opacus' rule needs nothing else.
    module(z, residual.clone().requires_grad_()).backward(residual)


def _residual(weight: Tensor, shown: Examples, factor: float) -> tuple[Tensor, Tensor]:
    """z, and ``factor`` times what the layer says less what it should say; (chunk, rank) and (chunk, buckets)."""
    z = torch.from_numpy(shown.z).to(weight.device)
    residual = z @ weight.T
    where = (torch.from_numpy(shown.row), torch.from_numpy(shown.bucket))
    residual[where] -= torch.from_numpy(shown.value).to(weight.device)
    if shown.free is not None:
        residual *= torch.from_numpy(shown.free).to(weight.device)
    return z, residual.mul_(factor)


def decoded(
    spec: EncoderSpec,
    parameters: Floats,
    items: Items,
    learning_rate: float,
    iterations: int,
    histories: Sequence[History],
    barred: Sequence[Mask],
    *,
    way: Way,
    device: str = "cpu",
) -> Iterator[Floats]:
    """Each user's unclipped contribution, in chunks; as :func:`client.training.fit`.

    With vectors of length one a user's own copy of the layer moves along one line, so several local steps are one that
    is longer: ``1 - (1 - learning rate)^iterations`` of the way to no residual. Way "rows" calls Opacus' rule for a
    linear layer by name: the hooks around it would write every row three times, and all rows of a chunk at once.
    """
    layer = decoder_of(spec, parameters, device)
    far, size = 1.0 - (1.0 - min(learning_rate, 1.0)) ** iterations, written(spec)
    hooked = GradSampleModule(layer, loss_reduction="sum") if way.name == "samples" else None
    for shown in examples(spec, parameters, items, histories, barred, way.chunk):
        if hooked is not None:
            backward(hooked, shown, -far)
            (weight,) = hooked.parameters()
            yield _flat(weight.grad_sample, shown.users)
            hooked.zero_grad()
            continue
        z, residual = _residual(layer.weight.detach(), shown, -far)
        for start in range(0, max(shown.users, 1), size):
            part = slice(start, start + size)
            rows = compute_linear_grad_sample(layer, [z[part]], residual[part])[layer.weight]
            yield _flat(rows, shown.users - start)


def _flat(rows: Tensor, users: int) -> Floats:
    """The rows that are users, each a vector."""
    return np.asarray(rows[:users].flatten(1).cpu().numpy(), np.float32)
