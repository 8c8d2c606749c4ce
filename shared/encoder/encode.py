"""Histories and items to vectors, in numpy: all that recommending needs, so a device without torch can serve.

``client/model.py`` has the same forward pass in torch; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.encoder.spec import EncoderSpec, Floats, plain_behaviour, unpack
from shared.history import History, behaviour_features

_EPS = 1e-6


@dataclass(frozen=True)
class Padded:
    """Histories side by side.

    Attributes:
        item: (users, length) int64 item index, 0 where there is none.
        behaviour: (users, length, BEHAVIOUR_WIDTH) float32, zeros where there is none.
    """

    item: NDArray[np.int64]
    behaviour: Floats


def pad(histories: Sequence[History], *, visible: str = "train") -> Padded:
    """Histories as rectangular arrays; rows of ``behaviour`` that stand for nothing are zero, so they weigh nothing.

    Args:
        visible: "train" hides held-out rows, "all" shows everything (for serving and for the final test).
    """
    if visible == "all":
        histories = [replace(h, held_out=np.zeros_like(h.held_out)) for h in histories]
    chosen = [np.flatnonzero(~h.held_out) for h in histories]
    length = max(1, *(len(rows) for rows in chosen)) if chosen else 1
    item = np.zeros((len(histories), length), np.int64)
    behaviour = np.zeros((len(histories), length, len(plain_behaviour())), np.float32)
    for row, (history, rows) in enumerate(zip(histories, chosen, strict=True)):
        item[row, : len(rows)] = history.item[rows]
        behaviour[row, : len(rows)] = behaviour_features(history)[rows]
    return Padded(item, behaviour)


def item_vectors(spec: EncoderSpec, parameters: Floats, text: Floats, bucket: NDArray[np.int64]) -> Floats:
    """(items, rank): the projected text vector plus the identity embedding."""
    parts = unpack(spec, parameters)
    return np.asarray(text @ parts["projection"] + parts["identity"][bucket], np.float32)


def user_vectors(weights: Floats, vectors: Floats, padded: Padded) -> Floats:
    """Weighted mean of the vectors of each user's items.

    Args:
        weights: (BEHAVIOUR_WIDTH,) how much each trait of a behaviour counts; may be negative.
        vectors: (items, width).
        padded: histories.

    Returns:
        (users, width); zeros for an empty history.
    """
    weight = padded.behaviour @ weights
    total = np.abs(weight).sum(axis=1, keepdims=True)
    mean = np.einsum("ul,ulw->uw", weight / (total + _EPS), vectors[padded.item])
    return np.asarray(mean, np.float32)


def user_groups(spec: EncoderSpec, parameters: Floats, items: dict[str, Floats], padded: Padded) -> dict[str, Floats]:
    """The user's side of every feature group: learned weights for "text", plain ones for the frozen groups."""
    learned = unpack(spec, parameters)["behaviour"]
    return {
        group: user_vectors(learned if group == "text" else plain_behaviour(), vectors, padded)
        for group, vectors in items.items()
    }
