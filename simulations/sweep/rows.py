"""From the outcomes of a sweep to its tables: one section a preset and split, means with intervals over seeds. Pure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Final

from simulations.frontier.rows import BOTH, TRAIN, VALID, Row, Spread, said

CONFIDENCE: Final = 0.95
TABLES: Final = {
    VALID: "Validation items, reading train rows: settings are chosen here",
    BOTH: "Test items, reading train and validation rows as a device that serves does",
    TRAIN: "Test items, reading train rows only, as published numbers do",
}
"""What is measured -> title of its table. Validation and test never share one."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the half-width of its interval; None of it where one seed tells nothing of the spread."""

    mean: float
    half: float | None


@dataclass(frozen=True)
class Section:
    """The rows of one preset on one split of its data, beside popularity and the no-privacy ceiling."""

    preset: str
    split: str
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.preset}-{self.split}"


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % confidence interval of Student (1908): ``mean ± t(0.975; n - 1) s / sqrt(n)``.

    Seeds are independent draws of a run's chance, few of them; with s estimated from the same few, the normal quantile
    1.96 would promise too much (n = 3: 4.30).

    Args:
        values: one a seed, at least one.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 - heavy

    count = len(values)
    if count == 1:
        return Interval(values[0], None)
    quantile = float(stdtrit(count - 1, (1.0 + CONFIDENCE) / 2.0))
    return Interval(fmean(values), quantile * stdev(values) / math.sqrt(count))


def cell(spread: Spread | None) -> str:
    """As 0.3120 ± 0.0041; without ± where there is one seed, or where all are alike."""
    if spread is None:
        return "—"
    found = interval(spread.each)
    return f"{found.mean:.4f}" + (f" ± {found.half:.4f}" if found.half else "")


def to_json(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """The sections as plain dictionaries; metrics by what they were measured on."""
    return [
        {"preset": section.preset, "split": section.split, "rows": [_row(row) for row in section.rows]}
        for section in sections
    ]


def _row(row: Row) -> dict[str, Any]:
    metrics = {
        on: {metric: asdict(interval(spread.each)) | {"each": list(spread.each)} for metric, spread in found.items()}
        for on, found in row.metrics.items()
    }
    names = {TRAIN: "test_reading_train", BOTH: "test", VALID: "valid"}
    measured = {names[on]: found for on, found in metrics.items()}
    return {
        "name": row.name,
        "epsilon": row.epsilon,
        "seeds": list(row.seeds),
        **measured,
        "claim": asdict(row.claim),
    }


def to_csv(sections: Sequence[Section]) -> str:
    """One line a row, what it was measured on, and metric: mean, interval, each seed, and the claim."""
    seeds = sorted({seed for section in sections for row in section.rows for seed in row.seeds})
    head = ["preset", "split", "name", "epsilon", "items", "reads", "metric", "seeds", "mean", "low 95%", "high 95%"]
    claim = ["printed epsilon", "unit", "adjacency", "trust", "delta", "accountant", "covers", "tuning"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, *(f"seed {seed}" for seed in seeds), *claim])
    for section in sections:
        for row in section.rows:
            promise = [said(row.claim.epsilon), *list(asdict(row.claim).values())[1:]]
            for on, metrics in row.metrics.items():
                measured = ("validation", TRAIN) if on == VALID else ("test", on)
                for metric, spread in metrics.items():
                    left = [section.preset, section.split, row.name, said(row.epsilon), *measured, metric]
                    writer.writerow([*left, len(row.seeds), *_numbers(row, spread, seeds), *promise])
    return out.getvalue()


def _numbers(row: Row, spread: Spread, seeds: Sequence[int]) -> list[float | str]:
    found, each = interval(spread.each), dict(zip(row.seeds, spread.each, strict=True))
    bounds: list[float | str] = ["", ""] if found.half is None else [found.mean - found.half, found.mean + found.half]
    return [found.mean, *bounds, *(each.get(seed, "") for seed in seeds)]
