"""How much of the catalogue lists reach, and the two knobs that widen it at a bounded price.

Under noise nobody can tell one exposure from none, so coverage@k has no estimate; a floor of it has. *Effective*
coverage, the items shown often enough to stand out of the noise, is measured. What the chance places add is arithmetic
on public numbers: ``T`` places filled uniformly from pools of ``D`` candidates show an item of the pool with
probability ``1 - exp(-T / D)``. The worst case is that all users share one pool that holds every item counted already,
so of a catalogue of ``N`` items the floor expects

    ``e + (D / N - e) * (1 - exp(-T / D))``.

Where items pay in re-ranking, chance takes the cheaper half of the candidates (``shared/recall/rerank.py``), so that
``D`` is half of them; where only some buckets pay, at most those drop out.

Both knobs are safe to turn although nobody could see what they cost. Depth alone changes no place that is not left to
chance, as long as nothing re-ranks the candidates. A share ``x`` of chance places costs at most a share ``x`` of
recall@k: the last places of a ranking that is any good find no more than the others. Places are left to chance by the
most active third of users, where it is known: who has much to find loses the least with a place, and who has seen most
has most to gain from what nobody is shown. Then the cost is at most a share ``x / 3``, as long as they are not better
served than others.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from shared.policy.memory import LOSS_TOLERANCE, Memory, Turn, notices
from shared.policy.recall_policy import BOUNDS, RecallPolicy
from shared.policy.sight import Seen, Sight, Targets

DEPTH_LIMIT: Final = 10.0  # times the first depth
EXPLORATION_STEP: Final = LOSS_TOLERANCE  # of all places: what a step may cost is bounded by what it may lose
EXPLORATION_LIMIT: Final = 0.2  # of all places, where the guard notices what is lost; else one step above the first
GRAIN: Final = 1000  # shares are whole thousandths
GROUPS: Final = 3  # of activity, as large as one another


def reached(policy: RecallPolicy, sight: Sight, targets: Targets) -> Seen | None:
    """Share of the catalogue that lists reach: coverage@k where it can be told, else its floor; None = neither."""
    if sight.coverage is not None or sight.effective is None:
        return sight.coverage
    known, pool = sight.effective, _pool(policy, targets)
    shown = 1.0 - math.exp(-max(0.0, sight.lists) * _explorers(policy, sight) * policy.exploration / pool)
    value = known.value + max(0.0, pool / targets.items - known.value) * shown
    return Seen(value, known.half_width * (1.0 - shown))


def is_narrow(seen: Seen | None, targets: Targets) -> bool:
    """Whether lists reach less than the target by more than the noise."""
    return seen is not None and seen.value + seen.half_width < targets.coverage


def widen(policy: RecallPolicy, memory: Memory, sight: Sight, targets: Targets) -> Turn | None:
    """The next step of depth or of the exploration share towards the target; None = both are at their limit or rest."""
    first, chosen = memory.first, policy
    if policy.exploration == first.exploration == first.explore_from == 0:
        chosen = replace(policy, explore_from=sight.active)
    who = _explorers(chosen, sight)
    if who == 0:
        return None
    step = EXPLORATION_STEP / who
    most = first.exploration + step
    if sight.recall is not None and notices(sight.recall):
        most = max(most, EXPLORATION_LIMIT / who)
    most = min(most, BOUNDS["exploration"][1])
    share = _share_wanted(chosen, sight, targets)
    bottom = deepest(first, targets)
    if share > most and policy.depth < bottom and not re_ranks(policy) and "depth" not in memory.resting:
        what = f"candidate depth {policy.depth} -> {bottom}"
        return Turn("depth", replace(policy, depth=bottom), what, bounded=True)
    share = math.floor(GRAIN * min(share, most, policy.exploration + step) + 1e-6) / GRAIN
    if share <= policy.exploration or "exploration" in memory.resting:
        return None
    what = f"exploration share {policy.exploration:.3f} -> {share:.3f}"
    if chosen.explore_from:
        what += f" of users who have seen {chosen.explore_from} items"
    return Turn("exploration", replace(chosen, exploration=share), what, bounded=True)


def deepest(first: RecallPolicy, targets: Targets) -> int:
    """The largest candidate depth: a multiple of the first one, no more than there are items."""
    return max(first.depth, int(min(first.depth * DEPTH_LIMIT, targets.items, BOUNDS["depth"][1])))


def re_ranks(policy: RecallPolicy) -> bool:
    """Whether something re-ranks the candidates, so that more of them change the list."""
    return policy.exposure_price > 0 or policy.diversity > 0 or any(policy.exposure_prices)


def _explorers(policy: RecallPolicy, sight: Sight) -> float:
    """Share of users who leave places to chance; at least that many where it cannot be told."""
    if policy.explore_from == 0:
        return 1.0
    return 1.0 / GROUPS if policy.explore_from <= sight.active else 0.0


def _pool(policy: RecallPolicy, targets: Targets) -> int:
    """How many candidates chance is sure to choose from."""
    pool = min(max(policy.depth, policy.k), targets.items)
    dear = sum(price > 0 for price in policy.exposure_prices)
    # How many items share a bucket is not known here, and the price of popularity leaves hardly two items alike.
    several = dear > 0 and len(policy.exposure_prices) < targets.items
    return pool - (pool // 2 if several or policy.exposure_price > 0 else min(dear, pool // 2))


def _share_wanted(policy: RecallPolicy, sight: Sight, targets: Targets) -> float:
    """The exploration share that reaches the target from these pools, also if the truth is at the low end of the bar.

    Infinite where none does.
    """
    if sight.lists < 1.0:
        return math.inf
    pool = _pool(policy, targets)
    # A coverage that can be told holds today's chance places already: what is missing comes on top of them.
    known, today = sight.coverage, policy.exploration
    if known is None:
        known, today = sight.effective, 0.0
    if known is None or pool / targets.items <= targets.coverage:
        return math.inf
    sure = max(0.0, known.value - known.half_width)
    missing = (targets.coverage - sure) / (pool / targets.items - sure)
    places = sight.lists * _explorers(policy, sight)
    return math.ceil(GRAIN * (today - math.log1p(-missing) * pool / places)) / GRAIN
