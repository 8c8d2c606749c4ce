"""The encoder's parameters as one flat vector, and its named parts.

Four kinds (docs/encoder.md). All are low-dimensional adapters on frozen public vectors, for the number of parameters is
what noise is paid for; rank and buckets are public choices.

- "linear": a linear autoencoder. A history's vector is the sum of its items' *context* vectors at length one; an item's
  *target* vector is trained. Contexts come once, from a private second moment of histories in public features
  (``server/warm_start.py``), and stay as they are: only targets are an update.
- "mean": two towers in one. An item's vector is its text vector through one small projection plus an embedding of its
  identity; a history's vector is the mean of its items' vectors, weighted by what the behaviour was. All is trained.
- "attention": items as in "mean"; a history's vector is a softmax pooling by a learned query and the behaviour.
- "gru": items as in "mean"; a history's vector is the last state of a gated recurrent unit that reads it in order.

The registry is closed: an encoder that came from elsewhere could give a user more than one sample without a word.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shared.history import BEHAVIOUR_WIDTH, KINDS, NOT_INTERESTED

Floats = NDArray[np.float32]
Kind = Literal["linear", "mean", "attention", "gru"]
KINDS_OF_ENCODER = get_args(Kind)
# Bias of the gate that keeps the state, before training: a place's share halves after about fourteen others.
_KEEPING: Final = 3.0


@dataclass(frozen=True)
class EncoderSpec:
    """Public sizes.

    Attributes:
        text_width: width of the public vectors that the projection reads (:attr:`reads`).
        rank: width of item and user vectors.
        buckets: rows of per-item parameters and of every per-item statistic; items share a row when there are more.
        kind: see above.
    """

    text_width: int
    rank: int
    buckets: int
    kind: Kind = "mean"

    @property
    def reads(self) -> str:
        """The catalogue's group of vectors that the projection reads."""
        return "compact" if self.kind == "linear" else "text"

    @property
    def trained(self) -> int:
        """Length of an update: the last so many parameters; what comes before them is never trained."""
        return self.buckets * self.rank if self.kind == "linear" else self.size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each part, in the order of the flat vector."""
        if self.kind == "linear":
            return {
                "projection": (self.text_width, self.rank),
                "context": (self.buckets, self.rank),
                "target": (self.buckets, self.rank),
            }
        items = {
            "projection": (self.text_width, self.rank),
            "identity": (self.buckets, self.rank),
            "bias": (self.buckets,),
        }
        return items | self.history_shapes()

    def history_shapes(self) -> dict[str, tuple[int, ...]]:
        """As :meth:`shapes`, of the parts that make a user's vector of a history's item vectors; they come last."""
        rank = self.rank
        if self.kind == "gru":  # columns: reset, keep, new
            return {"input": (rank + BEHAVIOUR_WIDTH, 3 * rank), "state": (rank, 3 * rank), "gate": (3 * rank,)}
        query = {"query": (rank,)} if self.kind == "attention" else {}
        return {} if self.kind == "linear" else {"behaviour": (BEHAVIOUR_WIDTH,), **query}

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes().values())


def unpack(spec: EncoderSpec, flat: Floats) -> dict[str, Floats]:
    """Views of the parts of a (size,) vector.

    Raises:
        ValueError: the vector has another length.
    """
    if flat.shape != (spec.size,):
        raise ValueError(f"parameters of shape {flat.shape}, expected ({spec.size},)")
    parts, start = {}, 0
    for name, shape in spec.shapes().items():
        stop = start + math.prod(shape)
        parts[name] = flat[start:stop].reshape(shape)
        start = stop
    return parts


def initial_parameters(spec: EncoderSpec, rng: np.random.Generator) -> Floats:
    """Round zero.

    linear: nothing is known. Two towers: a random projection that keeps lengths, and the plain mean of a history, +1 or
    -1 by what the behaviour was (gru: a mean that forgets, as every state keeps a share of the one before).
    """
    flat = np.zeros(spec.size, np.float32)
    if spec.kind == "linear":
        return flat
    parts = unpack(spec, flat)
    parts["projection"][:] = rng.normal(0.0, spec.rank**-0.5, parts["projection"].shape)
    if spec.kind == "mean":
        parts["behaviour"][:] = plain_behaviour()
    if spec.kind == "gru":
        parts["input"][: spec.rank, 2 * spec.rank :] = np.eye(spec.rank)
        parts["gate"][spec.rank : 2 * spec.rank] = _KEEPING
    return flat


def plain_behaviour() -> Floats:
    """Behaviour weights before anything was learned: kinds +1, "not interested" -1, the rest 0; (BEHAVIOUR_WIDTH,)."""
    weights = np.zeros(BEHAVIOUR_WIDTH, np.float32)
    weights[: len(KINDS)] = 1.0
    weights[NOT_INTERESTED] = -1.0
    return weights


def bucket_of(ids: tuple[str, ...], buckets: int) -> NDArray[np.int64]:
    """The row of each item in per-item vectors: its own index while there is room, else a public hash of its id.

    Returns:
        (items,) int64 in 0..buckets-1; shared by callers with the same ``ids``, so not to be written into.
    """
    if len(ids) <= buckets:
        return np.arange(len(ids))
    return _hashed(_Same(ids), buckets)


class _Same:
    """A tuple that equals itself alone: to compare the ids of a million items would cost as much as to hash them."""

    def __init__(self, ids: tuple[str, ...]) -> None:
        self.ids = ids

    def __hash__(self) -> int:
        return id(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.ids is other.ids


@lru_cache(maxsize=4)
def _hashed(same: _Same, buckets: int) -> NDArray[np.int64]:
    digests = (hashlib.sha256(item.encode()).digest()[:8] for item in same.ids)
    return np.array([int.from_bytes(d, "big") % buckets for d in digests], np.int64)
