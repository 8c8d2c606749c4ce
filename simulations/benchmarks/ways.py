"""The cost model of local training against measurements: every way timed, and how good the one chosen is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from client.strategy import Way, chosen, seconds, ways
from simulations.benchmarks.handover import Case, contributions, material


@dataclass(frozen=True)
class Timed:
    """One way.

    Attributes:
        way: of training.
        predicted, measured: seconds a user; the first leaves out what all ways share.
    """

    way: Way
    predicted: float
    measured: float


def compare(case: Case, clock: Callable[[], float], *, repeats: int = 3) -> tuple[list[Timed], float]:
    """Time every way but those that the model finds hopeless (ten times the best), on all users of a case.

    Args:
        case: what is trained.
        clock: CPU seconds of this process.
        repeats: the median counts.

    Returns:
        What was measured, the fastest first; and the chosen way's time over the fastest's.
    """
    made = material(case)

    def once(way: Way) -> float:
        begin = clock()
        for _rows in contributions(made, slice(0, case.users), 1, way=way):
            pass
        return (clock() - begin) / case.users

    predicted = {way: seconds(way, case.spec, made.training, case.steps) for way in ways(case.spec)}
    likely = [way for way, cost in predicted.items() if cost <= 10 * min(predicted.values())]
    # In turns, so that a busy minute hurts all alike; the first turn only warms up.
    turns = [{way: once(way) for way in likely} for _ in range(repeats + 1)][1:]
    timed = [Timed(way, predicted[way], median(turn[way] for turn in turns)) for way in likely]
    timed.sort(key=lambda each: each.measured)
    pick = chosen(case.spec, made.training, case.steps)
    return timed, next(each.measured for each in timed if each.way == pick) / timed[0].measured
