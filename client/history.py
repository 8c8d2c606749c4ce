"""The history's side of the two-tower kinds, in torch: the twin of ``shared/encoder/history.py``.

Every parameter here has the user as its first dimension: each user has its own copy. In the first of several local
steps all copies are views of one, later they differ; and what flows back to a user's copy *is* that user's gradient,
for any formula, with no rule to derive by hand (``client/model.py: Copied``). That would be dear for large parameters;
these are a few thousand numbers at most.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared.encoder.spec import Kind, plain_behaviour

_EPS = 1e-6


def user_of(kind: Kind, own: Mapping[str, Tensor], vectors: Tensor, behaviour: Tensor) -> Tensor:
    """(users, rank) what a history says of its user.

    Args:
        kind: of the encoder, a two-tower one.
        own: name of a part -> (users, *shape).
        vectors: (users, context, rank) of the places' items.
        behaviour: (users, context, BEHAVIOUR_WIDTH).
    """
    if kind == "gru":
        return _last_state(own, vectors, behaviour)
    traits = (behaviour * own["behaviour"][:, None]).sum(-1)
    weights = normalised(traits) if kind == "mean" else _attention(traits, own["query"], vectors, _signs(behaviour))
    return (weights[:, :, None] * vectors).sum(1)


def normalised(traits: Tensor) -> Tensor:
    """(users, context) weights over the sum of their sizes; zeros for an empty history."""
    return traits / (traits.abs().sum(1, keepdim=True) + _EPS)


def _signs(behaviour: Tensor) -> Tensor:
    return behaviour @ torch.from_numpy(plain_behaviour()).to(behaviour.device)


def _attention(traits: Tensor, query: Tensor, vectors: Tensor, sign: Tensor) -> Tensor:
    # Sums, not products of matrices: see client/model.py, similarity.
    score = (vectors * query[:, None]).sum(-1) + traits
    return sign * torch.where(sign != 0, score, -1e9).softmax(1)


def _last_state(own: Mapping[str, Tensor], vectors: Tensor, behaviour: Tensor) -> Tensor:
    users, places, rank = vectors.shape
    sign = _signs(behaviour)[:, :, None]
    read = torch.bmm(torch.cat([sign * vectors, behaviour], 2), own["input"]) + own["gate"][:, None]
    state = vectors.new_zeros(users, rank)
    for place in range(places):
        kept = torch.bmm(state[:, None], own["state"])[:, 0]
        reset, keep = (read[:, place, : 2 * rank] + kept[:, : 2 * rank]).sigmoid().chunk(2, 1)
        new = (read[:, place, 2 * rank :] + reset * kept[:, 2 * rank :]).tanh()
        state = torch.where(sign[:, place] != 0, keep * state + (1.0 - keep) * new, state)
    return state
