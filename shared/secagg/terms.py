"""The public numbers of a session: how many neighbours, which thresholds; computed alike by both sides.

A session's promise rests on three events being rare. Their probabilities are bounded here, the two that secrecy rests
on for the worst choice of dropouts, made after the neighbours are known (as in Bell et al. 2020, section 4, with the
neighbours picked by each client and the survivors agreed on by everybody). Proofs: docs/secure-aggregation.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

SECRECY: Final = -40.0  # log2 of the chance of each of two ways to learn more than the sum over the honest survivors
RECOVERY: Final = -10.0  # log2 of the chance that a session with as many dropouts as tolerated cannot be unmasked
LARGEST_ROSTER: Final = 100_000


@dataclass(frozen=True)
class Terms:
    """What a session of a given size keeps to.

    Attributes:
        members: clients on the roster, n.
        smallest: survivors below which nobody unmasks.
        neighbours: k, others that each client deals shares to; it keeps one share itself.
        threshold: t, shares that recover a secret.
        quorum: signatures on one set of survivors that each client asks for before it reveals a share.
    """

    members: int
    smallest: int
    neighbours: int
    threshold: int
    quorum: int


@lru_cache(maxsize=64)
def terms_for(members: int, smallest: int, colluders: int) -> Terms:
    """The cheapest terms that keep the promise.

    Args:
        members: n, clients on the roster.
        smallest: fewest survivors, from the plan.
        colluders: members that may work with the server, from the plan.

    Formal guarantees:
        With at most ``colluders`` members on the server's side, except with probability ``2^SECRECY`` each: (a) no
        honest client has ``threshold`` colluding holders; (b) no set of survivors each of whom has enough holders left
        splits into two groups of honest ones without a mask between them. Any two quorums share an honest client, so
        there is one agreed set of survivors, and it has at least ``smallest`` members.

    Raises:
        ValueError: no such session can be: fewer members than ``smallest``, none, too many, or colluders that leave no
            honest majority in a quorum.
    """
    if not 1 <= smallest <= members <= LARGEST_ROSTER or not 0 <= colluders < smallest:
        raise ValueError(
            f"{members} members, {smallest} at least, {colluders} colluders: must rise from colluders to members, "
            f"at most {LARGEST_ROSTER}"
        )
    quorum = max(smallest, (members + colluders) // 2 + 1)
    dropped = members - quorum
    log = _log_factorials(members)
    for neighbours in range(1, members - 1):
        threshold = _threshold(log, members, colluders, dropped, neighbours)
        if threshold is not None and _splits(log, members, colluders, dropped, neighbours, threshold) <= SECRECY:
            return Terms(members, smallest, neighbours, threshold, quorum)
    # Everybody deals to everybody: all bounds are certainties. Recovery needs t <= quorum, secrecy t > colluders.
    return Terms(members, smallest, members - 1, (colluders + quorum) // 2 + 1 if quorum > 1 else 1, quorum)


def _threshold(log: NDArray[np.float64], n: int, colluders: int, dropped: int, k: int) -> int | None:
    """The highest threshold that the survivors can be expected to meet, if it is out of the colluders' reach.

    A holder that survives has its own share, so ``t - 1`` of its picks must be alive. The higher the threshold, the
    more survivors must stand by each client, and the fewer neighbours (b) asks for.
    """
    survivors = _tail(_hypergeometric(log, n - 1, dropped, k)) + np.log2(n - dropped)
    gone = _tail(_hypergeometric(log, n - 1, max(dropped - 1, 0), k)) + (np.log2(dropped) if dropped else -np.inf)
    # With more than ``spare`` picks dropped a survivor is stuck; one that dropped out, already with ``spare``.
    stuck = np.logaddexp2(np.append(survivors[1:], -np.inf), gone)
    spare = int(np.argmax(np.append(stuck, -np.inf) <= RECOVERY))
    threshold = k - spare + 1
    corrupt = np.append(_tail(_hypergeometric(log, n - 1, colluders, k)) + np.log2(n), -np.inf)
    return threshold if threshold >= 1 and corrupt[threshold] <= SECRECY else None


def _splits(log: NDArray[np.float64], n: int, colluders: int, dropped: int, k: int, t: int) -> float:
    """log2 of a union bound on (b): some set S of s honest survivors has no mask with the others, T, at least as many.

    Each member of S has ``t - 1`` picks alive, and they are in S or collude: that alone rules out every small S,
    whoever was dropped. For larger ones count the dropped sets as well: no member of S picks one of T, nor the other
    way round. Picks of different clients are independent. The smaller bound holds for each s. A smaller dropped set
    with a larger T is counted too: members of T, of which nothing but that is asked, may be moved to it.
    """
    s = np.arange(1, (n - colluders) // 2 + 1)
    gone = np.minimum(dropped, n - colluders - 2 * s)
    sets = _choose(log, n - colluders, s)
    near, all_picks = np.arange(max(t - 1, 0), k + 1)[None, :], _choose(log, n - 1, k)
    around = _choose(log, s[:, None] - 1 + colluders, near)
    alone = _log2_sum(around + _choose(log, n - colluders - s[:, None], k - near)) - all_picks
    avoiding = _log2_sum(around + _choose(log, gone[:, None], k - near)) - all_picks
    avoided = _choose(log, n - 1 - s, k) - all_picks
    by_size = sets + s * np.minimum(alone, 0.0)
    by_cut = sets + _choose(log, n - colluders - s, gone) + s * avoiding + (n - colluders - s - gone) * avoided
    return float(_log2_sum(np.minimum(by_size, by_cut))) if len(s) else -np.inf


def _log_factorials(n: int) -> NDArray[np.float64]:
    """log2 of 0! .. n!."""
    return np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, n + 1)))])


def _choose(log: NDArray[np.float64], n: NDArray[np.int64] | int, k: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """log2 of binomial coefficients; -inf where they are 0."""
    n, k = np.broadcast_arrays(np.asarray(n), np.asarray(k))
    possible = (k >= 0) & (k <= n)
    safe = np.where(possible, k, 0)
    return np.asarray(np.where(possible, log[n] - log[safe] - log[n - safe], -np.inf), np.float64)


def _hypergeometric(log: NDArray[np.float64], population: int, marked: int, draws: int) -> NDArray[np.float64]:
    """log2 P[x of the draws are marked] for x = 0 .. draws."""
    x = np.arange(draws + 1)
    return _choose(log, marked, x) + _choose(log, population - marked, draws - x) - _choose(log, population, draws)


def _tail(log_mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """log2 P[X >= x] for each x."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log2(np.cumsum(np.exp2(log_mass)[::-1])[::-1]), np.float64)


def _log2_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """log2 of a sum of powers of two over the last axis; -inf for nothing."""
    top = np.max(values, axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log2(np.sum(np.exp2(values - top), axis=-1)) + np.squeeze(top, axis=-1))
