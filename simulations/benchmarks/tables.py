"""What the tables of all measurements have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table


def cell_of(spread: Mapping[str, Any]) -> str:
    """A median, ± half the range of its repeats where there are some.

    Args:
        spread: :class:`simulations.benchmarks.measure.Spread` as JSON values.
    """
    if spread["repeats"] == 1:
        return f"{spread['median']:.3g}"
    half = (spread["high"] - spread["low"]) / 2 / spread["median"]
    return f"{spread['median']:.3g} ±{100 * half:.0f}%"


def bars_table(bars: Sequence[Mapping[str, Any]]) -> Table:
    """Every bar of the project, what was measured, and whether it is met; made by ``measure.bar_of``."""
    table = Table("bar", "wanted", box=SIMPLE)
    table.add_column("measured", justify="right")
    table.add_column("met")
    for bar in bars:
        table.add_row(bar["what"], bar["bar"], f"{bar['value']:.3g}", "yes" if bar["met"] else "NO")
    return table


def machine_line(result: Mapping[str, Any]) -> str:
    """The machine, its load before and after, and the versions that figures depend on.

    Args:
        result: what was measured, with "machine" and "load_after".
    """
    where = result["machine"]
    versions = "".join(f", {name} {version}" for name, version in where["packages"].items())
    return (
        f"{where['cpu']}, {where['cores']} cores, load average {where['load']:.2f} before and "
        f"{result['load_after']:.2f} after; Python {where['python']}{versions}"
    )
