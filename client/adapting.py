"""Incremental updates on the device: when behaviour arrives, a small personal part of the encoder takes a step.

The part is an offset of the user's vector and a gain for each feature group's weight (:class:`Personal`). The shared
encoder stays as it was given out, and nothing of this is ever released: it costs no budget, and the server cannot know
of it. One event is one step of stochastic gradient descent (Robbins and Monro 1951) or AdaGrad (Duchi, Hazan and
Singer 2011, figure 1), on the same sampled softmax that trains the shared encoder (``client/model.py``), by hand in
numpy so that a device without torch can learn too.

The maths. With candidates C = {event's item j} and sampled others, R_i the score of i and p = softmax(R) over C:

    wanted:          L = -log p_j          dL/dR_i = p_i - [i = j]
    not interested:  L = -log(1 - p_j)     dL/dR_j = p_j,  dL/dR_i = -p_j p_i / (1 - p_j) for the others

    R_i = sum over groups g of W_g (1 + gain_g) S_g(u_g, v_gi),  u_text = history's vector + scale * z

z is the offset in units of the typical coordinate of a user's vector, so that one learning rate fits every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from client.recommending import Personal, Rows, parts_of, summed, user_sides
from client.store import Event
from shared.encoder.spec import Floats
from shared.history import History
from shared.policy.recall_policy import RecallPolicy, Similarity
from shared.recall.item_rules import Mask

Optimizer = Literal["sgd", "adagrad"]
GAINS: Final = (-0.9, 9.0)  # no group changes sides, none drowns the others for good
_EPS: Final = 1e-6  # as in shared/recall/scoring.py
_TAU: Final = 1e-6  # AdaGrad's delta


@dataclass(frozen=True)
class AdaptingTerms:
    """How a device learns. Docs: docs/device.md says how the defaults were chosen and what they gain.

    Attributes:
        optimizer: see the module.
        learning_rate: after warm-up.
        warmup: events over which the rate rises linearly: the first steps of AdaGrad are as long as all others, and an
            offset that rests on one event says little.
        negatives: sampled others.
        reach: longest offset, in lengths of the vector of a user with one item; keeps the shared encoder in charge.
    """

    optimizer: Optimizer = "adagrad"
    learning_rate: float = 0.1
    warmup: int = 5
    negatives: int = 256
    reach: float = 1.0


@dataclass(frozen=True)
class Adapted:
    """A device's state; stays on the device.

    Attributes:
        z: (rank,) offset over the scale.
        gain: feature group -> gain.
        squares: sums of squared gradients, of z (rank,) and of each gain.
        events: steps taken.
    """

    z: Floats
    gain: Mapping[str, float]
    squares: tuple[Floats, Mapping[str, float]]
    events: int


@dataclass(frozen=True)
class Gradient:
    """Of one event's loss.

    Attributes:
        loss: its value.
        z: (rank,).
        gain: one a feature group that counts.
    """

    loss: float
    z: Floats
    gain: Mapping[str, float]


def unadapted(rank: int) -> Adapted:
    """Before the first event."""
    return Adapted(np.zeros(rank, np.float32), {}, (np.zeros(rank, np.float32), {}), 0)


def personal_of(state: Adapted, scale: float) -> Personal:
    """What recommending adds to the shared model; ``scale`` is that of :class:`client.recommending.Rows`."""
    return Personal(np.asarray(scale * state.z, np.float32), dict(state.gain))


def adapted(
    shelf: Rows,
    policy: RecallPolicy,
    history: History,
    barred: Mask,
    state: Adapted,
    event: Event,
    terms: AdaptingTerms,
    rng: np.random.Generator,
) -> Adapted:
    """One step, for one event.

    Args:
        shelf, policy: the shared model.
        history: *before* the event: the step learns to foresee it.
        barred: (items,) what item rules keep from this user; neither learned nor a negative.
        state: before.
        event: what was done.
        terms: how to learn.
        rng: chance for negatives; no privacy rests on it.

    Returns:
        The state after; the same one for an event of a barred item.
    """
    if barred[event.item]:
        return state
    free = np.flatnonzero(~barred & ~np.isin(np.arange(len(barred)), [*history.item, event.item]))
    if len(free) == 0:
        return state
    others = rng.choice(free, min(terms.negatives, len(free)), replace=False)
    candidates = np.concatenate([[event.item], others])
    return stepped(shelf, policy, history, state, candidates, terms, wanted=event.kind != "not_interested")


def stepped(
    shelf: Rows,
    policy: RecallPolicy,
    history: History,
    state: Adapted,
    candidates: NDArray[np.int64],
    terms: AdaptingTerms,
    *,
    wanted: bool,
) -> Adapted:
    """The step of :func:`adapted` against given candidates; arguments as there and in :func:`gradient`."""
    found = gradient(shelf, policy, history, state, candidates, wanted=wanted)
    rate = terms.learning_rate * min(1.0, (state.events + 1) / max(terms.warmup, 1))
    z, z_squares = _step(terms.optimizer, rate, state.z, state.squares[0], found.z)
    gain, gain_squares = dict(state.gain), dict(state.squares[1])
    for group, slope in found.gain.items():
        before = np.array([gain.get(group, 0.0), gain_squares.get(group, 0.0)], np.float32)
        value, square = _step(terms.optimizer, rate, before[0:1], before[1:2], slope)
        gain[group], gain_squares[group] = float(np.clip(value[0], *GAINS)), float(square[0])
    longest = terms.reach * np.sqrt(len(z))
    length = float(np.linalg.norm(z))
    if length > longest:
        z = np.asarray(z * (longest / length), np.float32)
    return Adapted(z, gain, (z_squares, gain_squares), state.events + 1)


def gradient(
    shelf: Rows,
    policy: RecallPolicy,
    history: History,
    state: Adapted,
    candidates: NDArray[np.int64],
    *,
    wanted: bool,
) -> Gradient:
    """Loss and slopes of one event; a test holds them against finite differences and against torch.

    Args:
        shelf, policy, history, state: see :func:`adapted`.
        candidates: (n,) item indices, the event's first.
        wanted: whether the event speaks for its item.
    """
    personal = personal_of(state, shelf.scale)
    users = user_sides(shelf, policy, [history], personal)
    parts = {group: part[0] for group, part in parts_of(shelf, policy, users, personal, item=candidates).items()}
    scores = summed(parts, candidates.shape).astype(np.float64)
    scores -= scores.max()
    p = np.exp(scores)
    p /= p.sum()
    first = np.arange(len(p)) == 0
    if wanted:
        loss, slope = -np.log(p[0] + 1e-300), p - first
    else:
        rest = max(float(p[1:].sum()), 1e-12)
        loss, slope = -np.log(rest), np.where(first, p[0], -p[0] * p / rest)
    gain = {group: float(slope @ part) / (1.0 + personal.gain.get(group, 0.0)) for group, part in parts.items()}
    weight = policy.weight("text") * (1.0 + personal.gain.get("text", 0.0))
    near = _similarity_slope(policy.similarity["text"], users["text"][0], shelf.items["text"][candidates])
    return Gradient(float(loss), np.asarray(shelf.scale * weight * (slope @ near), np.float32), gain)


def _similarity_slope(kind: Similarity, user: Floats, items: Floats) -> NDArray[np.float64]:
    """(items, width): the slope of each item's similarity in the user's vector, as ``shared/recall/scoring.py``."""
    u, v = user.astype(np.float64), items.astype(np.float64)
    if kind == "dot":
        return v
    if kind == "euclidean":
        return np.asarray(2.0 * (v - u))
    length, lengths = np.linalg.norm(u), np.linalg.norm(v, axis=1)
    if length == 0:  # nobody's cosine has a slope at zero: the one of a vector as long as the item's
        return np.asarray(v / np.maximum(np.square(lengths), _EPS)[:, None])
    below = length * lengths + _EPS
    turned = (v @ u) * lengths / (length * np.square(below))
    return np.asarray(v / below[:, None] - turned[:, None] * u)


def _step(
    kind: Optimizer, rate: float, value: NDArray[np.floating], square: NDArray[np.floating], slope: Floats | float
) -> tuple[Floats, Floats]:
    """One step, coordinate by coordinate: (value, sum of squares) after."""
    square = square + np.square(slope)
    length = slope if kind == "sgd" else slope / (np.sqrt(square) + _TAU)
    return np.asarray(value - rate * length, np.float32), np.asarray(square, np.float32)
