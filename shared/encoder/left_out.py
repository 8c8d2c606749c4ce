"""A history's vectors with each of its places left out in turn, without reading it again for every place.

A pooled vector is a sum of w_i v_i over a sum of sizes, so one without place r is that sum less one term: the whole
costs as much as the history is long, where going through it again for every place costs its square. In float64, so
that a difference of sums loses nothing that float32 could show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.encoder.encode import Padded, at_length_one
from shared.encoder.history import attention_weights
from shared.encoder.spec import EncoderSpec, Floats, plain_behaviour, unpack

_EPS: Final = 1e-6  # as in shared/encoder/encode.py
_ROUNDING: Final = 1e-12  # of a sum's terms: what is left below this is no vector


def groups_without(
    spec: EncoderSpec, parameters: Floats, items: Mapping[str, Floats], context: Floats, padded: Padded
) -> dict[str, Floats]:
    """As :func:`shared.encoder.encode.user_groups`, a user for each place of one history, who lacks that place alone.

    What the others weigh is what they weighed with the whole history: recency is not counted anew, and of two softmax
    weights the ratio stays.

    Args:
        spec: of a kind that pools: not "gru".
        parameters, items, context: as there.
        padded: one history.

    Returns:
        group -> (places, width).
    """
    item, behaviour = padded.item[0], padded.behaviour[0]
    plain = (behaviour @ plain_behaviour()).astype(np.float64)
    users = {g: _means(plain, vectors[item], _EPS) for g, vectors in items.items() if g != "text"}
    if spec.kind == "linear":
        return {**users, "text": at_length_one(_means(plain, context[item], _EPS))}
    parts = unpack(spec, parameters)
    if spec.kind == "attention":
        weights = attention_weights(parts, context, padded.item, padded.behaviour)[0]
        return {**users, "text": _means(weights.astype(np.float64), context[item], 0.0)}
    weights = behaviour @ parts["behaviour"]
    return {**users, "text": _means(weights.astype(np.float64), context[item], _EPS)}


def _means(weight: NDArray[np.float64], vectors: Floats, eps: float) -> Floats:
    """(places, width) weighted means of all vectors but one."""
    terms = weight[:, None] * vectors
    rest = terms.sum(axis=0) - terms
    rest[np.abs(rest) <= _ROUNDING * np.abs(terms).sum(axis=0)] = 0.0
    size = np.abs(weight)
    below = (size.sum() - size + eps)[:, None]
    return np.asarray(np.divide(rest, below, out=np.zeros_like(rest), where=below > _ROUNDING), np.float32)
