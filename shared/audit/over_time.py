"""How epsilon grew over a run: for the person that had spent most by then, by kind of release and together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from shared.audit.executed import Exchange, Executed, bound, kinds_of
from shared.privacy.plan import Release

POINTS: Final = 60  # steps of one curve; a page shows no more


@dataclass(frozen=True)
class Curve:
    """One line of the chart.

    Attributes:
        kind: of release; "all" = everything together.
        rounds: after which the points are, in order; at most ``POINTS``, the first and the last among them.
        epsilon: PLD upper bound of what the client that had spent most had spent by then.
    """

    kind: Release | Literal["all"]
    rounds: tuple[int, ...]
    epsilon: tuple[float, ...]


def curves(run: Executed) -> tuple[Curve, ...]:
    """Of one run, everything together first; none without privacy."""
    if run.plan.epsilon is None or not run.exchanges:
        return ()
    kinds = [(kind, [ex for ex in run.exchanges if ex.release == kind]) for kind in kinds_of(run.exchanges)]
    delta = run.plan.delta
    return (Curve("all", *_course(run.exchanges, delta)), *(Curve(kind, *_course(of, delta)) for kind, of in kinds))


def _course(exchanges: Iterable[Exchange], delta: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    spent: dict[str, float] = {}
    most: dict[int, float] = {}
    highest = 0.0
    for exchange in exchanges:  # in order of rounds; a price is never negative, so the most so far only grows
        price = exchange.mechanism.claimed_rho
        for client in exchange.clients:
            spent[client] = spent.get(client, 0.0) + price
        highest = max(highest, max((spent[client] for client in exchange.clients), default=0.0))
        most[exchange.round] = highest
    rounds = _few(sorted(most))
    return tuple(rounds), tuple(bound(most[number], delta) for number in rounds)


def _few(rounds: Sequence[int]) -> list[int]:
    if len(rounds) <= POINTS:
        return list(rounds)
    places = {round(place * (len(rounds) - 1) / (POINTS - 1)) for place in range(POINTS)}
    return [rounds[place] for place in sorted(places)]
