"""The measurements of client updates, for a person."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from simulations.benchmarks.tables import bars_table, cell_of, machine_line

_CAPTION = (
    "Training, clipping and sum, as pfl counts; medians of repeats, ± half their range. Bound: by the rates of a "
    "matrix product and of a copy on this machine; linear has a closed form for several steps. Difference: of "
    "the peer's sum from ours, relative"
)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what :func:`simulations.benchmarks.updates.measure` returned: rows, peers, run, bars, machine."""
    console.print(_rows(result))
    if any(row["peers"] for row in result["rows"]):
        console.print(_peers(result))
    if result["calibration"]:
        console.print(_calibration(result))
    for whole in result["whole"]:
        console.print(
            f"From end to end (release path, ledgers, receipts, Grid): {cell_of(whole['rate'])} updates a CPU-second, "
            f"{whole['parameters']:,} parameters, local steps: {whole['steps']}, cohort {whole['cohort']}"
        )
    if result["bars"]:
        console.print(bars_table(result["bars"]))
    console.print(machine_line(result), markup=False)


def _rows(result: dict[str, Any]) -> Table:
    table = Table(title="Client updates a CPU-second, one thread", caption=_CAPTION, box=SIMPLE)
    table.add_column("encoder")
    for name in ("parameters", "steps", "fedrecall", "bound", "set by", "share"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        bound = row["bound"]
        table.add_row(*_name(row), cell_of(row["rate"]), f"{bound['rate']:.3g}", bound["by"], f"{row['share']:.0%}")
    return table


def _peers(result: dict[str, Any]) -> Table:
    versions: dict[str, str] = {}
    for row in result["rows"]:
        for found in row["peers"].values():
            versions |= found.get("versions", {})
    caption = ", ".join(f"{name} {version}" for name, version in versions.items())
    table = Table("encoder", title="Peers, the same model, data and steps", caption=caption, box=SIMPLE)
    for name in ("parameters", "steps"):
        table.add_column(name, justify="right")
    table.add_column("peer")
    for name in ("updates", "fedrecall is", "difference"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        for peer, found in row["peers"].items():
            table.add_row(*_name(row), peer, *_found(found))
    return table


def _found(found: dict[str, Any]) -> tuple[str, ...]:
    if "missing" in found:
        return found["missing"], "", ""
    distance = "not comparable" if found["distance"] is None else f"{found['distance']:.0e}"
    return cell_of(found["rate"]), f"{found['times']:.1f} times", distance


def _calibration(result: dict[str, Any]) -> Table:
    table = Table(title="pfl on a network 64-n-10, ten points a user, updates a CPU-second", box=SIMPLE)
    for name in ("parameters", "steps", "pfl"):
        table.add_column(name, justify="right")
    for row in result["calibration"]:
        said = row["missing"] if "missing" in row else cell_of(row["rate"])
        table.add_row(f"{row['parameters']:,}", str(row["steps"]), said)
    return table


def _name(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["kind"], f"{row['parameters']:,}", str(row["steps"])
