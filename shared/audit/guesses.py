"""What counted guesses about canaries prove of epsilon, counted again: a bound in a file can be edited, so can its cap.

Shares no code with the attack. Steinke, Nasr, Jagielski 2023, Theorem 5.2, and Mahloujifar, Melis, Chaudhuri 2024 for
the Gaussian trade-off curve; ``simulations/attack/bounds.py`` has the proof of the recursion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np

from shared.privacy.accounting import epsilon_exact

MOST_GUESSES: Final = 20_000  # a recursion over more takes longer than the rest of an audit
_MOST: Final = 100.0  # epsilon, and mu
_HALVINGS: Final = 24


@lru_cache(maxsize=64)
def least_epsilon(
    method: str, canaries: int, guesses: int, right: int, delta: float, confidence: float
) -> float | None:
    """The largest epsilon that so many right guesses refute; None = a method that this auditor does not know.

    Args:
        method: "steinke-2023" or "mahloujifar-2024".
        canaries, guesses, right: ``0 <= right <= guesses <= canaries``; above ``MOST_GUESSES`` nothing is counted.
        delta, confidence: at which epsilon is meant, and of the bound.
    """
    if guesses > MOST_GUESSES or right == 0:
        return None if guesses > MOST_GUESSES else 0.0
    left = 1.0 - confidence
    if method == "steinke-2023":
        return _largest(lambda epsilon: _luck(canaries, guesses, right, epsilon, delta) <= left)
    if method == "mahloujifar-2024":
        mu = _largest(lambda mu: _refuted(mu, canaries, guesses, right, left))
        return epsilon_exact(mu * mu / 2.0, delta) if mu > 0 else 0.0
    return None


def _largest(refutes: Callable[[float], bool]) -> float:
    low, high = 0.0, _MOST
    if not refutes(low):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if refutes(middle) else (low, middle)
    return low


def _luck(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The most probable that so many right guesses can be under (epsilon, delta)."""
    from scipy.special import bdtrc  # noqa: PLC0415 - heavy; it comes with the extra "audit"

    heads = np.arange(right - 1, -2, -1)
    tails = np.asarray(bdtrc(heads, guesses, 1.0 / (1.0 + math.exp(-epsilon))))
    rise = (tails[1:] - tails[0]) / np.arange(1, right + 1)
    return float(tails[0] + 2.0 * canaries * delta * rise.max())


def _refuted(mu: float, canaries: int, guesses: int, right: int, left: float) -> bool:
    """Whether no tails of the count fit under the Gaussian curve of ``mu``, if ``right`` has a tail of ``left``."""
    from scipy.special import ndtr, ndtri  # noqa: PLC0415 - as above

    tail, later = left, 0.0
    for count in range(right, 0, -1):
        hit = float(ndtr(ndtri((count * tail + later) / canaries) - mu))
        later += tail
        tail = max(tail, (canaries * hit + later) / (guesses - count + 1))
        if tail > 1.0:
            return True
    return False
