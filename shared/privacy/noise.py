"""Discrete Gaussian noise on the integer grid, from the operating system's randomness.

The distribution is N_Z(0, sigma^2): ``P(x) ~ exp(-x^2 / (2 sigma^2))`` on the integers (Canonne, Kamath, Steinke
2020). Sampling is by Walker's alias method (Vose 1991) over a table of 2^b outcomes: b bits of a 64-bit word choose a
cell, the others choose between the cell and its alias. The table is built in integers that sum to 2^64, so what is
sampled is known exactly: each probability is that of N_Z within a relative 2^-44 plus an absolute 2^-64. What is left
out lies beyond ten sigma (mass below 2^-73). A sigma whose table would not fit the cache is made of two smaller ones.
This file knows nothing of clipping, participation or accounting.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

TAIL: Final = 10.0
SMALLEST: Final = 0.5  # grid units
LARGEST: Final = 2.0**27  # grid units: ten of them still fit int32
_ONE_TABLE: Final = 8192.0  # the largest sigma with a table of its own: 2^18 cells
_CHUNK: Final = 1 << 18  # words at a time: the working set stays in cache


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
        Steinke 2020, Theorem 4), up to the sampling error stated at the top.

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
        cell = (word & table.mask).astype(np.int64)
        part[:] = np.where((word >> table.bits) < table.keep[cell], cell, table.alias[cell]) - table.offset
    return out


@dataclass(frozen=True)
class _AliasTable:
    bits: np.uint64
    mask: np.uint64
    offset: int
    keep: NDArray[np.uint64]
    alias: NDArray[np.int64]


@lru_cache(maxsize=16)
def _alias_table(sigma: float) -> _AliasTable:
    """Vose's table for N_Z(0, sigma^2); outcome ``cell - offset``.

    Cells are a power of two, so that choosing one is exact. Masses are whole numbers of 2^-64 that sum to exactly 1
    (what rounding leaves over is spread within one sigma), so no cell is left over and no rounding creeps in later.
    """
    reach = math.ceil(TAIL * sigma)
    bits = (2 * reach).bit_length()
    cells, full = 1 << bits, 1 << (64 - bits)
    value = np.arange(-reach, reach + 1)
    mass = np.exp(-0.5 * (value / sigma) ** 2)
    rest = [int(p) for p in np.floor(mass / mass.sum() * 2.0**64)] + [0] * (cells - len(value))
    near = range(reach - int(sigma), reach + int(sigma) + 1)
    each, left = divmod((1 << 64) - sum(rest), len(near))
    for place, cell in enumerate(near):
        rest[cell] += each + (place < left)
    keep, alias = [full] * cells, list(range(cells))
    small = [i for i, p in enumerate(rest) if p < full]
    large = [i for i, p in enumerate(rest) if p >= full]
    while small:
        less, more = small.pop(), large.pop()
        keep[less], alias[less] = rest[less], more
        rest[more] -= full - rest[less]
        (small if rest[more] < full else large).append(more)
    return _AliasTable(
        bits=np.uint64(bits),
        mask=np.uint64(cells - 1),
        offset=reach,
        keep=np.array(keep, np.uint64),
        alias=np.array(alias, np.int64),
    )
