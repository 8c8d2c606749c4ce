"""What a training step sees of each user: a fresh random split of the history, padded to public sizes.

Every visit splits the user's own visible history at random into context (what the encoder reads) and targets (what it
should find), so that nothing held out is ever touched. Negatives are uniform over the catalogue and may exclude
*visible* positives only: excluding a held-out item would tell the model where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.history import BEHAVIOUR_WIDTH, NOT_INTERESTED, History, behaviour_features
from shared.recall.item_rules import Mask


@dataclass(frozen=True)
class BatchShape:
    """Public sizes; the same for every history, so that time and memory say nothing about it."""

    context: int
    targets: int
    negatives: int


@dataclass(frozen=True)
class Batch:
    """One step's input.

    Attributes:
        item: (users, context + targets + negatives) int64 item indices; 0 where a place is empty.
        behaviour: (users, context, BEHAVIOUR_WIDTH) float32; zero rows are empty places.
        target: (users, targets) float32, 1 where there is a target.
        rating: (users, targets) float32 in 0..1, 1 where there is no rating.
        negative: (users, negatives) float32, 1 where the item is a true negative.
    """

    item: NDArray[np.int64]
    behaviour: NDArray[np.float32]
    target: NDArray[np.float32]
    rating: NDArray[np.float32]
    negative: NDArray[np.float32]


def draw(
    histories: Sequence[History],
    rngs: Sequence[np.random.Generator],
    barred: Sequence[Mask],
    items: int,
    shape: BatchShape,
    *,
    rows: int | None = None,
) -> Batch:
    """Split every history at random and draw its negatives.

    Args:
        histories: one per user; empty ones give empty rows.
        rngs: one generator per user, so that a user's draw does not depend on who else is in the batch.
        barred: one per user, (items,) what is neither target nor negative; it stays context.
        items: size of the catalogue.
        shape: public sizes.
        rows: size of the batch, the last rows empty; None = one row a history.
    """
    users = len(histories) if rows is None else rows
    batch = Batch(
        item=np.zeros((users, shape.context + shape.targets + shape.negatives), np.int64),
        behaviour=np.zeros((users, shape.context, BEHAVIOUR_WIDTH), np.float32),
        target=np.zeros((users, shape.targets), np.float32),
        rating=np.ones((users, shape.targets), np.float32),
        negative=np.zeros((users, shape.negatives), np.float32),
    )
    for row, (history, rng, mask) in enumerate(zip(histories, rngs, barred, strict=True)):
        _fill(batch, row, history, rng, mask, items, shape)
    return batch


def _fill(
    batch: Batch,
    row: int,
    history: History,
    rng: np.random.Generator,
    barred: Mask,
    items: int,
    shape: BatchShape,
) -> None:
    visible = np.flatnonzero(~history.held_out)
    if len(visible) == 0:
        return
    order = rng.permutation(visible)
    liked = history.kind[order] != NOT_INTERESTED
    wanted = liked & ~barred[history.item[order]]
    positives = order[wanted]
    # At most half of the history becomes targets: a context that is too thin teaches the encoder to ignore it.
    targets = positives[: min(shape.targets, max(1, len(positives) // 2))]
    context = np.concatenate([positives[len(targets) :], order[liked & ~wanted], order[~liked]])[: shape.context]
    context.sort()  # which ones is left to chance, but they stay in order of time: the oldest first
    negatives = rng.integers(0, items, shape.negatives)

    first, second = shape.context, shape.context + shape.targets
    batch.item[row, : len(context)] = history.item[context]
    batch.item[row, first : first + len(targets)] = history.item[targets]
    batch.item[row, second:] = negatives
    batch.behaviour[row, : len(context)] = behaviour_features(history)[context]
    batch.target[row, : len(targets)] = 1.0
    batch.rating[row, : len(targets)] = np.nan_to_num(history.rating[targets], nan=1.0)
    left_out = barred.copy()
    left_out[history.item[order[liked]]] = True
    batch.negative[row] = ~left_out[negatives]
