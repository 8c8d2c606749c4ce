"""Histories and items to vectors, in numpy: all that recommending needs, so a device without torch can serve.

``client/model.py`` has the same forward pass in torch; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.encoder.history import attention_weights, last_state, running
from shared.encoder.spec import EncoderSpec, Floats, plain_behaviour, unpack
from shared.history import BEHAVIOUR_WIDTH, History, behaviour_features, stacked

_EPS = 1e-6


@dataclass(frozen=True)
class Padded:
    """Histories side by side, the oldest behaviour first.

    Attributes:
        item: (users, length) int64 item index, 0 where there is none; places that stand for nothing come last.
        behaviour: (users, length, BEHAVIOUR_WIDTH) float32, zeros where there is none.
    """

    item: NDArray[np.int64]
    behaviour: Floats


def pad(histories: Sequence[History], *, visible: str = "train") -> Padded:
    """Histories as rectangular arrays; rows of ``behaviour`` that stand for nothing are zero, so they weigh nothing.

    Args:
        visible: "train" hides held-out rows, "all" shows everything (for serving and for the final test).
    """
    seen = stacked(histories, visible=visible)
    length = max(1, int(seen.length.max(initial=0)))
    item = np.zeros((len(histories), length), np.int64)
    behaviour = np.zeros((len(histories), length, BEHAVIOUR_WIDTH), np.float32)
    item[seen.user, seen.place] = seen.rows.item
    behaviour[seen.user, seen.place] = behaviour_features(seen)
    return Padded(item, behaviour)


def item_vectors(spec: EncoderSpec, parameters: Floats, text: Floats, bucket: NDArray[np.int64]) -> Floats:
    """(items, rank): what users are compared with. linear: targets. Two towers: projected text plus identity.

    Args:
        spec, parameters: the encoder.
        text: (items, text_width) the group ``spec.reads``.
        bucket: (items,) row of each item in per-item parameters.
    """
    parts = unpack(spec, parameters)
    if spec.kind == "linear":
        return np.asarray(parts["target"][bucket], np.float32)
    return np.asarray(text @ parts["projection"] + parts["identity"][bucket], np.float32)


def context_vectors(spec: EncoderSpec, parameters: Floats, text: Floats, bucket: NDArray[np.int64]) -> Floats:
    """(items, rank): what an item adds to the user who has it; arguments as :func:`item_vectors`."""
    if spec.kind != "linear":
        return item_vectors(spec, parameters, text, bucket)
    parts = unpack(spec, parameters)
    return np.asarray(text @ parts["projection"] + parts["context"][bucket], np.float32)


def log_popularity_of(spec: EncoderSpec, parameters: Floats, prior: Floats) -> Floats:
    """(buckets,) log private popularity, plus the learned bias of an encoder that has one."""
    return prior if spec.kind == "linear" else prior + unpack(spec, parameters)["bias"]


def user_vectors(weights: Floats, vectors: Floats, padded: Padded) -> Floats:
    """Weighted mean of the vectors of each user's items.

    Args:
        weights: (BEHAVIOUR_WIDTH,) how much each trait of a behaviour counts; may be negative.
        vectors: (items, width).
        padded: histories.

    Returns:
        (users, width); zeros for an empty history.
    """
    weight = np.vecdot(padded.behaviour, weights)
    return _pooled(weight / (running(np.abs(weight)) + _EPS), vectors, padded)


def _pooled(weight: Floats, vectors: Floats, padded: Padded) -> Floats:
    """(users, width) sum of the vectors of each user's items, (users, places) weights."""
    out = np.zeros((len(weight), vectors.shape[1]), np.float32)
    # One at a time: nobody's vector may depend, not even in its last bit, on who else is here. A list is cut off behind
    # its k-th item, so a last bit can be an item, which nobody would have paid for.
    for row, own, item in zip(out, weight, padded.item, strict=True):
        here = np.flatnonzero(own)
        row[:] = own[here] @ vectors[item[here]]
    return out


def at_length_one(rows: Floats) -> Floats:
    """(n, width) rows at Euclidean length one; zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0), np.float32)


def user_groups(
    spec: EncoderSpec, parameters: Floats, items: Mapping[str, Floats], context: Floats, padded: Padded
) -> dict[str, Floats]:
    """The user's side of every feature group: the encoder for "text", plain means for the frozen groups.

    Args:
        spec, parameters: the encoder.
        items: feature group -> (items, width).
        context: (items, rank) of :func:`context_vectors`.
        padded: histories.
    """
    users = {g: user_vectors(plain_behaviour(), vectors, padded) for g, vectors in items.items() if g != "text"}
    if spec.kind == "linear":
        return {**users, "text": at_length_one(user_vectors(plain_behaviour(), context, padded))}
    parts = unpack(spec, parameters)
    if spec.kind == "gru":
        return {**users, "text": last_state(parts, context, padded.item, padded.behaviour)}
    if spec.kind == "attention":
        weights = attention_weights(parts, context, padded.item, padded.behaviour)
        return {**users, "text": _pooled(weights, context, padded)}
    return {**users, "text": user_vectors(parts["behaviour"], context, padded)}
