"""The history's side of the two-tower kinds, in numpy: attention and GRU; ``client/history.py`` is the twin in torch.

Both read the item vectors of the weighted mean, and begin as nearly the same thing: attention with parameters of zero
*is* the plain mean, a GRU before training is a mean that forgets. "Not interested" turns an item's vector around before
anything else: a softmax has no weights below zero, so attention by itself could only look away from what was turned
down.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shared.encoder.spec import Floats, plain_behaviour


def signs(behaviour: Floats) -> Floats:
    """(users, places): 1 for what speaks for its item, -1 for "not interested", 0 where a place is empty."""
    return np.asarray(behaviour @ plain_behaviour(), np.float32)


def attention_weights(
    parts: Mapping[str, Floats], context: Floats, item: NDArray[np.int64], behaviour: Floats
) -> Floats:
    """How much each place counts: a softmax over a user's places, signs put back.

    The score of a place is a learned query times the item's vector, plus learned weights times the behaviour's traits
    (additive attention with one global query, as in the user encoder of Wu et al., EMNLP 2019, "Neural News
    Recommendation with Multi-Head Self-Attention", less the hidden layer, whose parameters would drown in noise).

    Args:
        parts: "behaviour" (BEHAVIOUR_WIDTH,) and "query" (rank,).
        context: (items, rank).
        item, behaviour: of :class:`shared.encoder.encode.Padded`.

    Returns:
        (users, places); sizes add up to 1, all zero for an empty history.
    """
    sign = signs(behaviour)
    score = (context @ parts["query"])[item] + np.vecdot(behaviour, parts["behaviour"])
    score = np.where(sign != 0, score, np.float32(-1e9))
    size = np.exp(score - score.max(axis=1, keepdims=True))
    return np.asarray(sign * size / running(size), np.float32)


def running(values: Floats) -> Floats:
    """(users, 1) sums over places, one place after another: those that are empty change no bit, however many."""
    return np.asarray(np.cumsum(values, axis=1)[:, -1:], np.float32)


def last_state(parts: Mapping[str, Floats], context: Floats, item: NDArray[np.int64], behaviour: Floats) -> Floats:
    """The state of a gated recurrent unit after the newest place; zeros for an empty history.

    With x = (signed item vector, traits), in the form of torch and cuDNN without the second bias (Cho et al., EMNLP
    2014, section 2.3; Hidasi et al., ICLR 2016, for sessions)::

        r, z = sigmoid(x W_r + h U_r + b_r), sigmoid(x W_z + h U_z + b_z)
        n = tanh(x W_n + b_n + r * (h U_n))
        h <- z * h + (1 - z) * n

    Args:
        parts: "input" (rank + BEHAVIOUR_WIDTH, 3 rank), "state" (rank, 3 rank), "gate" (3 rank,); columns r, z, n.
        context: (items, rank).
        item, behaviour: of :class:`shared.encoder.encode.Padded`; places in order of time, the oldest first.

    Returns:
        (users, rank).
    """
    rank = context.shape[1]
    of_items, of_traits = context @ parts["input"][:rank], parts["input"][rank:]
    sign = signs(behaviour)
    state = np.zeros((len(item), rank), np.float32)
    for place in range(item.shape[1]):
        here = sign[:, place, None]
        read = here * of_items[item[:, place]] + behaviour[:, place] @ of_traits + parts["gate"]
        kept = state @ parts["state"]
        reset, keep = np.split(_sigmoid(read[:, : 2 * rank] + kept[:, : 2 * rank]), 2, axis=1)
        new = np.tanh(read[:, 2 * rank :] + reset * kept[:, 2 * rank :])
        state = np.where(here != 0, keep * state + (1.0 - keep) * new, state)
    return np.asarray(state, np.float32)


def _sigmoid(values: Floats) -> Floats:
    # By tanh, which does not overflow.
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values), np.float32)
