"""What guesses about canaries prove of epsilon, from below.

- Steinke, Nasr, Jagielski 2023, "Privacy auditing with one (1) training run", Theorem 5.2: if ``m`` fair coins decide
  who is in, and an (epsilon, delta)-DP mechanism runs once, right guesses are hardly more than binomial.
- Mahloujifar, Melis, Chaudhuri 2024, "Auditing f-differential privacy in one run": the same game, for a mechanism whose
  whole trade-off curve is f; here the Gaussian one. The recursion is written in tails, with its proof at
  :func:`refutes_gaussian`.
- Clopper and Pearson 1934, for shares of independent trials.

All are lower bounds at a confidence: a mechanism with a smaller epsilon would show so many right guesses in at most one
of twenty runs. They hold for a number of guesses that is fixed before anybody looks. :func:`gaussian_estimate` is none:
it says what the scores look like, and it errs to either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, betaincinv, ndtr, ndtri

from shared.privacy.accounting import epsilon_exact

Method = Literal["steinke-2023", "mahloujifar-2024"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
ASSUMES: Final = {
    "steinke-2023": "Fair, independent coins say who is in, and the number of guesses was fixed before. Nothing else: "
    "it holds for every mechanism that is (epsilon, delta)-DP.",
    "mahloujifar-2024": "Fair, independent coins say who is in, and the number of guesses was fixed before. The "
    "mechanism's trade-off curve is that of Gaussian noise: the method bounds the curve, and epsilon by it.",
}
_MOST_EPSILON: Final = 100.0
_MOST_MU: Final = 100.0
_HALVINGS: Final = 40
_ROOM: Final = 1.2  # power caps this many times the claim leave room to refute it


def lower_bound(
    method: Method, canaries: int, guesses: int, right: int, delta: float, confidence: float, halvings: int = _HALVINGS
) -> float:
    """The largest epsilon that so many right guesses refute; 0 = they refute nothing.

    Args:
        method: see above.
        canaries: m, each in or out by a fair coin.
        guesses: how many of them were guessed, a number fixed in advance; of the others nothing was said.
        right: guesses that are right.
        delta: at which epsilon is meant.
        confidence: of the bound.
        halvings: of the interval in which it is searched.

    Formal guarantees: if the mechanism is (epsilon, delta)-DP (and, by the second method, its trade-off curve is a
    Gaussian one), the bound is above epsilon with probability at most ``1 - confidence``.

    Raises:
        ValueError: not ``0 <= right <= guesses <= canaries``, or nobody to guess, or a confidence or delta that is no
            probability.
    """
    _check(canaries, guesses, right, delta, confidence)
    if method == "steinke-2023":
        return _largest(
            lambda e: p_value(canaries, guesses, right, e, delta) <= 1 - confidence, _MOST_EPSILON, halvings
        )
    mu = _largest(lambda mu: refutes_gaussian(mu, canaries, guesses, right, confidence), _MOST_MU, halvings)
    return epsilon_of(mu, delta)


def power_cap(
    canaries: int, guesses: int, confidence: float, *, delta: float = 0.0, method: Method = "steinke-2023"
) -> float:
    """What :func:`lower_bound` says when every guess is right: no mechanism can be shown to leak more.

    At delta 0, by the first method, it is the log odds of ``(1 - confidence)^(1 / guesses)``.
    """
    return lower_bound(method, canaries, guesses, guesses, delta, confidence)


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Steinke et al. 2023, Theorem 5.2: no (epsilon, delta)-DP mechanism has that many right guesses more often.

    Each right guess is at most as likely as heads of a coin of probability ``e^epsilon / (1 + e^epsilon)``, whatever
    the others showed; delta adds ``2 m delta`` times the largest mean rise of that binomial tail.
    """
    chance = 1.0 / (1.0 + math.exp(-epsilon))
    # P(W >= right - i) for i = 0, 1, ...; below zero heads there is nothing left to rise.
    tails = np.asarray(bdtrc(np.arange(right - 1, -2, -1), guesses, chance))
    if right == 0:
        return 1.0
    rise = (tails[1:] - tails[0]) / np.arange(1, right + 1)
    return min(1.0, float(tails[0] + 2.0 * canaries * delta * rise.max()))


def refutes_gaussian(mu: float, canaries: int, guesses: int, right: int, confidence: float) -> bool:
    """Whether a mechanism with the Gaussian trade-off curve of ``mu`` can be that right in fewer than one of 20 runs.

    One of m canaries is picked at random. Let A be the event that its guess is right and at least i are right in all, B
    that it is wrong and at least i would be right if its coin had come up otherwise, so at least i - 1 are right now.
    What is seen of the others and what is guessed are post-processing, so ``P(A) <= f'(P(B))`` with
    ``f'(x) = Phi(Phi^-1(x) + mu)``, concave, so also on average over coins and canaries. With tails T_i = P(at least i
    right), r guesses and S_i = T_i + T_(i+1) + ... :

        m P(A) = i T_i + S_(i+1),    m P(B) = (r - i + 1) T_(i-1) - S_i.

    So ``T_(i-1) >= (m g(P(A)) + S_i) / (r - i + 1)``, g the inverse of f'. It rises in every later tail, so the
    smallest tails that T_right = 1 - confidence allows come of taking it as an equation, from ``right`` downwards with
    nothing above; and if one of them is above 1, the supposed tail cannot be.
    """
    tail, later = 1.0 - confidence, 0.0
    for i in range(right, 0, -1):
        hit = (i * tail + later) / canaries
        later += tail
        least = (canaries * float(ndtr(ndtri(hit) - mu)) + later) / (guesses - i + 1)
        tail = max(tail, least)
        if tail > 1.0:
            return True
    return False


