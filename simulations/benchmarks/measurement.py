"""Whether error bars mean what they say: known lists, reported many times under noise, against what is true of them.

One report costs the whole epsilon that its row names (user-level, adjacency zero-out, delta 1e-5). The reports go the
client's way into the sum (rows, clip, integer grid) and the server's way out; noise alone differs between them, as a
bar is about one report's own lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.measuring import lists, measurement_rows, visible_length
from server.evaluation import Estimate, Measurement, estimate, with_distinct
from server.exposures import functionals
from shared.encoder.spec import bucket_of
from shared.errors import ConfigError
from shared.privacy.accounting import noise_multiplier_for, rho_for
from shared.privacy.calibration import make_plan
from shared.privacy.clipping import clip_to_grid
from shared.privacy.plan import RELEASES, PrivacyPlan, Target, Trust
from shared.recall.item_rules import NO_RULES, masks
from shared.recall.metrics import coverage, ndcg_at, recall_at, top_k
from shared.recall.report import ACTIVITY, NDCG_K, ReportLayout, activity_group
from simulations.baselines.models import fit_ease, fit_itemknn, fit_popularity, gram
from simulations.baselines.protocol import interactions
from simulations.config import resolve
from simulations.model import read_model
from simulations.world import World, load_world

K: Final = 20
DELTA: Final = 1e-5
SEED: Final = 20_140_607  # of the noise: the same table every time
NEAR: Final = 0.03  # an estimate this close is close enough
COVERED: Final = (0.90, 0.99)
EASE, KNN, POPULARITY, OWN = "EASE", "ItemKNN", "popularity", "own model"

Lists = NDArray[np.integer]


@dataclass(frozen=True)
class Cell:
    """One kind of report.

    Attributes:
        lists: whose lists are in force.
        trust: of the plan.
        shadows: whose lists are measured beside them.
    """

    lists: str
    trust: Trust = "distributed"
    shadows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is simulated; the default is what the command does."""

    cells: tuple[Cell, ...] = (
        Cell(EASE),
        Cell(KNN),
        Cell(POPULARITY),
        Cell(EASE, shadows=(KNN, POPULARITY)),
        Cell(EASE, "central"),
    )
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    reports: int = 200


@dataclass(frozen=True)
class Row:
    """One estimate in one kind of report at one epsilon.

    Attributes:
        lists, trust, shadows: the cell.
        epsilon: of one report.
        name: of the estimate; a "shadow" is a difference.
        at_least: m.
        truth: the exact value.
        bias: mean error.
        half_width: of the bar, on average.
        near: share of estimates within ``NEAR`` of the truth.
        covered: share of bars that hold it.
        told: share of reports that gave an estimate at all; None stands for the figures where none did.
    """

    lists: str
    trust: str
    shadows: int
    epsilon: float
    name: str
    at_least: int
    truth: float
    bias: float | None
    half_width: float | None
    near: float | None
    covered: float | None
    told: float


def measure(
    say: Callable[[str], None],
    cache: Path,
    *,
    source: Path | None = None,
    run: Path | None = None,
    plan: Plan | None = None,
) -> dict[str, Any]:
    """Everything that the command prints, as JSON values.

    Args:
        say: told what is being simulated.
        cache: of downloads.
        source: folder to take the data set's files from.
        run: folder of a run on ml-100k, whose model's lists are measured too.
        plan: what is simulated.

    Raises:
        FedrecallError: the data or the run cannot be read.
    """
    plan = plan or Plan()
    text = [] if run is not None else ["model.text_encoder=none"]
    world = load_world(resolve("ml-100k", sets=text), cache, source, say)
    made = _lists(world, run)
    if run is not None:
        plan = replace(plan, cells=(Cell(OWN), *plan.cells))
    rows: list[Row] = []
    for cell in plan.cells:
        for epsilon in plan.epsilons:
            beside = f", shadows {', '.join(cell.shadows)}" if cell.shadows else ""
            say(f"{cell.lists}, trust {cell.trust}{beside}, epsilon {epsilon:g}: {plan.reports} reports")
            rows += _simulate(world, made, cell, epsilon, plan.reports)
    return {
        "data": "ml-100k, split rs, validation items",
        "users": len(world.histories),
        "items": len(world.catalogue.ids),
        "k": K,
        "delta": DELTA,
        "reports": plan.reports,
        "rows": [asdict(row) for row in rows],
        "bars": _bars(rows),
    }


