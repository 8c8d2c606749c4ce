"""The measurements of secure aggregation, for a person."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from simulations.benchmarks.tables import bars_table, cell_of, machine_line


def show(result: dict[str, Any], console: Console) -> None:
    """Print what :func:`simulations.benchmarks.secagg.measure` returned: sessions, ratios, memory, bars, machine."""
    console.print(_sessions(result))
    console.print(_alone(result))
    console.print(_ratios(result))
    console.print(_memory(result))
    console.print(bars_table(result["bars"]))
    console.print(machine_line(result), markup=False)


def _sessions(result: dict[str, Any]) -> Table:
    rows = result["sessions"]
    table = Table(
        title="Secure aggregation: processor time on one core",
        caption="k neighbours, t shares recover a secret; ms and kB are those of one client; medians of n sessions, "
        "± half their range",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("")
    for name in ("clients", "values", "gone", "k/t", "n", "seconds", "ms", "server s", "kB up", "kB down"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["side"],
            f"{row['clients']:,}",
            f"{row['values']:,}",
            str(row["dropped"]),
            f"{row['neighbours']}/{row['threshold']}",
            str(row["seconds"]["repeats"]),
            cell_of(row["seconds"]),
            f"{1e3 * row['client_seconds']:.1f}",
            f"{row['server_seconds']:.2f}",
            f"{row['up'] / 1e3:.1f}",
            f"{row['down'] / 1e3:.1f}",
        )
    return table


def _alone(result: dict[str, Any]) -> Table:
    table = Table("one client of fedrecall, alone in its process", box=SIMPLE)
    table.add_column("ms", justify="right")
    for clients, spread in result["client_alone"].items():
        table.add_row(f"of {clients}", cell_of({**spread, **{k: 1e3 * spread[k] for k in ("median", "low", "high")}}))
    return table


def _ratios(result: dict[str, Any]) -> Table:
    table = Table("Flower SecAgg+ / fedrecall", box=SIMPLE)
    table.add_column("times", justify="right")
    for name, ratio in result["ratios"].items():
        table.add_row(name, f"{ratio:.1f}")
    return table


def _memory(result: dict[str, Any]) -> Table:
    table = Table(
        "memory, MB",
        *(f"after {n}" for n in result["memory"]["sessions"]),
        caption="sessions in one process; caches of keys and signatures fill up first",
        box=SIMPLE,
    )
    for name, key in (("allocated by Python", "traced_bytes"), ("of the process", "resident_bytes")):
        table.add_row(name, *(f"{size / 1e6:.2f}" for size in result["memory"][key]))
    return table
