"""How often a client may contribute, and whom the server may therefore still ask.

The claim rests on a count, not on luck of sampling: a client contributes to at most K rounds, and its own gate enforces
K, so any choice of cohorts by the server is covered. This file knows nothing of clipping, noise or accounting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def remaining(used: int, limit: int) -> int:
    """Participations left, never below zero."""
    return max(0, limit - used)


def eligible(clients: Sequence[str], used: Mapping[str, int], limit: int) -> list[str]:
    """The clients, in the given order, that have a participation left of ``limit``."""
    return [client for client in clients if remaining(used.get(client, 0), limit) > 0]


def choose(candidates: Sequence[str], used: Mapping[str, int], size: int, rng: np.random.Generator) -> list[str]:
    """A cohort: the ``size`` candidates asked least often so far, ties at random; in the order of ``candidates``.

    Evening out participations keeps the largest count, which is what the claim pays for, as small as it can be.
    """
    if size >= len(candidates):
        return list(candidates)
    asked = np.array([used.get(client, 0) for client in candidates])
    order = np.lexsort((rng.random(len(candidates)), asked))
    return [candidates[i] for i in sorted(order[:size])]