def plan_for(epsilon: float, users: int, trust: Trust) -> PrivacyPlan:
    """A plan in which one report costs all of epsilon; cohort and collusion as in the default configuration."""
    target = Target(
        kind="simulation",
        unit="user",
        trust=trust,
        epsilon=epsilon,
        delta=DELTA,
        population=users,
        smallest_cohort=int(np.ceil(0.9 * users)),
        collusion=0.1,
        rounds=1,
        update_participations=1,
        measurement_participations=1,
        shares={**dict.fromkeys(RELEASES, 0.0), "update": 0.5, "measurement": 0.5},
        update_dimension=1000,
        clip=1.0,
        users=users,
    )
    made = make_plan(target)
    multiplier = noise_multiplier_for(rho_for(epsilon, DELTA))
    return replace(made, measurement=replace(made.measurement, noise_multiplier=multiplier))


def _lists(world: World, run: Path | None) -> dict[str, Lists]:
    """Each recommender's top k for every user, train rows masked."""
    data = interactions(world.dataset, world.split)
    counts, seen = gram(data.train), np.asarray(data.seen_before_valid.todense(), bool)
    everybody = slice(0, data.users)
    fitted = {
        EASE: fit_ease(data.train, counts, 300.0),
        KNN: fit_itemknn(data.train, counts, 200, 50.0),
        POPULARITY: fit_popularity(data.train),
    }
    out: dict[str, Lists] = {name: top_k(score(everybody), seen, K) for name, score in fitted.items()}
    if run is not None:
        model = read_model(run / "model.safetensors")
        if model.catalogue != world.catalogue.version():
            raise ConfigError(f"{run}: its model is of another catalogue than ml-100k's")
        policy, rngs = replace(model.policy, k=K), [np.random.default_rng([0, u]) for u in range(data.users)]
        bucket = bucket_of(world.catalogue.ids, model.encoder.buckets)
        barred = masks(model.rules, world.catalogue.ids, [None] * data.users)
        groups = dict(world.catalogue.groups)
        chunks = lists(
            model.encoder, model.parameters, groups, bucket, model.prior, policy, world.histories, rngs, barred
        )
        out[OWN] = np.concatenate(list(chunks))
    return out


def _simulate(world: World, made: Mapping[str, Lists], cell: Cell, epsilon: float, reports: int) -> list[Row]:
    users, items = len(world.histories), len(world.catalogue.ids)
    plan = plan_for(epsilon, users, cell.trust)
    layout = ReportLayout(K, items, len(cell.shadows), cell.trust == "central")
    lengths = np.array([visible_length(history) for history in world.histories])
    low, high = (int(x) for x in np.quantile(lengths, [1 / 3, 2 / 3]))
    ranked, shadows = made[cell.lists], [made[name] for name in cell.shadows]
    barred = masks(NO_RULES, world.catalogue.ids, [None] * users)
    sent = measurement_rows(ranked, shadows, world.histories, barred, (low, high), layout, np.arange(items))
    steps = plan.measurement.steps
    total = clip_to_grid(sent, plan.measurement.clip, steps).sum(axis=0, dtype=np.int64)
    if layout.central:
        total = with_distinct(layout, steps, total)
    rng = np.random.default_rng(
        [SEED, round(1000 * epsilon), list(made).index(cell.lists), len(cell.shadows), layout.central]
    )
    sigma = plan.sum_sigma("measurement", users)
    told: list[Measurement] = []
    for _ in range(reports):
        noisy = total + np.rint(rng.normal(0.0, sigma, len(total))).astype(np.int64)
        told.append(estimate(plan, noisy, users, layout, items, rng))
    truth = _truth(world, ranked, shadows, (low, high), told[0].at_least)
    return [_row(cell, epsilon, name, value, told) for name, value in truth.items()]


