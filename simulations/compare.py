"""Put finished runs side by side: one row a run, and mean ± standard deviation over runs that differ only in seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from shared.errors import RunError
from simulations.report.folder import Json, Run, number, read_run
from simulations.report.wording import Privacy, duration, fixed, privacy, upper

METRICS = ("recall@20", "ndcg@10", "coverage@20", "gini@20")


def compare(folders: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Read the runs and group those whose configurations differ in nothing but the seed.

    Args:
        folders: run folders, each with a ``summary.json``.

    Returns:
        ``{"runs": [...], "groups": [...]}``, ready for JSON. A run's row holds its folder, preset, split, seed, epsilon
        (None: no differential privacy) with unit, trust and delta, controller, test metrics (exact, simulation only),
        seconds and how it stopped. A group's row (two seeds or more) holds the same settings, the seeds, the largest
        epsilon, and a mean and a sample standard deviation (n - 1) a metric.

    Raises:
        RunError: no folder is named, or a folder holds no run, no summary, or a file that does not parse.
    """
    if not folders:
        raise RunError("there is nothing to compare: name at least one run folder")
    runs = [_finished(folder) for folder in folders]
    rows = [_row(run) for run in runs]
    groups: dict[str, list[dict[str, Any]]] = {}
    for run, row in zip(runs, rows, strict=True):
        groups.setdefault(json.dumps(_without_seed(run.config), sort_keys=True, default=str), []).append(row)
    return {"runs": rows, "groups": [_group(members) for members in groups.values() if _seeds(members) > 1]}


def table(rows: Mapping[str, Sequence[Json]]) -> str:
    """Lay what ``compare`` returned out as plain text: the runs, then the groups. Ends without a newline."""
    metrics = [key for key in METRICS if any(number(row["test"].get(key)) is not None for row in rows["runs"])]
    head = ["run", "preset", "split", "seed", "epsilon", "unit, trust", "controller", *metrics, "time", "stopped"]
    lines = [
        [*_settings(row), *(fixed(row["test"].get(key), 4) for key in metrics), *_end(row)] for row in rows["runs"]
    ]
    text = aligned([head, *lines])
    if rows["groups"]:
        head = ["seeds", "preset", "split", "n", "epsilon", "unit, trust", "controller", *metrics, "time"]
        lines = [
            [
                *_group_settings(row),
                *(_spread(row["test"].get(key)) for key in metrics),
                duration(row["seconds"]["mean"]),
            ]
            for row in rows["groups"]
        ]
        text += "\n\nMean ± standard deviation over seeds (configurations that differ in nothing else)\n"
        text += aligned([head, *lines])
    return text + "\n\nTest metrics are exact values that only a simulation can know; epsilon is rounded up."


def _finished(folder: Path) -> Run:
    run = read_run(folder)
    if run.summary is None:
        raise RunError(
            f"{folder} holds no summary.json: its run goes on or was interrupted; resume it before comparing"
        )
    return run


def _row(run: Run) -> dict[str, Any]:
    summary: Json = run.summary or {}
    claim = privacy(run)
    test = summary.get("test")
    measured = test if isinstance(test, dict) else {}
    return {
        "folder": str(run.folder),
        "preset": str(summary.get("preset") or "—"),
        "split": str(summary.get("split") or "—"),
        "seed": summary.get("seed"),
        **_claim(claim),
        "delta": number(summary.get("delta")),
        "controller": _controller(summary.get("controller"), run.config),
        "test": {str(key): number(value) for key, value in measured.items()},
        "seconds": number(summary.get("wall_seconds")),
        "stopped": str(summary.get("stopped") or "—"),
    }


def _claim(claim: Privacy) -> dict[str, Any]:
    return {"epsilon": claim.epsilon, "unit": claim.unit, "trust": claim.trust}


def _controller(stated: object, config: Json) -> str:
    """The summary's controller, or the first ``controller`` in the configuration, at whatever depth."""
    if isinstance(stated, str):
        return stated
    for key, value in config.items():
        if key == "controller" and isinstance(value, str):
            return value
        if isinstance(value, dict) and (found := _controller(None, value)) != "—":
            return found
    return "—"


def _without_seed(config: Json) -> dict[str, Any]:
    return {
        key: _without_seed(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key != "seed"
    }


def _seeds(rows: Sequence[Json]) -> int:
    return len({str(row["seed"]) for row in rows})


def _group(rows: Sequence[Json]) -> dict[str, Any]:
    first = rows[0]
    epsilons = [row["epsilon"] for row in rows]
    same = ("preset", "split", "unit", "trust", "delta", "controller")
    keys = {key: None for row in rows for key in row["test"]}
    return {
        **{key: first[key] for key in same},
        "seeds": [row["seed"] for row in rows],
        "epsilon": None if None in epsilons else max(epsilons),
        "test": {key: _mean([row["test"].get(key) for row in rows]) for key in keys},
        "seconds": _mean([row["seconds"] for row in rows]),
    }


def _mean(values: Sequence[float | None]) -> dict[str, float | int | None]:
    known = [value for value in values if value is not None]
    return {
        "mean": fmean(known) if known else None,
        "std": stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }


def _settings(row: Json) -> list[str]:
    seed = "—" if row["seed"] is None else str(row["seed"])
    return [Path(row["folder"]).name, row["preset"], row["split"], seed, *_shared(row)]


def _group_settings(row: Json) -> list[str]:
    seeds = ",".join("—" if seed is None else str(seed) for seed in row["seeds"])
    return [seeds, row["preset"], row["split"], str(len(row["seeds"])), *_shared(row)]


def _shared(row: Json) -> list[str]:
    private = row["epsilon"] is not None
    return [upper(row["epsilon"]), f"{row['unit']}, {row['trust']}" if private else "no privacy", row["controller"]]


def _end(row: Json) -> list[str]:
    return [duration(row["seconds"]), row["stopped"]]


def _spread(value: Json | None) -> str:
    mean, std = (fixed((value or {}).get(key), 4) for key in ("mean", "std"))
    return mean if std == "—" else f"{mean} ± {std}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Pad the cells to columns; numbers to the right, words to the left, a rule under the head."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    numeric = [all(row[at][:1].isdigit() or row[at] in {"—", "none"} for row in rows[1:]) for at in range(len(widths))]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, numeric, strict=True)
        return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * width for width in widths), *(line(row) for row in rows[1:])])
