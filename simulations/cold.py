"""``fedrecall-sim cold``: how well items are recommended that nobody had touched when the model was trained.

A tenth of the items is taken out of the data, and with them everything that was done with them: a run trains on what
is left, as if they did not exist. Then they enter the catalogue with their texts alone (``client/newcomers.py``), and
every user who did something with one of them is asked: recall@20 among all items, and among the new ones only.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.measuring import lists
from client.newcomers import NEIGHBOURS, Grown, grown
from shared.catalogue import Catalogue
from shared.config import RulesSection
from shared.encoder.encode import log_popularity_of
from shared.encoder.spec import Floats, unpack
from shared.errors import ConfigError
from shared.history import NOT_INTERESTED, History
from shared.policy.recall_policy import RecallPolicy
from shared.recall.item_rules import Mask
from simulations.config import SimulationConfig
from simulations.datasets.dataset import Dataset, Items, Split
from simulations.model import Model, read_model
from simulations.run import Screen, run_world
from simulations.seeding import generator
from simulations.world import World, load_world

SHARE: Final = 0.1
K: Final = 20


def cold_run(
    config: SimulationConfig, folder: Path, *, cache: Path, source: Path | None, screen: Screen
) -> dict[str, Any]:
    """Hold items out, train without them, and measure how they are recommended.

    Args:
        config: resolved; its seed chooses the items too.
        folder: of the run.
        cache, source, screen: as in a run.

    Returns:
        For JSON: the run's promise, sizes, and a row a way of recommending (see :func:`measured`).

    Raises:
        FedrecallError: as a run; or too few items to hold any out, or item rules.
    """
    if config.rules != RulesSection():
        raise ConfigError(
            "rules: fedrecall-sim cold asks for every item that it holds out, barred ones too; leave rules empty"
        )
    began = time.monotonic()
    world = load_world(config, cache, source, screen.say)
    seed = 0 if config.seed == "none" else config.seed
    cold = cold_items(world.catalogue.ids, seed)
    screen.say(f"{cold.sum():,} of {len(cold):,} items are held out with all that was done with them")
    summary = run_world(config, folder, without_items(world, cold), screen, began)
    return {
        "preset": config.preset,
        "split": config.data.split,
        "seed": seed,
        "epsilon": summary["epsilon"],
        "delta": summary["delta"],
        "unit": summary["unit"],
        "trust": summary["trust"],
        **measured(world, cold, read_model(folder / "model.safetensors"), seed),
    }


def cold_items(ids: Sequence[str], seed: int, share: float = SHARE) -> Mask:
    """(items,) bool: those whose ids come first in an order by hash; the same items whatever their order.

    Raises:
        ConfigError: too few items for one of them to be held out.
    """
    count = int(share * len(ids))
    if count == 0:
        raise ConfigError(f"{len(ids)} items are too few to hold {share:.0%} of them out")
    order = sorted(range(len(ids)), key=lambda item: hashlib.sha256(f"cold {seed} {ids[item]}".encode()).digest())
    cold = np.zeros(len(ids), bool)
    cold[order[:count]] = True
    return cold


def without_items(world: World, cold: Mask) -> World:
    """A world in which some items do not exist yet: no row, no vector, no id of them."""
    new = np.cumsum(~cold) - 1  # index of each item that stays
    kept = ~cold[world.dataset.item]
    items = world.dataset.items

    def left(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(value for value, gone in zip(values, cold, strict=True) if not gone)

    smaller = Items(left(items.ids), left(items.titles), left(items.texts), left(items.categories))
    columns = {
        name: getattr(world.dataset, name)[kept] for name in ("user", "kind", "count", "dwell", "rating", "time")
    }
    item = new[world.dataset.item[kept]].astype(np.int32)
    dataset: Dataset = replace(world.dataset, items=smaller, item=item, **columns)
    masks = (getattr(world.split, part)[kept] for part in ("train", "valid", "test"))
    groups = {name: vectors[~cold] for name, vectors in world.catalogue.groups.items()}
    histories = (_rows(history, ~cold[history.item]) for history in world.histories)
    return World(
        dataset,
        Split(world.split.protocol, *masks),
        Catalogue(smaller.ids, smaller.titles, smaller.texts, smaller.categories, groups),
        world.users,
        tuple(replace(history, item=new[history.item].astype(np.int32)) for history in histories),
        tuple(new[wanted[~cold[wanted]]].astype(np.int32) for wanted in world.test),
        world.asked,
    )


@dataclass(frozen=True)
class _Asked:
    """What every way of recommending is asked.

    Attributes:
        world, cold: all behaviour; which items are new.
        histories: what the device knows, new items left out, indices of the whole catalogue.
        wanted: per user, the new items that they did something with.
        rng: user -> chance for exploration.
    """

    world: World
    cold: Mask
    histories: tuple[History, ...]
    wanted: tuple[NDArray[np.int64], ...]
    rng: Callable[[int], np.random.Generator]


def measured(world: World, cold: Mask, model: Model, seed: int) -> dict[str, Any]:
    """recall@20 of new items, among all and among themselves.

    Rows: the model, new items with rows like their neighbours', or of zeros; texts and words as they are, untrained;
    popularity; chance (exact: 20 over the number of candidates); and the popularity that new items turned out to
    have, which nobody can know before.

    Returns:
        ``items``, ``cold``, ``users`` (who did something with a new item), ``rows`` name -> {"among all", "among
        cold"}, and ``known``: recall@20 of test items of the old catalogue, before and after the new ones came in.
    """
    asked = _Asked(
        world,
        cold,
        tuple(_rows(history, ~cold[history.item]) for history in world.histories),
        tuple(_wanted(world, user, cold) for user in range(len(world.histories))),
        lambda user: generator(seed, "cold", user),
    )
    known = [name for name, gone in zip(world.catalogue.ids, cold, strict=True) if not gone]
    policy = replace(model.policy, k=K, exploration=0.0, exposure_prices=())
    warm = grown(model.encoder, model.parameters, model.prior, known, world.catalogue)
    plain = replace(policy, features=("lexical",), weights={**policy.weights, "lexical": 1.0}, exposure_price=0.0)
    groups = dict(world.catalogue.groups)
    rows = {
        "fedrecall, new items like their neighbours": _recalls(asked, warm, groups, policy),
        "fedrecall, new items with rows of zeros": _recalls(asked, _bare(warm, cold), groups, policy),
        "texts before training": _recalls(asked, warm, {**groups, "lexical": groups["text"]}, plain),
        "words (TF-IDF)": _recalls(asked, warm, groups, plain),
        "popularity (unknown of new items)": {"among all": 0.0, "among cold": _chance(asked)["among cold"]},
        "chance": _chance(asked),
        "popularity, had it been known": _hindsight(asked),
    }
    return {
        "items": len(cold),
        "cold": int(cold.sum()),
        "users": sum(len(wanted) > 0 for wanted in asked.wanted),
        "neighbours": NEIGHBOURS,
        "rows": rows,
        "known": _known(asked, warm, groups, policy),
    }


def _recalls(asked: _Asked, model: Grown, groups: Mapping[str, Floats], policy: RecallPolicy) -> dict[str, float]:
    nobody = np.zeros(len(asked.cold), bool)
    return {
        name: _recall(_lists(asked, model, groups, policy, barred), asked.wanted)
        for name, barred in (("among all", nobody), ("among cold", ~asked.cold))
    }


def _lists(
    asked: _Asked, model: Grown, groups: Mapping[str, Floats], policy: RecallPolicy, barred: Mask
) -> NDArray[np.int64]:
    users = range(len(asked.histories))
    rngs, masks = [asked.rng(user) for user in users], [barred] * len(asked.histories)
    made = lists(
        model.spec,
        model.parameters,
        dict(groups),
        model.bucket,
        model.prior,
        policy,
        asked.histories,
        rngs,
        barred=masks,
        visible="all",
    )
    return np.concatenate(list(made))


def _recall(ranked: NDArray[np.int64], wanted: Sequence[NDArray[np.integer]]) -> float:
    """Mean recall@20 over users who want something."""
    found = [
        len(np.intersect1d(row[:K], items)) / len(items)
        for row, items in zip(ranked, wanted, strict=True)
        if len(items)
    ]
    return float(np.mean(found)) if found else 0.0


def _chance(asked: _Asked) -> dict[str, float]:
    """What lists drawn at random find on average: each candidate stands on one with the same probability."""
    sizes = [len(asked.cold) - len(h) for h, items in zip(asked.histories, asked.wanted, strict=True) if len(items)]
    everything = float(np.mean([min(1.0, K / size) for size in sizes])) if sizes else 0.0
    return {"among all": everything, "among cold": min(1.0, K / int(asked.cold.sum()))}


def _hindsight(asked: _Asked) -> dict[str, float]:
    """The same list for everybody: the items that were done most with, new ones included."""
    kept = asked.world.dataset.kind != NOT_INTERESTED
    count = np.bincount(asked.world.dataset.item[kept], minlength=len(asked.cold))

    def best(open_to: Callable[[History], Mask]) -> float:
        ranked = [np.argsort(-np.where(open_to(h), count, -1), kind="stable")[:K] for h in asked.histories]
        return _recall(np.array(ranked), asked.wanted)

    unseen = lambda history: ~np.isin(np.arange(len(count)), history.item)  # noqa: E731 - said once, beside its twin
    return {"among all": best(unseen), "among cold": best(lambda _history: asked.cold)}


def _known(asked: _Asked, warm: Grown, groups: Mapping[str, Floats], policy: RecallPolicy) -> dict[str, float]:
    """What the newcomers cost the others, whose places they take."""
    wanted = [items[~asked.cold[items]] for items in asked.world.test]
    after = _lists(asked, warm, groups, policy, np.zeros(len(asked.cold), bool))
    return {
        "before": _recall(_lists(asked, warm, groups, policy, asked.cold), wanted),
        "after": _recall(after, wanted),
        "places of new items": float(np.isin(after, np.flatnonzero(asked.cold)).mean()),
    }


def _bare(warm: Grown, cold: Mask) -> Grown:
    """New items with rows of zeros, and as popular as the item in the middle."""
    parameters, prior, rows = warm.parameters.copy(), warm.prior.copy(), warm.bucket[cold]
    old = np.setdiff1d(warm.bucket, rows)
    middle = float(np.median(log_popularity_of(warm.spec, warm.parameters, warm.prior)[old]))
    for part in unpack(warm.spec, parameters).values():
        if len(part) == warm.spec.buckets:
            part[rows] = 0.0
    prior[rows] = middle
    return replace(warm, parameters=parameters, prior=prior)


def _wanted(world: World, user: int, cold: Mask) -> NDArray[np.int64]:
    """New items that a user did something with, of whatever part of the split."""
    history = world.histories[user]
    items = np.concatenate([history.item[history.kind != NOT_INTERESTED], world.test[user]])
    return np.unique(items[cold[items]]).astype(np.int64)


def _rows(history: History, kept: Mask) -> History:
    return replace(history, **{f.name: getattr(history, f.name)[kept] for f in fields(History)})


def table(result: Mapping[str, Any]) -> str:
    """The result for a terminal. Ends without a newline."""
    width, known = max(map(len, result["rows"])), result["known"]
    lines = [
        f"{result['preset']}, split {result['split']}, seed {result['seed']}, {promised(result)}",
        f"Held out of training: {result['cold']:,} of {result['items']:,} items; {result['users']:,} users used one.",
        "",
        f"{'recall@20 of new items':<{width}}  among all  among new",
        *(
            f"{name:<{width}}  {row['among all']:9.4f}  {row['among cold']:9.4f}"
            for name, row in result["rows"].items()
        ),
        "",
        f"recall@20 of known test items: {known['before']:.4f} before, {known['after']:.4f} with the new items in,",
        f"which take {known['places of new items']:.1%} of the places.",
    ]
    return "\n".join(lines)


def promised(result: Mapping[str, Any]) -> str:
    """The promise of the run behind a result, in a few words."""
    if result["epsilon"] is None:
        return "no differential privacy"
    return (
        f"epsilon {np.ceil(100 * result['epsilon']) / 100:.2f} (unit {result['unit']}, trust {result['trust']}, delta "
        f"{result['delta']:g})"
    )