def _truth(
    world: World, ranked: Lists, shadows: Sequence[Lists], activity: tuple[int, int], at_least: int
) -> dict[str, float]:
    """Exact values of everything that a report estimates."""
    items = len(world.catalogue.ids)
    relevant = np.zeros((len(ranked), items), bool)
    for row, history in enumerate(world.histories):
        relevant[row, history.item[history.held_out]] = True
    asked = relevant.any(axis=1)
    recall, ndcg = recall_at(ranked, relevant, K)[asked], ndcg_at(ranked, relevant, NDCG_K)[asked]
    groups = np.array([activity_group(visible_length(history), activity) for history in world.histories])[asked]
    means = {group: float(ndcg[groups == group].mean()) for group in ACTIVITY}
    shown = ranked[asked]
    exposures = np.bincount(shown[shown >= 0], minlength=items)
    spread = dict(zip(("effective_coverage", "gini", "head_share"), functionals(exposures, at_least), strict=True))
    out = {f"recall@{K}": float(recall.mean()), f"ndcg@{NDCG_K}": float(ndcg.mean())}
    out |= {f"ndcg@{NDCG_K}:{group}": mean for group, mean in means.items()}
    out[f"gap@{NDCG_K}"] = max(means.values()) - min(means.values())
    out |= {f"{name}@{K}": float(value) for name, value in spread.items()}
    out[f"coverage@{K}"] = coverage(exposures)
    for number, listed in enumerate(shadows, 1):
        out[f"shadow {number}"] = float((recall_at(listed, relevant, K)[asked] - recall).mean())
    return out


def _row(cell: Cell, epsilon: float, name: str, truth: float, told: Sequence[Measurement]) -> Row:
    def said(one: Measurement) -> Estimate | None:
        if name.startswith("shadow"):
            number = int(name.removeprefix("shadow")) - 1
            return one.shadows[number] if one.shadows else None
        return one.estimates.get(name)

    given = [e for e in map(said, told) if e is not None]
    row = Row(
        cell.lists, cell.trust, len(cell.shadows), epsilon, name, told[0].at_least, truth, None, None, None, None, 0.0
    )
    if not given:
        return row
    errors = np.array([e.value - truth for e in given])
    held = [e.low <= truth <= e.high for e in given]
    return replace(
        row,
        bias=float(errors.mean()),
        half_width=float(np.mean([e.half_width for e in given])),
        near=float(np.mean(np.abs(errors) <= NEAR)),
        covered=float(np.mean(held)),
        told=len(given) / len(told),
    )


def _bars(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The project's bars: close at epsilon 1, and bars that cover, for the lists that they name."""
    judged = [row for row in rows if row.lists in {EASE, OWN} and row.covered is not None]
    near = [r.near for r in judged if r.name.startswith("effective") and r.epsilon == 1 and r.near is not None]
    out = []
    if near:
        what = f"share of effective coverages within {NEAR} at epsilon 1"
        out.append({"what": what, "value": min(near), "bar": ">= 0.9", "met": min(near) >= 0.9})
    covered = [row.covered for row in judged if row.covered is not None]
    for what, value, met in (
        ("smallest share of bars that hold the truth", min(covered), min(covered) >= COVERED[0]),
        ("largest share of bars that hold the truth", max(covered), max(covered) <= COVERED[1]),
    ):
        out.append({"what": what, "value": value, "bar": f"{COVERED[0]} to {COVERED[1]}", "met": met})
    return out
