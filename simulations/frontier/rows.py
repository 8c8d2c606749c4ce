"""From single runs to the rows of a frontier: means over seeds, with every seed and the claim kept beside them. Pure.

Each row is measured under one or two *readings*: what a recommender reads of a user when it ranks test items. Whatever
is read, it was fitted on train rows alone, and train and validation rows are masked.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Final, TypeVar

from shared.errors import ConfigError

METRICS: Final = ("recall@20", "ndcg@10", "coverage@20")
TRAIN, BOTH = "train", "train+valid"
READINGS: Final = (TRAIN, BOTH)
"""What is read of a user: train rows, as published numbers do; or validation rows too, as a device that serves does."""
VALID: Final = "validation"
"""Not a reading of the test: validation items, train rows read and masked; what settings may be chosen by."""
OURS: Final = "fedrecall"
TUNED: Final = f"{OURS}, tuned"
"""Ours with hyper-parameters that were chosen on the same data set's validation items."""
MOST_SEEDS: Final = 1000  # of one range; more is a slip of the hand
Epsilon = float | None
"""None = no differential privacy."""
T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """What is promised beside a number, in the words of the run or of the peer that made it.

    Attributes:
        epsilon: the largest printed one; None = no differential privacy.
        unit, adjacency, trust: what is protected, under which relation, and who adds the noise.
        delta: of the claim.
        accountant: what epsilon was computed with.
        covers: which releases, against whom.
        tuning: whether hyper-parameters are covered, and where they come from.
    """

    epsilon: Epsilon
    unit: str = ""
    adjacency: str = ""
    trust: str = ""
    delta: float | None = None
    accountant: str = ""
    covers: str = ""
    tuning: str = ""


@dataclass(frozen=True)
class Outcome:
    """One finished run, or one fitted peer.

    Attributes:
        name: of the recommender.
        epsilon: the one that was asked for.
        seed: of its chance.
        metrics: reading -> metric -> value on test items; a reading that was not measured is left out.
        claim: its promise.
    """

    name: str
    epsilon: Epsilon
    seed: int
    metrics: Mapping[str, Mapping[str, float]]
    claim: Claim


@dataclass(frozen=True)
class Spread:
    """One metric over seeds: mean, smallest and largest, and each seed's value in the order of the seeds."""

    mean: float
    low: float
    high: float
    each: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One recommender at one epsilon, over seeds. ``claim`` is that of the seed with the largest epsilon."""

    name: str
    epsilon: Epsilon
    seeds: tuple[int, ...]
    metrics: Mapping[str, Mapping[str, Spread]]
    claim: Claim


def parse_epsilons(text: str) -> tuple[Epsilon, ...]:
    """Read "none,8,4" as (None, 8.0, 4.0): without privacy first, then from the largest down.

    Raises:
        ConfigError: nothing is listed, something is no number above 0, or stands there twice.
    """

    def one(word: str) -> Epsilon:
        if word == "none":
            return None
        value = float(word)
        if not 0.0 < value < float("inf"):
            raise ValueError(word)
        return value

    found = _listed("--epsilons", text, one, 'a number above 0, or "none"; for example none,8,4,2,1')
    return tuple(sorted(found, key=lambda epsilon: -_place(epsilon)))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read "0,1,2" or "0..2" as (0, 1, 2), smallest first.

    Raises:
        ConfigError: nothing is listed, something is no whole number from 0 up, or stands there twice.
    """
    words = [one for word in text.split(",") for one in _counted(word.strip())]
    return tuple(sorted(_listed("--seeds", ",".join(words), _whole, "a whole number, 0 or larger; for example 0,1,2")))


def _counted(word: str) -> list[str]:
    """The members of "0..2"; anything else as it is."""
    first, dots, last = word.partition("..")
    if not dots:
        return [word]
    try:
        start, count = _whole(first), _whole(last) - _whole(first) + 1
    except ValueError as error:
        raise ConfigError(f"--seeds: {word!r} is not a range of whole numbers; for example 0..4") from error
    if not 0 < count <= MOST_SEEDS:
        raise ConfigError(f"--seeds: {word!r} is no range of 1 to {MOST_SEEDS:,} seeds, smallest first")
    return [str(start + number) for number in range(count)]


def _whole(word: str) -> int:
    if not (word.isascii() and word.isdecimal()):
        raise ValueError(word)
    return int(word)


def _listed(option: str, text: str, one: Callable[[str], T], wanted: str) -> list[T]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ConfigError(f"{option} {text!r}: lists nothing; expected {wanted}")
    values: list[T] = []
    for word in words:
        try:
            value = one(word)
        except ValueError as error:
            raise ConfigError(f"{option}: {word!r} is not {wanted}") from error
        if value in values:
            raise ConfigError(f"{option}: {word} stands there twice")
        values.append(value)
    return values


def _place(epsilon: Epsilon) -> float:
    return float("inf") if epsilon is None else epsilon


def said(epsilon: Epsilon) -> str:
    """An epsilon as options and folders spell it, to the last digit: "8", "0.5" or "none"."""
    return "none" if epsilon is None else repr(epsilon).removesuffix(".0")


def collect(outcomes: Iterable[Outcome]) -> tuple[Row, ...]:
    """Group by recommender, in the order of their first outcome, and by epsilon, from none to the smallest."""
    groups: dict[tuple[str, Epsilon], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.name, outcome.epsilon), []).append(outcome)
    names = list(dict.fromkeys(name for name, _ in groups))
    order = sorted(groups, key=lambda key: (names.index(key[0]), -_place(key[1])))
    return tuple(_row(sorted(groups[key], key=lambda outcome: outcome.seed)) for key in order)


def _row(group: Sequence[Outcome]) -> Row:
    first = group[0]
    readings = [reading for reading in (*READINGS, VALID) if all(reading in outcome.metrics for outcome in group)]
    metrics = {
        reading: {metric: _spread([outcome.metrics[reading][metric] for outcome in group]) for metric in METRICS}
        for reading in readings
    }
    claim = max((outcome.claim for outcome in group), key=lambda claim: _place(claim.epsilon))
    return Row(first.name, first.epsilon, tuple(outcome.seed for outcome in group), metrics, claim)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(fmean(values), min(values), max(values), tuple(values))


def headline(rows: Sequence[Row]) -> str:
    """The reading that the plot and the first table show: train rows where our runs were measured so, else both."""
    ours = [row for row in rows if row.name.startswith(OURS)]
    return TRAIN if all(TRAIN in row.metrics for row in ours) else BOTH


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain dictionaries."""
    return [asdict(row) for row in rows]


def to_csv(rows: Sequence[Row]) -> str:
    """One line a row, reading and metric: mean, smallest, largest, each seed, and the claim."""
    seeds = sorted({seed for row in rows for seed in row.seeds})
    head = ["name", "epsilon", "reads", "metric", "mean", "min", "max", *(f"seed {seed}" for seed in seeds)]
    claim = ["printed epsilon", "unit", "adjacency", "trust", "delta", "accountant", "covers", "tuning"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head + claim)
    for row in rows:
        promise = [said(row.claim.epsilon), *list(asdict(row.claim).values())[1:]]
        for reading, metrics in row.metrics.items():
            for metric, spread in metrics.items():
                each = dict(zip(row.seeds, spread.each, strict=True))
                numbers = [spread.mean, spread.low, spread.high, *(each.get(seed, "") for seed in seeds)]
                writer.writerow([row.name, said(row.epsilon), reading, metric, *numbers, *promise])
    return out.getvalue()
