"""Discrete Gaussian noise on the integer grid, from the operating system's randomness.

The distribution is N_Z(0, sigma^2): ``P(x) ~ exp(-x^2 / (2 sigma^2))`` on the integers (Canonne, Kamath, Steinke 2020).
Sampling is by Walker's alias method (Vose 1991) over a table of 2^b outcomes: b bits of a 64-bit word choose a cell, the
others choose between the cell and its alias, so that no probability is off by more than 2^-63. What is left out lies beyond
ten sigma (mass below 2^-73). This file knows nothing of clipping, participation or accounting.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

TAIL: Final = 10.0
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
        sigma: standard deviation in grid units; 0 gives zeros, else at least 0.5.
        size: how many.
        source: where the bits come from.

    Returns:
        (size,) int32.

    Formal guarantees:
        With sensitivity Delta in grid units a vector plus this noise is (Delta^2 / (2 sigma^2))-zCDP (Canonne, Kamath,
        Steinke 2020, Theorem 4), up to the sampling error stated at the top.

    Edge cases:
        ``sigma = 0`` -> zeros, no randomness used; negative or below 0.5 -> ValueError (the plan calibrates, so that is a
        wrong call, not input); ``size = 0`` -> an empty array.
    """
    if sigma == 0 or size == 0:
        return np.zeros(size, np.int32)
    if sigma < 0.5:
        raise ValueError(f"sigma {sigma} is below half a grid unit: the grid is too coarse for this noise")
    table = _alias_table(float(sigma))
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
    """Vose's table for N_Z(0, sigma^2); outcome ``cell - offset``. Cells: a power of two, so that choosing one is exact."""
    reach = int(np.ceil(TAIL * sigma))
    bits = (2 * reach).bit_length()
    cells = 1 << bits
    value = np.arange(cells, dtype=np.float64) - reach
    mass = np.where(value <= reach, np.exp(-0.5 * (value / sigma) ** 2), 0.0)
    scaled = (mass / mass.sum() * cells).tolist()
    keep, alias = [1.0] * cells, list(range(cells))
    small = [i for i, p in enumerate(scaled) if p < 1.0]
    large = [i for i, p in enumerate(scaled) if p >= 1.0]
    while small and large:
        less, more = small.pop(), large.pop()
        keep[less], alias[less] = scaled[less], more
        scaled[more] -= 1.0 - scaled[less]
        (small if scaled[more] < 1.0 else large).append(more)
    limit = 2.0 ** (64 - bits)
    return _AliasTable(
        bits=np.uint64(bits),
        mask=np.uint64(cells - 1),
        offset=reach,
        keep=(np.asarray(keep) * limit).astype(np.uint64),
        alias=np.asarray(alias, np.int64),
    )
