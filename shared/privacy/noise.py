"""Discrete Gaussian noise on the integer grid, from the operating system's randomness.

The distribution is N_Z(0, sigma^2): ``P(x) ~ exp(-x^2 / (2 sigma^2))`` on the integers (Canonne, Kamath, Steinke
2020). Sampling is by Walker's alias method (Vose 1991) over a table of 2^b outcomes: b bits of a 64-bit word choose a
cell, the others choose between the cell and its alias. The table holds whole numbers of 2^-64, none above its true
probability; what they leave out, about 2^-44 of the mass with all that lies beyond ten sigma, is one more outcome, and
whoever draws that one samples the remainder by inversion in as many decimal digits as it takes. So the samples are
exact. A sigma whose table would not fit the cache is made of two smaller ones, with an error below 10^-120.
This file knows nothing of clipping, participation or accounting.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, getcontext, localcontext
from functools import lru_cache
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

TAIL: Final = 10.0
SMALLEST: Final = 0.5  # grid units
LARGEST: Final = 2.0**27  # grid units: ten of them still fit int32
# Part of every probability that its table leaves out: more than the rounding errors of doubles, so none is too large.
SHAVED: Final = 2.0**-44
_ONE_TABLE: Final = 8192.0  # the largest sigma with a table of its own: 2^18 cells
_CHUNK: Final = 1 << 16  # words at a time: the working set stays in cache


@dataclass(frozen=True)
class NoiseSource:
    """Where noise comes from.

    Attributes:
        name: "os" or "seeded"; stands in every ledger line that the source served.
        words: draws n uniform 64-bit words, (n,) uint64.
    """

    name: str
    words: Callable[[int], NDArray[np.uint64]]


def os_noise() -> NoiseSource:
    """Randomness for deployments: an AES-256-CTR stream under a key from the operating system, never from a peer.

    A new key every call of this function; the stream is long enough for 2^68 bytes.
    """
    stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()

    def words(n: int) -> NDArray[np.uint64]:
        return np.frombuffer(stream.update(bytes(8 * n)), dtype=np.uint64)

    return NoiseSource("os", words)


def discrete_gaussian(sigma: float, size: int, source: NoiseSource) -> NDArray[np.int32]:
    """``size`` independent samples of N_Z(0, sigma^2).

    Args:
        sigma: standard deviation in grid units; 0 gives zeros, else from 0.5 to 2^27.
        size: how many.
        source: where the bits come from.

    Returns:
        (size,) int32.

    Formal guarantees:
        With sensitivity Delta in grid units a vector plus this noise is (Delta^2 / (2 sigma^2))-zCDP (Canonne, Kamath,
        Steinke 2020, Theorem 4).

    Edge cases:
        ``sigma = 0`` -> zeros, no randomness used; negative, NaN, below 0.5 or above 2^27 -> ValueError (the plan
        calibrates, so that is a wrong call, not input); ``size = 0`` -> an empty array.
    """
    if sigma == 0:
        return np.zeros(size, np.int32)
    if not SMALLEST <= sigma <= LARGEST:
        raise ValueError(f"sigma {sigma} grid units: must be 0 or from {SMALLEST} to {LARGEST:.0f}")
    if sigma <= _ONE_TABLE:
        return _sample(float(sigma), size, source)
    # x = stride * a + b with a ~ N_Z(0, s^2), b ~ N_Z(0, t^2), stride^2 s^2 + t^2 = sigma^2. Completing the square in
    # P(x) = sum over a leaves exp(-x^2 / (2 sigma^2)) times a sum of a shifted Gaussian of deviation s t / sigma over
    # the integers, which is the same for every shift up to e^(+-4 exp(-2 pi^2 (s t / sigma)^2)) (Micciancio and Walter
    # 2017). With t = 4 stride that deviation is above 3.8: an error below 10^-120.
    stride = 1 << (round(math.log2(sigma)) // 2 - 1)
    fine = 4.0 * stride
    coarse = math.sqrt(sigma**2 - fine**2) / stride
    return stride * _sample(coarse, size, source) + _sample(fine, size, source)


def _sample(sigma: float, size: int, source: NoiseSource) -> NDArray[np.int32]:
    table = _alias_table(sigma)
    out = np.empty(size, np.int32)
    for start in range(0, size, _CHUNK):
        part = out[start : start + _CHUNK]
        word = source.words(len(part))
        cell = (word & table.mask).view(np.int64)
        np.take(table.alias, cell, out=part, mode="clip")  # nothing is clipped; numpy then writes without a detour
        np.copyto(part, cell, where=(word >> table.bits) < table.keep.take(cell))
        left_out = len(table.mass)  # the last outcome, if it was drawn
        places = np.flatnonzero(part == left_out) if part.max() == left_out else ()
        part -= table.reach
        for place in places:
            part[place] = _left_out(sigma, table, source)
    return out


@dataclass(frozen=True)
class _AliasTable:
    """Outcome ``cell`` stands for the integer ``cell - reach``, the one after the last for all that is left out.

    Attributes:
        reach: the largest integer in the table.
        mass: (2 reach + 1,) uint64, probabilities in units of 2^-64.
        bits, mask, keep, alias: Vose's table of 2^bits cells.
    """

    reach: int
    mass: NDArray[np.uint64]
    bits: np.uint64
    mask: np.uint64
    keep: NDArray[np.uint64]
    alias: NDArray[np.int32]


@lru_cache(maxsize=16)
def _alias_table(sigma: float, shaved: float = SHAVED) -> _AliasTable:
    """Vose's table, in whole numbers that sum to exactly 2^64; cells are a power of two, so choosing one is exact.

    The errors of doubles on the way to a probability, at most 150 roundings in the exponent, are below ``SHAVED``.
    """
    reach = math.ceil(TAIL * sigma)
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    mass = np.floor(weight / weight.sum() * (1.0 - shaved) * 2.0**64).astype(np.uint64)
    bits = len(mass).bit_length()
    cells, full = 1 << bits, 1 << (64 - bits)
    rest = [int(m) for m in mass]
    rest += [(1 << 64) - sum(rest)] + [0] * (cells - len(mass) - 1)
    keep, alias = [full] * cells, list(range(cells))
    small = [i for i, p in enumerate(rest) if p < full]
    large = [i for i, p in enumerate(rest) if p >= full]
    while small:
        less, more = small.pop(), large.pop()
        keep[less], alias[less] = rest[less], more
        rest[more] -= full - rest[less]
        (small if rest[more] < full else large).append(more)
    return _AliasTable(
        reach=reach,
        mass=mass,
        bits=np.uint64(bits),
        mask=np.uint64(cells - 1),
        keep=np.array(keep, np.uint64),
        alias=np.array(alias, np.int32),
    )


def _left_out(sigma: float, table: _AliasTable, source: NoiseSource) -> int:
    """An integer with probability proportional to what the table leaves out of its own.

    By inversion: a uniform number gets 64 more bits for as long as it lies too near to the border between two outcomes.
    Takes up to a second, once in 2^44 samples or so.
    """
    uniform, bits, found = 0, 0, None
    while found is None:
        uniform, bits = (uniform << 64) + int(source.words(1)[0]), bits + 64
        with localcontext() as context:
            context.prec = bits // 3 + 50
            found = _inverted(sigma, table, uniform, bits)
    return found


def _inverted(sigma: float, table: _AliasTable, uniform: int, bits: int) -> int | None:
    """The outcome at ``(uniform + u) / 2^bits`` of the remainder, for all u in 0..1; None = not the same for all.

    Outcomes are in the order 0, -1, 1, -2, ... Twenty digits of the context hold what is before the point and ten what
    the recurrence of the weights loses; ``error`` is far above the last of the others.
    """
    remainder = (1 << 64) - sum(int(m) for m in table.mass)
    low, high = (Decimal(remainder * u) / (1 << bits) for u in (uniform, uniform + 1))
    error = Decimal(10) ** (-(bits // 3) - 15)
    weights = list(_weights(sigma))
    unit = Decimal(1 << 64) / (2 * sum(weights, Decimal(0)) - 1)
    reached = Decimal(0)
    for x in sorted(range(1 - len(weights), len(weights)), key=abs):
        kept = int(table.mass[x + table.reach]) if abs(x) <= table.reach else 0
        reached += weights[abs(x)] * unit - kept
        if reached - error >= high:
            return x
        if reached + error > low:
            return None
    return None


def _weights(sigma: float) -> Iterator[Decimal]:
    """``exp(-x^2 / (2 sigma^2))`` for x = 0, 1, ... for as long as it is above the last digit of the context."""
    square = Decimal(sigma) ** 2
    weight, ratio, shrink = Decimal(1), (-1 / (2 * square)).exp(), (-1 / square).exp()
    smallest = Decimal(10) ** -getcontext().prec
    while weight > smallest:
        yield weight
        weight, ratio = weight * ratio, ratio * shrink
