"""The calibration of measurements, for a person."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


def show(result: dict[str, Any], console: Console) -> None:
    """Print what :func:`simulations.benchmarks.measurement.measure` returned."""
    console.print(
        f"{result['data']}: {result['users']} users, {result['items']} items, k {result['k']}, "
        f"delta {result['delta']:g}; each row: {result['reports']} reports, each of which costs all of its epsilon",
        markup=False,
    )
    for (lists, trust, shadows), rows in groupby(result["rows"], lambda r: (r["lists"], r["trust"], r["shadows"])):
        beside = f", {shadows} shadows" if shadows else ""
        console.print(_table(f"lists of {lists}, trust {trust}{beside}", list(rows)))
    table = Table("", box=SIMPLE)
    for name in ("value", "bar", ""):
        table.add_column(name, justify="right")
    for bar in result["bars"]:
        table.add_row(bar["what"], f"{bar['value']:.3f}", bar["bar"], "met" if bar["met"] else "MISSED")
    console.print(table)


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    """A line an estimate, a block an epsilon."""
    table = Table("epsilon", "m", "estimate", title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("truth", "mean error", "bar ±", "near", "covered", "told"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = ("-",) * 4
        if row["covered"] is not None:
            figures = (
                f"{row['bias']:+.4f}",
                f"{row['half_width']:.3f}",
                f"{row['near']:.0%}",
                f"{row['covered']:.1%}",
            )
        first = (f"{row['epsilon']:g}", str(row["at_least"]), row["name"])
        table.add_row(*first, f"{row['truth']:.3f}", *figures, f"{row['told']:.0%}")
    return table
