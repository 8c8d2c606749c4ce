"""Run the baselines on one split and lay their numbers out.

Every baseline is fitted on train rows. When it ranks test items it reads a user's train rows, as published numbers do;
a device that serves reads its validation rows too, and on a split by time that alone is worth half as much again
(EASE on Online Retail: ndcg@10 0.060 and 0.090). So either reading is given, and stands beside its equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
from scipy.sparse import csr_array, vstack

from shared.errors import ConfigError, DataError
from shared.privacy.accounting import noise_multiplier_for, rho_for
from simulations.baselines import models, private
from simulations.baselines.protocol import Interactions, Scorer, choose, evaluate, interactions
from simulations.datasets.dataset import Dataset, Split

Progress = Callable[[str], None]

BASELINES: Final = ("popularity", "tfidf", "itemknn", "ease", "ials")
PRIVATE_BASELINES: Final = ("private_popularity", "tfidf_private_popularity", "dp_ease")
"""Run once for every epsilon; their results are named like ``dp_ease@8``."""
LARGEST_DENSE: Final = 10_000
"""Most items of baselines that need dense matrices of items by items: 0.8 GB each, and several of them."""
WITH_VALID: Final = "+valid"
"""Ends the name of a baseline that reads validation rows too when it ranks test items: ``dp_ease+valid@8``."""


def run_baselines(
    dataset: Dataset,
    split: Split,
    *,
    delta: float,
    epsilons: Sequence[float],
    seed: int,
    names: Iterable[str] | None = None,
    also_valid: bool = False,
    on: Literal["valid", "test"] = "test",
    progress: Progress | None = None,
) -> dict[str, dict[str, float]]:
    """Fit on train, choose on validation, measure on test (or, where settings are chosen, on validation).

    Args:
        dataset: behaviour and public texts.
        split: its split.
        delta: of the private baselines, in (0, 1).
        epsilons: of the private baselines, each above 0; none leaves them out.
        seed: of iALS' start and of the private noise, which differs between one baseline's epsilons in scale only.
        names: of ``BASELINES`` and ``PRIVATE_BASELINES``, all by default.
        also_valid: rank test items a second time, from train and validation rows of each user; results that end in
            ``WITH_VALID``. What was fitted stays the same.
        on: which held-out items to look for; validation items only train rows may be read for.
        progress: gets a sentence as work goes on.

    Returns:
        name -> recall@20, ndcg@10, coverage@20, gini@20, head_share@20; a private baseline also has ``epsilon``. What
        cannot be fitted is left out, with a sentence to ``progress``: text baselines when the items have no text, those
        of dense matrices above ``LARGEST_DENSE`` items.

    Raises:
        ConfigError: unknown name, or epsilon or delta out of range.
        ValueError: validation items would be looked for among rows that hold them.
    """
    if also_valid and on == "valid":
        raise ValueError("validation items are ranked from train rows alone")
    chosen = _known(names)
    _check_budget(delta, epsilons)
    data = interactions(dataset, split)
    histories = [data.train, data.train + data.valid] if also_valid else [data.train]
    read = csr_array(vstack(histories, format="csr"))
    work = _Work(dataset.items.texts, data, read, seed, on, progress or (lambda _: None))
    results: dict[str, dict[str, float]] = {}
    for name in chosen:
        work.say(f"baseline {name}")
        try:
            _check_size(name, data.n_items)
            if name in BASELINES:
                results |= _results(name, "", _fit(name, work), work)
                continue
            for epsilon in epsilons:
                found = _results(name, f"@{epsilon:g}", _fit_private(name, work, epsilon, delta), work)
                results |= {key: metrics | {"epsilon": float(epsilon)} for key, metrics in found.items()}
        except DataError as error:
            work.say(f"baseline {name} is left out: {error}")
    return results


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """The results as plain aligned text: a header, then a line a baseline in the given order; "-" where nothing is."""
    columns = list(dict.fromkeys(metric for metrics in results.values() for metric in metrics if metric != "epsilon"))
    rows = [["baseline", *columns]]
    for name, metrics in results.items():
        rows.append([name, *(f"{metrics[column]:.4f}" if column in metrics else "-" for column in columns)])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


@dataclass(frozen=True)
class _Work:
    """What a baseline is made from.

    ``read`` holds the histories that are scored, and scorers know its rows: every user's train rows and, below them
    where wanted, every user's train and validation rows.
    """

    texts: tuple[str, ...]
    data: Interactions
    read: csr_array
    seed: int
    on: Literal["valid", "test"]
    say: Progress


def _results(name: str, ending: str, scorer: Scorer, work: _Work) -> dict[str, dict[str, float]]:
    """Metrics, once for every reading of the histories."""
    users = work.data.users
    results = {name + ending: evaluate(scorer, work.data, work.on)}
    if work.read.shape[0] > users:
        results[name + WITH_VALID + ending] = evaluate(
            lambda rows: scorer(slice(users + rows.start, users + rows.stop)), work.data
        )
    return results


def _check_size(name: str, items: int) -> None:
    if name in {"itemknn", "ease", "dp_ease"} and items > LARGEST_DENSE:
        raise DataError(f"{items:,} items would need dense matrices of {8e-9 * items * items:.1f} GB each")


def _fit(name: str, work: _Work) -> Scorer:
    train, read = work.data.train, work.read
    if name == "popularity":
        return models.fit_popularity(train)
    if name == "tfidf":
        return models.fit_tfidf(read, models.tfidf_vectors(work.texts))
    if name == "ials":
        return models.fit_ials(train, read[work.data.users :], work.seed)
    counts = models.gram(train)
    if name == "ease":
        ridge, scorer = choose(models.EASE_RIDGES, partial(models.fit_ease, read, counts), work.data)
        work.say(f"baseline ease: ridge {ridge:g} chosen on validation items")
        return scorer
    pair, scorer = choose(models.KNN_CHOICES, lambda pair: models.fit_itemknn(read, counts, *pair), work.data)
    work.say(f"baseline itemknn: {pair[0]} neighbours and shrink {pair[1]:g} chosen on validation items")
    return scorer


def _fit_private(name: str, work: _Work, epsilon: float, delta: float) -> Scorer:
    train, read = work.data.train, work.read
    multiplier = noise_multiplier_for(rho_for(epsilon, delta))
    rng = np.random.default_rng([work.seed, PRIVATE_BASELINES.index(name)])
    if name == "dp_ease":
        return private.fit_dp_ease(read, private.private_gram(train, multiplier, rng), multiplier)
    histogram = private.private_histogram(train, multiplier, rng)
    if name == "private_popularity":
        return models.constant_scores(histogram)
    content = models.fit_tfidf(read, models.tfidf_vectors(work.texts))
    prior = private.log_prior(histogram, floor=multiplier * math.sqrt(private.HISTOGRAM_CAP))
    weight, scorer = choose(private.PRIOR_WEIGHTS, partial(private.with_prior, content, prior), work.data)
    work.say(f"baseline {name} at epsilon {epsilon:g}: prior weight {weight:g} chosen on validation items")
    return scorer


def _known(names: Iterable[str] | None) -> tuple[str, ...]:
    everything = BASELINES + PRIVATE_BASELINES
    chosen = everything if names is None else tuple(names)
    for name in chosen:
        if name not in everything:
            raise ConfigError(f"baseline {name!r} is unknown; choose from {', '.join(everything)}")
    return chosen


def _check_budget(delta: float, epsilons: Sequence[float]) -> None:
    if not 0.0 < delta < 1.0:
        raise ConfigError(f"delta is {delta}; it must lie between 0 and 1")
    for epsilon in epsilons:
        if not 0.0 < epsilon < np.inf:
            raise ConfigError(f"epsilon is {epsilon}; a private baseline needs a finite one above 0")
