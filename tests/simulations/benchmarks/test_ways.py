"""The cost model's ways side by side; with a clock of our own, so that no other work on the machine matters."""

from __future__ import annotations

from itertools import count

import pytest

from client.strategy import chosen, ways
from simulations.benchmarks.handover import Case, material
from simulations.benchmarks.ways import compare


@pytest.mark.parametrize("kind", ["linear", "mean"])
def test_ways_come_fastest_first_and_the_chosen_one_is_held_against_the_first(kind):
    case, ticks = Case(kind, 16, 48, 2, users=3, cohort=3), count()
    spec, training = case.spec, material(case).training
    timed, ratio = compare(case, lambda: float(next(ticks) ** 2), repeats=1)
    measured = [each.measured for each in timed]
    assert measured == sorted(measured)
    assert {each.way for each in timed} <= set(ways(spec))
    (pick,) = [each for each in timed if each.way == chosen(spec, training, 2)]
    assert ratio == pick.measured / measured[0] > 1
    assert all(each.predicted <= 10 * min(other.predicted for other in timed) for each in timed)
