"""Whether cohorts look as if every client had tossed a coin of its own for every exchange.

Each test has a false alarm once in a million at most, all of its comparisons together, and none of them approximates:
tails of binomials are summed, long ones and spreads are bounded by Chernoff's method. What passes is consistent with
sampling; no log can prove that coins were tossed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.audit.evidence import ServerLog
from shared.audit.findings import Finding
from shared.audit.found import at, found
from shared.privacy.plan import PrivacyPlan, Release

LEVEL: Final = 1e-6  # of false alarms, for each of the three tests
LAGS: Final = 64  # how far back an order is looked for
WORK: Final = 20_000_000  # comparisons that the search may take; fewer lags in a long ledger
SUMMED: Final = 10_000_000  # tosses up to which a tail is summed; beyond, bounded
_TAIL: Final = 1e-17  # relative: what a sum of a tail leaves out


@dataclass(frozen=True)
class Draw:
    """One exchange for which a cohort was drawn."""

    line: int
    cohort: frozenset[str]


def coin_findings(server: ServerLog, plan: PrivacyPlan) -> list[Finding]:
    """Counts of clients, sizes of cohorts and their order against independent coins; clause 5."""
    rate, drawn = plan.sampling, draws(server, plan)
    if rate is None:
        return [found(5, "coins-none", "pass", at(server.file, [1]))]
    if not drawn:
        return [found(5, "coins", "cannot tell", at(server.file))]
    return [_counts(server, plan, rate, drawn), _sizes(server, plan, rate, drawn), _order(server, plan, rate, drawn)]


def draws(server: ServerLog, plan: PrivacyPlan) -> list[Draw]:
    """The exchanges in which every client may be drawn: none has used up a kind before as many as it allows."""
    seen, made = Counter[Release](), []
    for charge in server.charges:
        seen[charge.release] += 1
        if seen[charge.release] <= plan.mechanism(charge.release).participations:
            made.append(Draw(charge.line, frozenset(charge.cohort)))
    return made


def _counts(server: ServerLog, plan: PrivacyPlan, rate: float, drawn: Sequence[Draw]) -> Finding:
    """How often each client was drawn: nobody too often or too rarely, and the counts as uneven as luck makes them."""
    counts = Counter(client for draw in drawn for client in draw.cohort)
    tally = Counter(counts.values())
    tally[0] += max(0, plan.population - len(counts))  # who was never drawn is named nowhere
    every = tally.total()
    tails = {count: two_sided(count, len(drawn), rate) * every for count in tally if tally[count]}
    wrong = sum(tally[count] for count, p in tails.items() if p < LEVEL / 2.0)
    p = min(*tails.values(), spread(tally, len(drawn), rate), 1.0)
    if not wrong and p >= LEVEL / 2.0 and len(counts) <= plan.population:
        return found(5, "coins-counts", "pass", at(server.file), clients=every, exchanges=len(drawn), rate=rate)
    return found(5, "coins-counts", "fail", at(server.file), count=wrong or every, rate=rate, p=p)


def _sizes(server: ServerLog, plan: PrivacyPlan, rate: float, drawn: Sequence[Draw]) -> Finding:
    """How many were drawn each time: neither too many or too few, nor too much alike."""
    sizes = [len(draw.cohort) for draw in drawn]
    tails = [two_sided(min(size, plan.population), plan.population, rate) * len(drawn) for size in sizes]
    p = min(*tails, spread(Counter(sizes), plan.population, rate), 1.0)
    if p >= LEVEL / 2.0:
        return found(5, "coins-sizes", "pass", at(server.file), exchanges=len(drawn), rate=rate)
    odd = [draw.line for draw, tail in zip(drawn, tails, strict=True) if tail < LEVEL / 2.0]
    return found(5, "coins-sizes", "fail", at(server.file, odd), rate=rate, p=p)


def _order(server: ServerLog, plan: PrivacyPlan, rate: float, drawn: Sequence[Draw]) -> Finding:
    """How many are in two cohorts that lie a lag apart: a cohort does not know those before.

    Pairs of one lag are split in two halves in which no cohort comes twice, so each half is a plain binomial.
    """
    total = sum(len(draw.cohort) for draw in drawn) or 1
    lags = range(1, min(len(drawn) - 1, LAGS, max(1, WORK // total)) + 1)
    worst, worst_lag = 1.0, 0
    for lag in lags:
        for half in (0, 1):
            pairs = [(t, t + lag) for t in range(len(drawn) - lag) if t // lag % 2 == half]
            if not pairs:
                continue
            both = sum(len(drawn[one].cohort & drawn[other].cohort) for one, other in pairs)
            tosses = len(pairs) * plan.population
            p = two_sided(min(both, tosses), tosses, rate * rate) * 2 * len(lags)
            if p < worst:
                worst, worst_lag = p, lag
    if worst >= LEVEL:
        return found(5, "coins-order", "pass", at(server.file), lags=len(lags))
    lines = [draw.line for draw in drawn[: 2 * worst_lag]]
    return found(5, "coins-order", "fail", at(server.file, lines), lag=worst_lag, p=worst)


@lru_cache(maxsize=65536)
def two_sided(count: int, tosses: int, rate: float) -> float:
    """Probability of a count at least as far out as this one: twice the smaller tail, at most 1."""
    lower = _tail(count, tosses, rate, -1)
    upper = _tail(count, tosses, rate, 1)
    return min(1.0, 2.0 * min(lower, upper))


def _tail(count: int, tosses: int, rate: float, step: int) -> float:
    """P(X <= count) for step -1, P(X >= count) for step 1; 1 on the near side of the mean, where it is not small."""
    if (count - tosses * rate) * step <= 0:
        return 1.0
    if rate == 0.0:  # the square of a tiny one
        return 0.0
    if tosses > SUMMED:
        return math.exp(-_divergence(count, tosses, rate))
    odds = math.log(rate) - math.log1p(-rate)
    term = _log_probability(count, tosses, rate)
    total, first, place = 0.0, term, count
    while 0 <= place <= tosses:
        part = math.exp(term - first)
        total += part
        if part < _TAIL * total:
            break
        if step > 0:
            term += odds + math.log((tosses - place) / (place + 1)) if place < tosses else 0.0
        else:
            term += math.log(place / (tosses - place + 1)) - odds if place else 0.0
        place += step
    return min(1.0, math.exp(first) * total)


def _divergence(count: int, tosses: int, rate: float) -> float:
    """Chernoff: a tail is at most e to the minus this."""
    more = count * math.log(count / tosses / rate) if count else 0.0
    less = (tosses - count) * (math.log1p(-count / tosses) - math.log1p(-rate)) if count < tosses else 0.0
    return max(0.0, more + less)


def _log_probability(count: int, tosses: int, rate: float) -> float:
    ways = math.lgamma(tosses + 1) - math.lgamma(count + 1) - math.lgamma(tosses - count + 1)
    return ways + count * math.log(rate) + (tosses - count) * math.log1p(-rate)


def spread(tally: Mapping[int, int], tosses: int, rate: float) -> float:
    """An upper bound of the probability that independent binomial counts scatter this little or this much.

    Args:
        tally: count -> how often it came.
        tosses, rate: of the coins behind one count.

    Chernoff: with S the sum of squared distances from the mean, P(S <= s) <= e^(ls) E[e^(-lD²)]^n for every l >= 0, and
    likewise above with the sign of l turned; the least over a grid of l, times two for the two sides.
    """
    mean, variance = tosses * rate, tosses * rate * (1.0 - rate)
    squares, log_p = _squares(tosses, rate)
    number = sum(tally.values())
    scatter = sum(times * (count - mean) ** 2 for count, times in tally.items())
    side = -1.0 if scatter <= number * variance else 1.0
    best = 0.0
    for exponent in np.arange(-14.0, 8.0, 0.5):
        scale = side * 2.0**exponent / max(variance, 1e-12)
        terms = log_p + scale * squares
        top = float(terms.max())
        best = min(best, number * (top + math.log(float(np.exp(terms - top).sum()))) - scale * scatter)
    return min(1.0, 2.0 * math.exp(max(best, -700.0)))


def _squares(tosses: int, rate: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared distances from the mean and log probabilities of all counts that are not out of the question.

    What is left out, far in both tails, has a probability below e^-800 each: nothing next to a level of 1e-6.
    """
    mean, width = tosses * rate, 40.0 * math.sqrt(tosses * rate * (1.0 - rate)) + 900.0
    low, high = max(0, math.floor(mean - width)), min(tosses, math.ceil(mean + width))
    places = np.arange(low, high + 1, dtype=np.float64)
    logs = np.array([_log_probability(int(place), tosses, rate) for place in places])
    return (places - mean) ** 2, logs
