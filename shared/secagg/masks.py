"""Masks: pseudorandom vectors modulo 2^32 that cancel in the sum, from AES-256 in counter mode under a full key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

MODULUS_BITS: Final = 32
Words = NDArray[np.uint32]
_COUNTER: Final = modes.CTR(bytes(16))  # a key masks one vector of one session, so the counter may start at zero


def add_masks(words: Words, plus: Iterable[bytes], minus: Iterable[bytes]) -> None:
    """Add and subtract the streams of 32-byte keys, in place, modulo 2^32.

    Formal guarantees:
        Without a key its mask is indistinguishable from uniform (AES-256 as a pseudorandom permutation; a vector is far
        below the birthday bound of 2^64 blocks). A key must serve one vector only: callers derive one a session.
    """
    zeros, buffer = bytes(words.nbytes), bytearray(words.nbytes + 16)
    stream = np.frombuffer(buffer, "<u4", len(words))
    for keys, step in ((plus, np.add), (minus, np.subtract)):
        for key in keys:
            Cipher(algorithms.AES(key), _COUNTER).encryptor().update_into(zeros, buffer)
            step(words, stream, out=words)


def to_words(vector: NDArray[np.integer]) -> Words:
    """Signed integers modulo 2^32."""
    return np.asarray(vector, np.int64).astype(np.uint32)


def from_words(words: Words) -> NDArray[np.int64]:
    """The signed integers nearest to zero; right as long as the true sum lies within +-2^31."""
    return words.astype(np.int32).astype(np.int64)
