"""Item vectors as whole numbers: a byte a coordinate, scored without any rounding beyond that of the bytes.

A row v becomes q = round(127 v / max|v|) and a scale |v| / |q|, so that ``scale * q`` has the direction of q and
exactly the length of v (symmetric quantisation, Jacob et al. 2018, with the length kept in place of the largest entry).
Of a unit vector the scale follows from q, so a catalogue stores bytes alone. A user's vector is quantised
likewise, on the device, and a score is

    product = sum of q_user * q_item, a whole number;   dot = (scale_user * scale_item) * product,

in float32 and in this order. Up to ``EXACT_WIDTH`` coordinates every partial sum of the product is a whole number below
2^24, which float32 holds exactly in any order of summation: so a fast float32 matrix product gives the integers, the
same on every machine and in every batch, which a sum of rounded floats does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.policy.recall_policy import Similarity

Floats = NDArray[np.float32]
LARGEST: Final = 127
EXACT_WIDTH: Final = 2**24 // LARGEST**2  # 1040
BLOCK: Final = 4096  # items turned into floats at a time: the copy stays in cache, and memory stays that of the bytes
_EPS: Final = np.float32(1e-6)  # as in shared/recall/scoring.py


@dataclass(frozen=True)
class Int8Vectors:
    """Rows as whole numbers.

    Attributes:
        values: (n, width) int8 in -127..127; a zero row stands for a zero vector.
        scale: (n,) float32, length of the vector over length of ``values``; 0 for a zero row.
    """

    values: NDArray[np.int8]
    scale: Floats

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take."""
        return self.values.nbytes + self.scale.nbytes


def quantise(vectors: Floats) -> Int8Vectors:
    """The nearest whole numbers to (n, width) finite rows; each row by its own largest entry.

    Guarantees: every coordinate of q is within 1/2 of 127 v / max|v|; the length of a row is kept to float32's
    rounding; rows made by :func:`dequantise` come back with the same bytes.
    """
    wide = np.asarray(vectors, np.float64)
    largest = np.abs(wide).max(axis=1, initial=0.0, keepdims=True)
    unit = np.divide(wide, largest, out=np.zeros_like(wide), where=largest > 0)
    values = np.rint(unit * LARGEST)
    length = np.sqrt(np.square(values).sum(axis=1))
    scale = largest[:, 0] * np.sqrt(np.square(unit).sum(axis=1))
    np.divide(scale, length, out=scale, where=length > 0)
    return Int8Vectors(values.astype(np.int8), scale.astype(np.float32))


def unit_scale(values: NDArray[np.int8]) -> Floats:
    """(n,) the scale of bytes that stand for vectors of length 1; 0 for a zero row."""
    length = np.sqrt(np.square(values.astype(np.int64)).sum(axis=1).astype(np.float64))
    scale: NDArray[np.float64] = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return scale.astype(np.float32)


def unit_rows_of(values: NDArray[np.int8]) -> Floats:
    """(n, width) float32 rows of length 1, or 0, that bytes stand for; see :func:`whole_rows`."""
    return dequantise(Int8Vectors(values, unit_scale(values)))


def whole_rows(vectors: Floats) -> NDArray[np.int8] | None:
    """The bytes that stand for exactly these unit rows, bit for bit; None where there are none."""
    values = quantise(vectors).values
    back, rows = unit_rows_of(values), np.ascontiguousarray(vectors, np.float32)
    # As bits: -0.0 equals 0.0, but a catalogue's version tells them apart.
    return values if np.array_equal(back.view(np.uint32), rows.view(np.uint32)) else None


def dequantise(vectors: Int8Vectors) -> Floats:
    """(n, width) float32, ``scale * q``: the same floats on every machine."""
    return np.asarray(vectors.values * vectors.scale[:, None], np.float32)


def int8_product(users: NDArray[np.int8], items: NDArray[np.int8]) -> Floats:
    """(users, items) inner products of whole numbers, exact, as float32.

    Raises:
        ValueError: rows are wider than ``EXACT_WIDTH``; float32 would round (split them, or use float vectors).
    """
    width = users.shape[1]
    if width > EXACT_WIDTH:
        raise ValueError(f"int8 vectors of width {width}: float32 adds up at most {EXACT_WIDTH} products exactly")
    left = users.astype(np.float32)
    out = np.empty((len(users), len(items)), np.float32)
    for start in range(0, len(items), BLOCK):
        part = items[start : start + BLOCK].astype(np.float32)
        np.matmul(left, part.T, out=out[:, start : start + BLOCK])
    return out


def int8_similarity(kind: Similarity, users: Floats, items: Int8Vectors) -> Floats:
    """(users, items) similarity as :func:`shared.recall.scoring.similarity`, of quantised vectors.

    Args:
        kind: cosine, dot or euclidean (minus the squared distance).
        users: (users, width) float32, quantised here.
        items: the catalogue's side.

    Raises:
        ValueError: see :func:`int8_product`.
    """
    own = quantise(users)
    dot = int8_product(own.values, items.values) * (own.scale[:, None] * items.scale)
    if kind == "dot":
        return dot
    mine, theirs = _lengths(own), _lengths(items)
    if kind == "euclidean":
        return np.asarray(2.0 * dot - np.square(theirs)[None] - np.square(mine)[:, None], np.float32)
    return np.asarray(dot / (mine[:, None] * theirs[None] + _EPS), np.float32)


def _lengths(vectors: Int8Vectors) -> Floats:
    """(n,) lengths, from whole numbers, so that they do not depend on an order of summation either."""
    square = np.square(vectors.values.astype(np.int64)).sum(axis=1)
    return np.asarray(np.sqrt(square.astype(np.float64)).astype(np.float32) * vectors.scale, np.float32)