def epsilon_of(mu: float, delta: float) -> float:
    """The epsilon of the Gaussian trade-off curve of ``mu`` at ``delta``, exact; at delta 0 infinite but for mu 0."""
    if mu <= 0:
        return 0.0
    return epsilon_exact(mu * mu / 2.0, delta) if delta > 0 else math.inf


def gaussian_estimate(scores: NDArray[np.floating], member: NDArray[np.bool_], delta: float) -> float:
    """The epsilon of two normal distributions of equal spread, as far apart as the scores: an estimate, never a bound.

    Args:
        scores: (m,), member: (m,) whether each canary is in.
        delta: at which epsilon is meant.

    Edge cases: all in or all out -> 0; scores without any spread -> the largest double.
    """
    inside, outside = scores[member], scores[~member]
    if not (len(inside) and len(outside)):
        return 0.0
    apart = float(inside.mean() - outside.mean())
    spread = math.sqrt((float(inside.var()) * len(inside) + float(outside.var()) * len(outside)) / len(scores))
    if spread == 0:
        return 0.0 if apart <= 0 else float(np.finfo(np.float64).max)
    return epsilon_of(min(apart / spread, _MOST_MU), delta)


def clopper_pearson(right: int, trials: int, confidence: float) -> tuple[float, float]:
    """Two-sided interval of a probability, from independent trials; it covers at least as often as it says."""
    if not (0 <= right <= trials and trials > 0 and 0 < confidence < 1):
        raise ValueError(f"{right} of {trials} at confidence {confidence}: no such share")
    half = (1.0 - confidence) / 2.0
    low = 0.0 if right == 0 else float(betaincinv(right, trials - right + 1, half))
    high = 1.0 if right == trials else float(betaincinv(right + 1, trials - right, 1.0 - half))
    return low, high


def guessed_right(scores: NDArray[np.floating], member: NDArray[np.bool_], guesses: int) -> int:
    """Guess the highest half of ``guesses`` in, the lowest half out, and say nothing of the others; how many are right.

    Args:
        scores: (m,), member: (m,) whether each canary is in.
        guesses: even, at most m.
    """
    order, half = np.argsort(scores, kind="stable"), guesses // 2
    return int(member[order[len(order) - half :]].sum() + (~member[order[:half]]).sum())


def guesses_for(
    method: Method, mu: float, canaries: int, delta: float, confidence: float, claimed: float | None = None
) -> int:
    """How many guesses to make where scores of those in and out are N(mu, 1) and N(0, 1); looks at no score.

    The number that promises the best bound, a little bad luck included, of a few; and of those that could refute the
    claim with room to spare, if there are any: a bound that cannot fail shows nothing.
    """
    # Nine tenths at most: guessing everybody in halves is wrong wherever the coins are not even.
    choices = {2 * max(10, round(canaries * share / 2)) for share in (0.9, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02)}
    choices = {guesses for guesses in choices if guesses <= canaries}
    if claimed is not None:
        caps = {guesses: power_cap(canaries, guesses, confidence, delta=delta, method=method) for guesses in choices}
        choices = {guesses for guesses in choices if caps[guesses] > _ROOM * claimed} or choices

    def promise(guesses: int) -> float:
        chance = _accuracy(mu, guesses / canaries)
        right = math.floor(guesses * chance - math.sqrt(guesses * chance * (1.0 - chance)))
        return lower_bound(method, canaries, guesses, max(0, right), delta, confidence, halvings=14)

    return max(sorted(choices), key=promise)


def _accuracy(mu: float, share: float) -> float:
    """Chance that a guess is right when the outermost ``share`` of a balanced mixture is guessed, half at each end."""

    def beyond(x: float) -> float:
        return float(ndtr(-(x - mu / 2.0)) + ndtr(-(x + mu / 2.0))) / 2.0

    reach = mu / 2.0 + 40.0
    x = _largest(lambda x: beyond(x) >= share / 2.0, reach, 60)
    return float(ndtr(-(x - mu / 2.0))) / 2.0 / beyond(x)


def _largest(holds: Callable[[float], bool], most: float, halvings: int) -> float:
    """The largest x in 0..most at which something holds that holds below; 0 where it holds nowhere."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, most
    for _ in range(halvings):
        middle = (low + high) / 2.0
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _check(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> None:
    if not (0 <= right <= guesses <= canaries and guesses > 0):
        raise ValueError(f"{right} right of {guesses} guesses about {canaries} canaries: no such outcome")
    if not (0 <= delta < 1 and 0 < confidence < 1):
        raise ValueError(f"delta {delta} and confidence {confidence} must be probabilities")
