"""Shamir's secret sharing (Shamir 1979) of 32-byte secrets, over the integers modulo 2^31 - 1.

A secret is nine limbs of 30 bits, each shared by a polynomial of its own: products of two field elements fit 64-bit
integers, so numpy does the arithmetic for all limbs and all shares at once. Fewer than ``threshold`` shares are
uniform whatever the secret is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

PRIME: Final = (1 << 31) - 1
LIMBS: Final = 9
SECRET: Final = 32  # bytes
SHARE: Final = 4 * LIMBS  # bytes
_LIMB_BITS: Final = 30

Entropy = Callable[[int], bytes]  # number of bytes -> so many uniform bytes
Shares = NDArray[np.uint32]


def split(secret: bytes, threshold: int, count: int, entropy: Entropy) -> Shares:
    """``count`` shares, any ``threshold`` of which recover the secret.

    Args:
        secret: 32 bytes.
        threshold: t, from 1 to ``count``.
        count: shares; share ``x`` (from 1) is the polynomials' value at x.
        entropy: where the coefficients come from.

    Returns:
        (count, LIMBS) field elements; row x - 1 is share x.

    Raises:
        ValueError: sizes that are not so.
    """
    if len(secret) != SECRET or not 1 <= threshold <= count < PRIME:
        raise ValueError(f"{len(secret)} bytes, {threshold} of {count} shares: expected {SECRET} and 1 <= t <= count")
    x = np.arange(1, count + 1, dtype=np.uint64)[:, None]
    value = np.zeros((count, LIMBS), np.uint64)
    for coefficient in _uniform((threshold - 1) * LIMBS, entropy).reshape(-1, LIMBS):  # Horner, highest degree first
        value = (value + coefficient) * x % PRIME
    return np.asarray((value + _limbs(secret)) % PRIME, np.uint32)


def combine(positions: Sequence[int], shares: Shares) -> bytes:
    """The secret behind shares, by Lagrange interpolation at zero.

    Args:
        positions: x of each share, distinct, from 1; exactly as many as the threshold.
        shares: (t, LIMBS), in the same order.

    Raises:
        ValueError: the values are not those of any 32-byte secret (some share is wrong), or the sizes do not fit.
    """
    if not positions or len(set(positions)) != len(positions) or shares.shape != (len(positions), LIMBS):
        raise ValueError(f"shares of shape {shares.shape} for {len(positions)} positions, which must be distinct")
    weights = np.array([_at_zero(positions, x) for x in positions], np.uint64)[:, None]
    limbs = (weights * shares % PRIME).sum(axis=0) % PRIME
    value = sum(int(limb) << (_LIMB_BITS * place) for place, limb in enumerate(limbs))
    if value >> (8 * SECRET) or (limbs >> _LIMB_BITS).any():
        raise ValueError("the shares belong to no secret: one of them is wrong")
    return value.to_bytes(SECRET, "little")


def _at_zero(positions: Sequence[int], x: int) -> int:
    """The Lagrange weight of position x for the value at zero."""
    above, below = 1, 1
    for other in positions:
        if other != x:
            above = above * other % PRIME
            below = below * (other - x) % PRIME
    return above * pow(below, -1, PRIME) % PRIME


def _limbs(secret: bytes) -> NDArray[np.uint64]:
    value = int.from_bytes(secret, "little")
    return np.array([value >> (_LIMB_BITS * place) & ((1 << _LIMB_BITS) - 1) for place in range(LIMBS)], np.uint64)


def _uniform(count: int, entropy: Entropy) -> NDArray[np.uint64]:
    """Uniform field elements: 31 bits each, drawn again in the one case that is no element."""
    words = np.frombuffer(entropy(4 * count), "<u4") & PRIME
    while (again := words == PRIME).any():
        words = np.where(again, np.frombuffer(entropy(4 * count), "<u4") & PRIME, words)
    return words.astype(np.uint64)
