"""The files that a finished frontier leaves: page, plot, CSV and JSON, side by side under one name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from shared.errors import RunError
from shared.files import write_atomically
from simulations.benchmarks.measure import machine
from simulations.config import SimulationConfig
from simulations.datasets.load import DATASETS
from simulations.frontier.page import Circumstances, page
from simulations.frontier.plot import draw
from simulations.frontier.rows import Row, headline, to_csv, to_json

PACKAGES: Final = (
    "fedrecall",
    "numpy",
    "scipy",
    "torch",
    "opacus",
    "flwr",
    "dp-accounting",
    "implicit",
    "scikit-learn",
)


def circumstances() -> Circumstances:
    """This machine, today."""
    here = machine(*PACKAGES)
    return Circumstances(
        datetime.now(UTC).date().isoformat(), here.cpu, here.cores, {"Python": here.python, **here.packages}
    )


def check_writable(folder: Path) -> None:
    """Before hours of runs: their results will find a place.

    Raises:
        RunError: the folder cannot be made, or not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".try", b"")
        (folder / ".try").unlink()
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); choose another --results") from error


def publish(
    rows: Sequence[Row],
    config: SimulationConfig,
    asked: str,
    remarks: Sequence[str],
    folder: Path,
    made: Circumstances,
) -> dict[str, Any]:
    """Write page, plot, CSV and JSON into a folder that is there; the page last.

    Returns:
        What the JSON file holds.

    Raises:
        RunError: the folder cannot be written.
    """
    name = config.preset
    result = {
        "preset": name,
        "data": config.data.name if config.data.name in DATASETS else "own data",
        "split": config.data.split,
        "rounds": config.rounds,
        "command": asked,
        "headline": headline(rows),
        "made": asdict(made),
        "remarks": list(remarks),
        "rows": to_json(rows),
    }
    try:
        write_atomically(folder / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
        write_atomically(folder / f"{name}.csv", to_csv(rows).encode())
        reads = f"reading {headline(rows).replace('+', ' and ')} rows"
        draw(rows, f"{name}, split {config.data.split}: full ranking, test items, {reads}", folder / name)
        write_atomically(folder / f"{name}.md", page(rows, config, asked, remarks, made, name).encode())
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); make room, then the same command") from error
    return result
