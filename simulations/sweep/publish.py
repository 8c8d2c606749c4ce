"""The files that a sweep leaves beside its runs: page, plots, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared.errors import RunError
from shared.files import write_atomically
from simulations.frontier.page import Circumstances
from simulations.frontier.rows import Row
from simulations.sweep.grid import Grid
from simulations.sweep.page import DRAWN, command, page, stem
from simulations.sweep.plot import MOST_LINES, draw, settings
from simulations.sweep.rows import TABLES, to_csv, to_json
from simulations.sweep.runs import Answer


def publish(answer: Answer, grid: Grid, folder: Path, made: Circumstances) -> dict[str, Any]:
    """Write ``sweep.json``, ``sweep.csv``, two plots a section, and ``sweep.md`` last.

    Returns:
        What the JSON file holds.

    Raises:
        RunError: the folder cannot be written.
    """
    remarks = [*answer.remarks, *_undrawn(answer)]
    result = {
        "command": command(grid),
        "made": asdict(made),
        "remarks": remarks,
        "failed": [asdict(failure) for failure in answer.failures],
        "sections": to_json(answer.sections),
    }
    try:
        write_atomically(folder / "sweep.json", (json.dumps(result, indent=1) + "\n").encode())
        write_atomically(folder / "sweep.csv", to_csv(answer.sections).encode())
        for section in answer.sections:
            for on in DRAWN:
                title = f"{section.preset}, split {section.split}. {TABLES[on]}\n{_promise(section.rows)}"
                draw(section.rows, on, title, folder / stem(section, on))
        text = page(answer.sections, grid, remarks, answer.failures, made)
        write_atomically(folder / "sweep.md", text.encode())
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); make room, then the same command") from error
    return result


def _promise(rows: Sequence[Row]) -> str:
    """What qualifies the epsilons of a plot."""
    said = {
        f"epsilon per {claim.unit}, adjacency {claim.adjacency}, trust {claim.trust}, delta {claim.delta:g}"
        for claim in (row.claim for row in rows)
        if claim.epsilon is not None
    }
    return "; ".join([*sorted(said), "means and 95 % confidence intervals over seeds"])


def _undrawn(answer: Answer) -> list[str]:
    return [
        f"{section.name}: the plots show the first {MOST_LINES} settings only; the tables hold all of them."
        for section in answer.sections
        if len(settings(section.rows)) > MOST_LINES
    ]
