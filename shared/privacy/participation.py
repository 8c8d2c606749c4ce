"""How often a client may contribute, and whom the server may therefore still ask.

The claim rests on a count, not on luck of sampling: a client contributes to at most K rounds, and its own gate enforces
K, so any choice of cohorts by the server is covered. A second claim, under trust central only, rests on the coins of
:func:`toss`. This file knows nothing of clipping, noise or accounting.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def remaining(used: int, limit: int) -> int:
    """Participations left, never below zero."""
    return max(0, limit - used)


def eligible(clients: Sequence[str], used: Mapping[str, int], limit: int) -> list[str]:
    """The clients, in the given order, that have a participation left of ``limit``."""
    return [client for client in clients if remaining(used.get(client, 0), limit) > 0]


def number_eligible(clients: Collection[str], used: Mapping[str, int], limit: int) -> int:
    """How many :func:`eligible` would list; it looks at those who were asked alone."""
    spent = sum(remaining(count, limit) == 0 and client in clients for client, count in used.items())
    return len(clients) - spent if limit > 0 else 0


def cohort_of(
    clients: Sequence[str], used: Mapping[str, int], limit: int, size: int, rng: np.random.Generator
) -> list[str]:
    """A cohort of :func:`choose` among the clients that have a participation left of ``limit``.

    While most clients were never asked the cohort is drawn among them by rejection: that costs as much as the cohort,
    not as the population. Every set of ``size`` of them is equally likely, either way.

    Args:
        clients: everybody, in their order.
        used: participations so far; who is not in it has none.
        limit: of the plan.
        size: clients wanted.
        rng: chance.
    """
    asked = sum(count > 0 for count in used.values())
    if limit <= 0 or 2 * size > len(clients) - asked or 2 * asked > len(clients):
        return choose(eligible(clients, used, limit), used, size, rng)
    places: set[int] = set()
    while len(places) < size:
        drawn = rng.integers(0, len(clients), size - len(places)).tolist()
        places.update(place for place in drawn if not used.get(clients[place], 0))
    return [clients[place] for place in sorted(places)]


def choose(candidates: Sequence[str], used: Mapping[str, int], size: int, rng: np.random.Generator) -> list[str]:
    """A cohort: the ``size`` candidates asked least often so far, ties at random; in the order of ``candidates``.

    Evening out participations keeps the largest count, which is what the claim pays for, as small as it can be.
    """
    if size >= len(candidates):
        return list(candidates)
    asked = np.array([used.get(client, 0) for client in candidates])
    order = np.lexsort((rng.random(len(candidates)), asked))
    return [candidates[i] for i in sorted(order[:size])]


def toss(candidates: Sequence[str], rate: float, words: Callable[[int], NDArray[np.uint64]]) -> list[str]:
    """A Poisson cohort: each candidate by a coin of its own, in the order of ``candidates``; it may be empty.

    Args:
        candidates: who may be asked.
        rate: probability that a coin comes up, 0 to 1.
        words: draws n uniform 64-bit words. The amplified claim rests on them: in a deployment they come from the
            operating system, like noise, and each exchange tosses anew.

    Formal guarantees:
        The coins are independent of one another and of everything else; each comes up with probability ``rate``, cut
        off to a multiple of 2^-64: never more.

    Raises:
        ValueError: the rate is no probability (the plan checks it, so that is a wrong call, not input).
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate {rate} must lie between 0 and 1")
    below = int(rate * 2.0**64)
    return [name for name, word in zip(candidates, words(len(candidates)), strict=True) if int(word) < below]
