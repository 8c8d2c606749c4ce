"""The measurements of recommendation latency, for a person."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from simulations.benchmarks.tables import cell_of, machine_line


def show(result: dict[str, Any], console: Console) -> None:
    """Print what :func:`simulations.benchmarks.recall.measure` returned: a table a size, and the machine."""
    for size in result["sizes"]:
        console.print(_size(size, result["best"]))
    console.print(machine_line(result), markup=False)


def _size(size: dict[str, Any], best: int) -> Table:
    exact = next(row for row in size["rows"] if row["name"].startswith("numpy"))["milliseconds"]["median"]
    whole = size["list"]
    table = Table(
        title=f"The best {best} of {size['items']:,} items for one person: processor time on one core",
        caption=f"medians of {whole['milliseconds']['repeats']} repeats, ± half their range; recall of the exact best; "
        f"peers search {size['width']} float32 a row as widely as it takes to find as much as fedrecall does. "
        f"fedrecall's whole list of {whole['k']}, from history to reasons: {cell_of(whole['milliseconds'])} ms, "
        f"p99 {whole['p99']:.2f}",
        box=SIMPLE,
    )
    table.add_column("")
    for name in ("ms", "p99", "numpy /", "recall", "effort", "index MiB", "build s"):
        table.add_column(name, justify="right")
    for row in size["rows"]:
        if "absent" in row:
            table.add_row(row["name"], row["absent"])
            continue
        table.add_row(
            row["name"],
            cell_of(row["milliseconds"]),
            f"{row['p99']:.2f}",
            f"{exact / row['milliseconds']['median']:.1f}",
            f"{row['recall']:.3f}",
            str(row["effort"] or ""),
            f"{row['bytes'] / 2**20:.1f}",
            f"{row['build_seconds']:.2f}",
        )
    return table
