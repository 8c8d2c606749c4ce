"""What a simulation knows and nobody else does: all behaviour at once, what clients hold and the final test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.measuring import lists, visible_length
from client.store import ClientStore
from server.features import build_catalogue
from shared.catalogue import Catalogue
from shared.device import processor
from shared.encoder.spec import EncoderSpec, Floats, bucket_of
from shared.errors import ConfigError
from shared.history import NOT_INTERESTED, History
from shared.policy.recall_policy import RecallPolicy
from shared.recall.item_rules import ItemRules, masks
from shared.recall.metrics import RankingSums, effective_coverage, ild, ndcg_at, novelty, tail_share
from shared.recall.report import ACTIVITY, NDCG_K, activity_group
from simulations.config import SimulationConfig
from simulations.datasets.dataset import Dataset, Items, Split
from simulations.datasets.load import ZIPF, load_dataset
from simulations.datasets.split import split_dataset
from simulations.datasets.zipf import Sizes, sampled, zipf_archive, zipf_items
from simulations.download import Say
from simulations.fetch import fetch_encoder
from simulations.numbered import Lazily, Numbered, names
from simulations.seeding import generator

FITTED: Final = 20_000  # users of generated data that yardsticks are fitted to, beside those who are asked


@dataclass(frozen=True)
class World:
    """A simulation's data.

    Attributes:
        dataset, split: as read; of data that are made to any size, those who are asked and ``FITTED`` others, to whom
            yardsticks are fitted. Then ``dataset.users`` are some of ``users``, in another order.
        catalogue: public.
        users: names of all users.
        histories: one per user: train and validation rows, oldest first; all that clients ever get. Made when asked for
            where there are many.
        test: per user, item indices of the final test; likewise.
        asked: (n,) rising indices of the users whom the oracle and the final test ask: all, or a sample of them.
        stored: bytes of the file that histories are read from; 0 = they are in memory.
    """

    dataset: Dataset
    split: Split
    catalogue: Catalogue
    users: Sequence[str]
    histories: Sequence[History]
    test: Sequence[NDArray[np.int32]]
    asked: NDArray[np.int64]
    stored: int = 0

    @property
    def asked_names(self) -> list[str]:
        """Names of the users who are asked."""
        return [self.users[user] for user in self.asked]


def load_world(config: SimulationConfig, cache: Path, source: Path | None, say: Say) -> World:
    """Read, split and embed; downloads what is missing.

    Raises:
        FedrecallError: with one sentence: what is wrong with the data, the download or the configuration.
    """
    if config.device == "cuda":
        processor(config.device)  # said before anything is read; "auto" is settled when something computes
    seed = 0 if config.seed == "none" else config.seed
    if config.data.name == ZIPF:
        return _generated(config, cache, seed, say)
    dataset = load_dataset(
        config.data.name, cache=cache, source=source, columns=config.data.columns or None, seed=seed, say=say
    )
    for note in dataset.notes:
        say(note)
    split, users = split_dataset(dataset, config.data.split), dataset.users
    asked = asked_of(config, len(users), seed)
    _check(config, dataset, split, asked)
    catalogue = _catalogue(config, dataset.items, cache, say)
    histories = tuple(_histories(dataset, ~split.test, split.valid))
    test = tuple(h.item for h in _histories(dataset, split.test & (dataset.kind != NOT_INTERESTED), split.valid))
    return World(dataset, split, catalogue, users, histories, test, asked)


def _generated(config: SimulationConfig, cache: Path, seed: int, say: Say) -> World:
    """A world of any size: with the number of users nothing grows but the file that holds them."""
    data = config.data
    sizes = Sizes(data.users, data.items, data.rows, seed, data.split)
    items, archive = zipf_items(sizes), zipf_archive(sizes, cache, say)
    asked = asked_of(config, data.users, seed)
    others = np.setdiff1d(np.arange(min(data.users, FITTED)), asked)  # any will do: they are all drawn alike
    chosen = np.concatenate([asked, others])
    dataset, split = sampled(archive, items, chosen, data.split)
    _check(config, dataset, split, np.arange(len(asked)))
    return World(
        dataset,
        split,
        _catalogue(config, items, cache, say),
        names(data.users),
        Lazily(data.users, archive.history),
        Lazily(data.users, archive.test),
        asked,
        archive.size,
    )


def _check(config: SimulationConfig, dataset: Dataset, split: Split, asked: NDArray[np.int64]) -> None:
    """Refuse to measure nothing, before texts are read. ``asked`` are indices of users of the data set."""
    among = np.isin(dataset.user, asked)
    if not (split.test & among).any() or not (split.valid & among).any():
        who = "nobody" if config.evaluation.users == "all" else f"none of the {len(asked):,} users asked"
        raise ConfigError(
            f"data {config.data.name!r}: {who} has enough history for split {config.data.split!r}: test and validation "
            "items are held out"
        )


def asked_of(config: SimulationConfig, users: int, seed: int) -> NDArray[np.int64]:
    """(n,) rising indices of the users whom the oracle and the final test ask: all, or a seeded sample."""
    wanted = config.evaluation.users
    if wanted == "all" or wanted >= users:
        return np.arange(users)
    return np.sort(generator(seed, "asked").choice(users, wanted, replace=False))


def _catalogue(config: SimulationConfig, items: Items, cache: Path, say: Say) -> Catalogue:
    model = config.model.text_encoder
    folder = model if model == "none" else fetch_encoder(model, cache, say)
    return build_catalogue(
        items.ids,
        items.titles,
        items.texts,
        items.categories,
        model=folder,
        adaptation=config.model.adaptation,
        vectors=config.model.vectors,
        device=config.device,
        cache=cache,
        progress=_tenths(say),
    )


def _tenths(say: Say) -> Callable[[int, int], None]:
    """Says how far the text encoder is, ten times at most; nothing when its vectors are in the cache."""
    told = [0]

    def progress(done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > told[0]:
            told[0] = tenth
            say(f"text encoder: {done:,} of {total:,} items")

    return progress


def stores_of(world: World, users_per_client: int) -> Mapping[str, ClientStore]:
    """The users dealt out to clients in their order; clients are numbered from 1, and made when asked for."""

    def store(number: int) -> ClientStore:
        part = slice((number - 1) * users_per_client, number * users_per_client)
        return ClientStore(str(number), tuple(world.users[part]), tuple(world.histories[part]))

    return Numbered(-(-len(world.users) // users_per_client), store)


def judged(world: World) -> Split:
    """The split of ``world.dataset`` with validation and test rows of those alone who are asked."""
    asked = set(world.asked_names)
    among = np.array([name in asked for name in world.dataset.users], np.bool_)[world.dataset.user]
    return replace(world.split, valid=world.split.valid & among, test=world.split.test & among)


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
    """Exact metrics over the users who are asked (``world.asked``).

    Args:
        world: all behaviour.
        spec, parameters, prior: the model.
        policy: how lists are made.
        rules: what is barred.
        rngs: one per user asked, for exploration.
        on: "valid" (train masked) or "test" (train and validation masked).
        at_least: exposures that effective coverage asks for; None = the final metrics instead: tail share, novelty and
            intra-list diversity.
        activity: thresholds of the activity groups; (0, 0) = not known, so no group has a number.
        reads: what the encoder reads, "train" or "all", where that is not all that is masked.
    """
    bucket = bucket_of(world.catalogue.ids, spec.buckets)
    visible = "train" if on == "valid" else "all"
    groups = dict(world.catalogue.groups)
    histories = [world.histories[user] for user in world.asked]
    barred = masks(rules, world.catalogue.ids, [None] * len(histories))
    sums = RankingSums.empty(len(bucket), recall_k=policy.k, ndcg_k=NDCG_K)
    ndcg: dict[str, list[float]] = {group: [] for group in ACTIVITY}
    start, diversity = 0, 0.0
    for ranked in lists(
        spec, parameters, groups, bucket, prior, policy, histories, rngs, barred, visible=visible, reads=reads
    ):
        relevant = np.zeros((len(ranked), len(bucket)), bool)
        for row in range(len(ranked)):
            relevant[row, _wanted(world, int(world.asked[start + row]), on)] = True
            relevant[row] &= ~barred[start + row]
        for row, value in enumerate(ndcg_at(ranked, relevant, NDCG_K)):
            if relevant[row].any():
                ndcg[activity_group(visible_length(histories[start + row]), activity)].append(value)
        start += len(ranked)
        sums = sums.merge(RankingSums.of(ranked, relevant, recall_k=policy.k, ndcg_k=NDCG_K))
        diversity += float(ild(ranked[relevant.any(axis=1)][:, : policy.k], groups["text"]).sum())
    out = sums.reduce() | (_gap(ndcg) if activity[0] else {})
    if at_least is not None:
        out[f"effective_coverage@{policy.k}"] = effective_coverage(sums.exposure, at_least)
        return out
    known = world.split.train if on == "valid" else ~world.split.test
    popularity = np.bincount(world.dataset.item[known], minlength=len(bucket))  # among everybody, whoever is asked
    out[f"tail_share@{policy.k}"] = tail_share(sums.exposure, popularity)
    out[f"novelty@{policy.k}"] = novelty(sums.exposure, popularity, len(world.dataset.users))
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
