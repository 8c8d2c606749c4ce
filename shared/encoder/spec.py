"""The encoder's parameters as one flat vector, and its named parts.

The encoder is a low-dimensional adapter on frozen text vectors (docs/architecture.md): an item's vector is its text
vector through one small projection plus an embedding of its identity; a history's vector is a weighted mean of its
items, weighted by what the behaviour was. The number of parameters is what noise is paid for, so rank and buckets are
public choices.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.history import BEHAVIOUR_WIDTH, KINDS, NOT_INTERESTED

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EncoderSpec:
    """Public sizes.

    Attributes:
        text_width: width of the catalogue's text vectors.
        rank: width of item and user vectors.
        buckets: rows of the identity embedding and of every per-item statistic; items share a row when there are more.
    """

    text_width: int
    rank: int
    buckets: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each part, in the order of the flat vector."""
        return {
            "projection": (self.text_width, self.rank),
            "identity": (self.buckets, self.rank),
            "bias": (self.buckets,),
            "behaviour": (BEHAVIOUR_WIDTH,),
        }

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes().values())


def unpack(spec: EncoderSpec, flat: Floats) -> dict[str, Floats]:
    """Views of the parts of a (size,) vector.

    Raises:
        ValueError: the vector has another length.
    """
    if flat.shape != (spec.size,):
        raise ValueError(f"parameters of shape {flat.shape}, expected ({spec.size},)")
    parts, start = {}, 0
    for name, shape in spec.shapes().items():
        stop = start + int(np.prod(shape))
        parts[name] = flat[start:stop].reshape(shape)
        start = stop
    return parts


def initial_parameters(spec: EncoderSpec, rng: np.random.Generator) -> Floats:
    """Round zero: a random projection that keeps lengths, no identity, no bias, behaviour counted as +1 or -1."""
    flat = np.zeros(spec.size, np.float32)
    parts = unpack(spec, flat)
    parts["projection"][:] = rng.normal(0.0, spec.rank**-0.5, parts["projection"].shape)
    parts["behaviour"][:] = plain_behaviour()
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
        (items,) int64 in 0..buckets-1.
    """
    if len(ids) <= buckets:
        return np.arange(len(ids))
    digests = (hashlib.sha256(item.encode()).digest()[:8] for item in ids)
    return np.array([int.from_bytes(d, "big") % buckets for d in digests], np.int64)
