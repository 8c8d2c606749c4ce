"""``fedrecall-sim bench memory`` and ``bench scale``: what a run costs as population, cohort and catalogue grow.

Synthetic data (preset ``large``), real runs of a few rounds, each size in a process of its own with one thread: the
peak of memory is that size's; a process's own memory is without the pages of mapped files, which the system drops when
it needs the room. What the design says is held against the figures: time of a round linear in the cohort,
memory flat in the population, uplink constant in the catalogue.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.errors import RunError
from simulations.benchmarks.measure import Machine, bar_of, in_child, machine, own_peak
from simulations.download import Say, cache_folder, silent
from simulations.sized import Size, measure_size

THIS: Final = "simulations.benchmarks.scale"
SECONDS, MEGABYTES = 60.0, 4_000.0  # the bars of the project, at BIG
BIG: Final = Size(users=1_000_000, items=10_000, cohort=10_000, rounds=2)
LINEAR: Final = 1.1  # the largest exponent of a round's time in the cohort that still counts as linear
FLAT: Final = 1.25  # times that memory may grow, and
SAME: Final = 1.01  # times that uplink may, over the whole range

_GROWING: Final = (1_000, 10_000, 100_000, 1_000_000)
MEMORY_SIZES: Final = tuple(Size(users=users, items=10_000, cohort=100) for users in _GROWING)
COHORT_SIZES: Final = (replace(BIG, cohort=1_000), replace(BIG, cohort=3_000), BIG)
ITEM_SIZES: Final = tuple(Size(users=10_000, items=items, cohort=100) for items in _GROWING)


@dataclass(frozen=True)
class Fit:
    """How a figure grows from the smallest size to the largest.

    Attributes:
        what: grows with what.
        times: figure at the largest size over that at the smallest.
        exponent: b of the least-squares fit figure = a size^b; 1 = linear, 0 = flat.
        each: slope of the least-squares line, in units of the figure for one more of the size.
        unit: of the slope, for people.
    """

    what: str
    times: float
    exponent: float
    each: float
    unit: str


def measure_memory(say: Say, sizes: Sequence[Size] = MEMORY_SIZES) -> dict[str, Any]:
    """Peak of memory as the population grows; JSON values.

    Args:
        say: told what is being measured.
        sizes: ascending in users, all else the same.

    Raises:
        RunError: a measured process failed, or its clients sent nothing.
    """
    where = machine("numpy", "torch", "flwr")
    rows = _rows(sizes, say)
    own = fit_of("own memory with population", rows, "users", "own_peak_mb", 1e6, "bytes a user")
    every = fit_of("all memory, mapped files too", rows, "users", "peak_rss_mb", 1e6, "bytes a user")
    bars = [bar_of(f"times that own memory grows, {_range(rows, 'users')} users", own.times, "<=", FLAT)]
    return _result(rows, [own, every], bars, where)


def measure_scale(
    say: Say, cohorts: Sequence[Size] = COHORT_SIZES, items: Sequence[Size] = ITEM_SIZES
) -> dict[str, Any]:
    """Time of a round as the cohort grows, and uplink as the catalogue does; JSON values.

    Args:
        say: told what is being measured.
        cohorts: ascending in cohort, all else the same; the last is held against the bars.
        items: ascending in items, likewise.

    Raises:
        RunError: a measured process failed, or its clients sent nothing.
    """
    where = machine("numpy", "torch", "flwr")
    rows = _rows([*cohorts, *items], say)
    by_cohort, by_items = rows[: len(cohorts)], rows[len(cohorts) :]
    big = by_cohort[-1]
    fits = [
        fit_of("seconds a round with cohort", by_cohort, "cohort", "seconds_round", 1e6, "microseconds a client"),
        fit_of("uplink with catalogue", by_items, "items", "bytes_up_client", 1.0, "bytes an item"),
        fit_of("downlink with catalogue", by_items, "items", "bytes_down_client", 1.0, "bytes an item"),
        fit_of("seconds a round with catalogue", by_items, "items", "seconds_round", 1e6, "microseconds an item"),
    ]
    name = f"a cohort of {big['cohort']:,.0f} of {big['users']:,.0f}"
    bars = [
        bar_of(f"seconds a round, {name}", big["seconds_round"], "<", SECONDS),
        bar_of(f"seconds of round 0, asked once, {name}", big["seconds_round0"], "<", SECONDS),
        bar_of(f"seconds of a round that is measured, {name}", big["seconds_measured_round"], "<", SECONDS),
        bar_of(f"peak MB, {name}", big["peak_rss_mb"], "<", MEGABYTES),
        bar_of("exponent of a round's time in the cohort", fits[0].exponent, "<=", LINEAR),
        bar_of(f"times that uplink grows, {_range(by_items, 'items')} items", fits[1].times, "<=", SAME),
    ]
    return _result(rows, fits, bars, where)


def fit_of(what: str, rows: Sequence[dict[str, float]], size: str, figure: str, scale: float, unit: str) -> Fit:
    """How a figure grows over rows ascending in a size.

    Args:
        what: said of it.
        rows: at least two, of different sizes.
        size, figure: their names in a row.
        scale: figure to the unit of the slope.
        unit: of the slope.
    """
    x, y = (np.array([row[name] for row in rows], np.float64) for name in (size, figure))
    exponent = math.nan if y.min() <= 0 else np.polyfit(np.log(x), np.log(y), 1)[0]
    return Fit(what, float(y[-1] / y[0]), float(exponent), float(scale * np.polyfit(x, y, 1)[0]), unit)


def _rows(sizes: Sequence[Size], say: Say) -> list[dict[str, float]]:
    rows = []
    for size in sizes:
        say(f"{size.users:,} users, {size.items:,} items, cohort {size.cohort:,}")
        row = in_child(THIS, json.dumps(asdict(size)))
        if not row["bytes_up_client"] > 0:
            raise RunError(f"{size.users:,} users, {size.items:,} items: no update arrived; the time says nothing")
        rows.append(row)
    return rows


def _range(rows: Sequence[dict[str, float]], name: str) -> str:
    return f"{rows[0][name]:,.0f} to {rows[-1][name]:,.0f}"


def _result(
    rows: list[dict[str, float]], fits: Sequence[Fit], bars: list[dict[str, Any]], where: Machine
) -> dict[str, Any]:
    return {
        "rows": rows,
        "fits": [asdict(fit) for fit in fits],
        "bars": bars,
        "machine": asdict(where),
        "load_after": os.getloadavg()[0],
    }


def main(raw: str) -> None:
    """One measured process: prints its figures as JSON."""
    with tempfile.TemporaryDirectory(prefix="fedrecall-scale-") as folder, own_peak() as own:
        figures = measure_size(Size(**json.loads(raw)), Path(folder) / "run", cache=cache_folder(), say=silent)
    sys.stdout.write(json.dumps({**figures, "own_peak_mb": own[0] / 1e6}))


if __name__ == "__main__":
    main(sys.argv[1])
