"""What a simulation knows and nobody else does: all behaviour at once, what clients hold and the final test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.measuring import lists, visible_length
from client.store import ClientStore
from server.features import build_catalogue
from shared.catalogue import Catalogue
from shared.encoder.spec import EncoderSpec, Floats, bucket_of
from shared.errors import ConfigError
from shared.history import NOT_INTERESTED, History
from shared.policy.recall_policy import RecallPolicy
from shared.recall.item_rules import ItemRules, masks
from shared.recall.metrics import RankingSums, effective_coverage, ild, ndcg_at, novelty, tail_share
from shared.recall.report import ACTIVITY, NDCG_K, activity_group
from simulations.config import SimulationConfig
from simulations.datasets.dataset import Dataset, Split
from simulations.datasets.load import load_dataset
from simulations.datasets.split import split_dataset
from simulations.download import Say
from simulations.fetch import fetch_encoder


@dataclass(frozen=True)
class World:
    """A simulation's data.

    Attributes:
        dataset, split: as read.
        catalogue: public.
        histories: one per user: train and validation rows, oldest first; all that clients ever get.
        test: (rows,) of the data set per user: item indices of the final test.
    """

    dataset: Dataset
    split: Split
    catalogue: Catalogue
    histories: tuple[History, ...]
    test: tuple[NDArray[np.int32], ...]


def load_world(config: SimulationConfig, cache: Path, source: Path | None, say: Say) -> World:
    """Read, split and embed; downloads what is missing.

    Raises:
        FedrecallError: with one sentence: what is wrong with the data, the download or the configuration.
    """
    seed = 0 if config.seed == "none" else config.seed
    dataset = load_dataset(
        config.data.name, cache=cache, source=source, columns=config.data.columns or None, seed=seed, say=say
    )
    for note in dataset.notes:
        say(note)
    split = split_dataset(dataset, config.data.split)
    if not split.test.any() or not split.valid.any():
        raise ConfigError(f"data {config.data.name!r}: nobody has enough history for split {config.data.split!r}")
    model = config.model.text_encoder
    folder = model if model == "none" else fetch_encoder(model, cache, say)
    items = dataset.items
    catalogue = build_catalogue(
        items.ids,
        items.titles,
        items.texts,
        items.categories,
        model=folder,
        adaptation=config.model.adaptation,
        vectors=config.model.vectors,
        cache=cache,
        progress=_tenths(say),
    )
    histories = tuple(_histories(dataset, ~split.test, split.valid))
    test = tuple(h.item for h in _histories(dataset, split.test & (dataset.kind != NOT_INTERESTED), split.valid))
    return World(dataset, split, catalogue, histories, test)


def _tenths(say: Say) -> Callable[[int, int], None]:
    """Says how far the text encoder is, ten times at most; nothing when its vectors are in the cache."""
    told = [0]

    def progress(done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > told[0]:
            told[0] = tenth
            say(f"text encoder: {done:,} of {total:,} items")

    return progress


def stores_of(world: World, users_per_client: int) -> dict[str, ClientStore]:
    """The users dealt out to clients in their order; clients are numbered from 1."""
    users, stores = world.dataset.users, {}
    for number, start in enumerate(range(0, len(users), users_per_client), 1):
        part = slice(start, start + users_per_client)
        stores[str(number)] = ClientStore(str(number), users[part], world.histories[part])
    return stores


def oracle(
    world: World,
    spec: EncoderSpec,
    parameters: Floats,
    prior: Floats,
    policy: RecallPolicy,
    rules: ItemRules,
    rngs: Sequence[np.random.Generator],
    *,
    on: str,
    at_least: int | None = None,
    activity: tuple[int, int] = (0, 0),
    reads: str | None = None,
) -> dict[str, float]:
    """Exact metrics over all users.

    Args:
        world: all behaviour.
        spec, parameters, prior: the model.
        policy: how lists are made.
        rules: what is barred.
        rngs: one per user, for exploration.
        on: "valid" (train masked) or "test" (train and validation masked).
        at_least: exposures that effective coverage asks for; None = the final metrics instead: tail share, novelty and
            intra-list diversity.
        activity: thresholds of the activity groups; (0, 0) = not known, so no group has a number.
        reads: what the encoder reads, "train" or "all", where that is not all that is masked.
    """
    bucket = bucket_of(world.catalogue.ids, spec.buckets)
    visible = "train" if on == "valid" else "all"
    groups = dict(world.catalogue.groups)
    barred = masks(rules, world.catalogue.ids, [None] * len(world.histories))
    sums = RankingSums.empty(len(bucket), recall_k=policy.k, ndcg_k=NDCG_K)
    ndcg: dict[str, list[float]] = {group: [] for group in ACTIVITY}
    start, diversity = 0, 0.0
    for ranked in lists(
        spec, parameters, groups, bucket, prior, policy, world.histories, rngs, barred, visible=visible, reads=reads
    ):
        relevant = np.zeros((len(ranked), len(bucket)), bool)
        for row in range(len(ranked)):
            relevant[row, _wanted(world, start + row, on)] = True
            relevant[row] &= ~barred[start + row]
        for row, value in enumerate(ndcg_at(ranked, relevant, NDCG_K)):
            if relevant[row].any():
                ndcg[activity_group(visible_length(world.histories[start + row]), activity)].append(value)
        start += len(ranked)
        sums = sums.merge(RankingSums.of(ranked, relevant, recall_k=policy.k, ndcg_k=NDCG_K))
        diversity += float(ild(ranked[relevant.any(axis=1)][:, : policy.k], groups["text"]).sum())
    out = sums.reduce() | (_gap(ndcg) if activity[0] else {})
    if at_least is not None:
        out[f"effective_coverage@{policy.k}"] = effective_coverage(sums.exposure, at_least)
        return out
    seen = [history.item[~history.held_out] if on == "valid" else history.item for history in world.histories]
    popularity = np.bincount(np.concatenate(seen), minlength=len(bucket))
    out[f"tail_share@{policy.k}"] = tail_share(sums.exposure, popularity)
    out[f"novelty@{policy.k}"] = novelty(sums.exposure, popularity, len(world.histories))
    out[f"ild@{policy.k}"] = diversity / max(sums.users, 1)
    return out


def _gap(ndcg: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean ndcg of each activity group that has anybody, and the gap between them if all three have."""
    means = {f"ndcg@{NDCG_K}:{group}": float(np.mean(values)) for group, values in ndcg.items() if values}
    gap = max(means.values(), default=0.0) - min(means.values(), default=0.0)
    return {**means, f"gap@{NDCG_K}": gap} if len(means) == len(ndcg) else means


def _wanted(world: World, user: int, on: str) -> NDArray[np.int32]:
    if on == "test":
        return world.test[user]
    history = world.histories[user]
    return history.item[history.held_out]


def _histories(dataset: Dataset, rows: NDArray[np.bool_], held_out: NDArray[np.bool_]) -> list[History]:
    """The chosen rows of every user, oldest first (ties in file order)."""
    chosen = np.flatnonzero(rows)
    order = chosen[np.lexsort((dataset.time[chosen], dataset.user[chosen]))]
    ends = np.cumsum(np.bincount(dataset.user[order], minlength=len(dataset.users)))[:-1]
    return [
        History(
            item=dataset.item[part],
            kind=dataset.kind[part],
            count=dataset.count[part],
            dwell=dataset.dwell[part],
            rating=dataset.rating[part],
            time=dataset.time[part],
            held_out=held_out[part],
        )
        for part in np.split(order, ends)
    ]
