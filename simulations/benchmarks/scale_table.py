"""The measurements of memory and scale, for a person."""

from __future__ import annotations

from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from simulations.benchmarks.tables import bars_table, machine_line

_SIZE: Final = ("users", "items", "cohort")
_SECONDS: Final = {  # heading -> name in a row
    "s a round": "seconds_round",
    "CPU s": "cpu_seconds_round",
    "statistics s": "seconds_round0",
    "measured s": "seconds_measured_round",
    "prepare s": "prepare_seconds",
}


def show(result: dict[str, Any], console: Console) -> None:
    """Print what ``measure_memory`` or ``measure_scale`` returned: sizes, how they grow, bars, machine."""
    console.print(_sizes(result["rows"]))
    console.print(_fits(result["fits"]))
    console.print(bars_table(result["bars"]))
    console.print(machine_line(result), markup=False)


def _sizes(rows: list[dict[str, float]]) -> Table:
    table = Table(
        title="Runs of a few rounds, each in a process of its own with one thread",
        caption="a round: median of those that are timed; statistics: asked once, before the first round; measured: "
        "the last round; prepare: data made or read; own: without pages of mapped files; kB of one client and round",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for name in (*_SIZE, *_SECONDS, "own MB", "peak MB", "kB up", "kB down"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            *(f"{row[name]:,.0f}" for name in _SIZE),
            *(f"{row[name]:.3g}" for name in _SECONDS.values()),
            *(f"{row[name]:,.0f}" for name in ("own_peak_mb", "peak_rss_mb")),
            *(f"{row[name] / 1e3:,.1f}" for name in ("bytes_up_client", "bytes_down_client")),
        )
    return table


def _fits(fits: list[dict[str, Any]]) -> Table:
    table = Table("how it grows", caption="exponent 1 = linear, 0 = flat", box=SIMPLE)
    for name in ("times", "exponent", "for one more"):
        table.add_column(name, justify="right")
    for fit in fits:
        table.add_row(fit["what"], f"{fit['times']:.3g}", f"{fit['exponent']:.3f}", f"{fit['each']:.3g} {fit['unit']}")
    return table
