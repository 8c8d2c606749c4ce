"""Generated behaviour of any size, for what depends on size alone: a thousand users or a million, and so for items.

Items have a topic and a quality (a *shelf*), a text from a grammar that names both, and Zipf popularity (G. K. Zipf,
1949). A user likes three shelves, and now and then takes anything. So popularity, identity and text each carry some
signal. No person is behind it, and numbers on it say nothing about real people.

It is made in parts of ``PART`` users, each by a generator of its own: memory holds one part, and a user's behaviour
does not depend on how many others there are, but for those of the last part.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.history import DAY, KINDS
from shared.kept import code_of, key_of
from simulations.datasets.archive import TEST, TRAIN, VALID, Archive, Rows, write_archive
from simulations.datasets.dataset import COLUMNS, Dataset, Items, Protocol, Split
from simulations.datasets.split import split_dataset
from simulations.datasets.synthetic import LICENCE, TOPICS
from simulations.download import Say
from simulations.numbered import names
from simulations.seeding import generator

PART: Final = 10_000  # users
_CODE: Final = (
    __name__,
    "client.store",
    "shared.history",
    "simulations.datasets.archive",
    "simulations.datasets.dataset",
    "simulations.datasets.split",
    "simulations.datasets.synthetic",
    "simulations.numbered",
    "simulations.seeding",
)
_EXPONENT: Final = 0.9
_LIKED: Final = 3  # shelves a user likes
_ANYTHING: Final = 0.15  # share of what is taken from the whole catalogue
_START, _DAYS = 1_700_000_000.0, 180
_SIZES: Final = ("small", "large", "tiny", "huge", "narrow", "wide", "short", "tall")
_COLOURS: Final = ("red", "blue", "green", "yellow", "black", "white", "grey", "brown", "orange", "purple")
_SHELVES: Final = tuple((topic, quality) for topic, (_, qualities, _) in TOPICS.items() for quality in qualities)


@dataclass(frozen=True)
class Sizes:
    """What the data are made from; all public.

    Attributes:
        users, items: how many.
        rows: a user's on average, at least 2; the shortest history has about half as many.
        seed: of all chance.
        split: protocol that says what is held out.
    """

    users: int
    items: int
    rows: int
    seed: int
    split: Protocol


def zipf_items(sizes: Sizes) -> Items:
    """The item table. Items of one wording share one text object, however many there are."""
    chance = generator(sizes.seed, "zipf items")
    shelf = _shelf_of(sizes)
    wording = np.stack([chance.integers(0, count, sizes.items) for count in (4, 2, len(_SIZES), len(_COLOURS))], axis=1)
    codes, place = np.unique(np.column_stack([shelf, wording]), axis=0, return_inverse=True)
    texts = [_text(*map(int, code)) for code in codes]
    categories = [(_SHELVES[code[0]][0],) for code in codes]
    place = place.reshape(-1)
    heads = [text.partition(", ")[0].capitalize() for text in texts]
    return Items(
        ids=_ids(sizes),
        titles=tuple(f"{heads[code]} no. {number}" for number, code in enumerate(place, 1)),
        texts=tuple(texts[code] for code in place),
        categories=tuple(categories[code] for code in place),
    )


def zipf_archive(sizes: Sizes, cache: Path, say: Say) -> Archive:
    """The behaviour, generated once and kept in the cache, in place of what older code made of the same sizes.

    Processes that want the same file wait for the first of them.

    Raises:
        DataError: the kept file is broken, or none can be written.
    """
    name = f"u{sizes.users}-i{sizes.items}-r{sizes.rows}-s{sizes.seed}-{sizes.split}"
    path = cache / "zipf" / f"{name}-{key_of(code_of(*_CODE))[:16]}.arrow"
    if not path.exists():
        say(f"generating {sizes.users:,} users and {sizes.items:,} items, once; kept in {path.parent}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_name(f".{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    write_archive(path, _parts(sizes))
                    for older in set(path.parent.glob(f"{name}-*.arrow")) - {path}:
                        older.unlink()
        except OSError as error:
            raise DataError(
                f"{path.parent}: cannot be written ({error.strerror}); make room, or set FEDRECALL_CACHE"
            ) from error
    return Archive(path)


def sampled(archive: Archive, items: Items, users: NDArray[np.int64], protocol: Protocol) -> tuple[Dataset, Split]:
    """Some users of an archive in memory, in the order given."""
    rows = [archive.rows(int(user)) for user in users]
    columns = {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}
    part = columns.pop("part")
    owner = np.repeat(np.arange(len(users), dtype=np.int32), [len(one["item"]) for one in rows])
    dataset = _dataset(items, tuple(str(user + 1) for user in users), {**columns, "user": owner})
    return dataset, Split(protocol, train=part == TRAIN, valid=part == VALID, test=part == TEST)


def _dataset(items: Items, users: tuple[str, ...], rows: Rows) -> Dataset:
    columns: dict[str, Any] = {field: rows[field] for field in ("user", *COLUMNS)}
    return Dataset(name="zipf", licence=LICENCE, public=True, items=items, users=users, **columns)


def _parts(sizes: Sizes) -> Iterator[tuple[NDArray[np.int64], Rows]]:
    edges, order, reach = _popularity(sizes)
    # Splitting asks for ids alone.
    table = Items(_ids(sizes), (), (), ())
    for start in range(0, sizes.users, PART):
        count = min(PART, sizes.users - start)
        rows = _rows(count, sizes.rows, edges, order, reach, generator(sizes.seed, "zipf part", start // PART))
        users = names(sizes.users)[start : start + count]
        split = split_dataset(_dataset(table, users, rows), sizes.split)
        part = np.where(split.valid, VALID, np.where(split.test, TEST, TRAIN)).astype(np.int8)
        yield np.searchsorted(rows["user"], np.arange(count + 1)), {**rows, "part": part}


def _ids(sizes: Sizes) -> tuple[str, ...]:
    return tuple(f"item-{number}" for number in range(1, sizes.items + 1))


def _shelf_of(sizes: Sizes) -> NDArray[np.int64]:
    """(items,) every shelf has about as many."""
    return generator(sizes.seed, "zipf shelves").permutation(np.arange(sizes.items) % len(_SHELVES))


def _popularity(sizes: Sizes) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Cumulative Zipf mass over items sorted by shelf, the items in that order, and where each shelf's mass begins."""
    shelf = _shelf_of(sizes)
    rank = generator(sizes.seed, "zipf ranks").permutation(sizes.items)
    order = np.argsort(shelf, kind="stable")
    edges = np.cumsum((1.0 + rank[order]) ** -_EXPONENT)
    ends = np.searchsorted(shelf[order], np.arange(len(_SHELVES) + 1))
    return edges, order, np.concatenate([[0.0], edges])[ends]


def _rows(
    users: int,
    mean: int,
    edges: NDArray[np.float64],
    order: NDArray[np.int64],
    reach: NDArray[np.float64],
    chance: np.random.Generator,
) -> dict[str, NDArray[np.generic]]:
    """The rows of some users, by user and then by time; items of one user are all different."""
    shortest, most = (mean + 1) // 2, max(1, min(10 * mean, len(order) // 3))
    lengths = np.minimum(shortest - 1 + chance.geometric(1.0 / (mean - shortest + 1), users), most)
    user = np.repeat(np.arange(users, dtype=np.int32), 2 * lengths)  # twice: what is drawn again falls out
    shelves = chance.integers(0, len(_SHELVES), (users, _LIKED))
    shelf = shelves[user, chance.integers(0, _LIKED, len(user))]
    low, high = reach[shelf], reach[shelf + 1]
    anything = chance.random(len(user)) < _ANYTHING
    low[anything], high[anything] = 0.0, edges[-1]
    drawn = np.searchsorted(edges, low + chance.random(len(user)) * (high - low), side="right")
    item = order[np.minimum(drawn, len(order) - 1)]
    _, first = np.unique(user.astype(np.int64) * len(order) + item, return_index=True)
    first.sort()
    user, item = user[first], item[first]
    begins = np.searchsorted(user, np.arange(users))
    kept = np.arange(len(user)) - begins[user] < lengths[user]
    user, item = user[kept], item[kept].astype(np.int32)
    time = _START + np.floor(chance.random(len(user)) * _DAYS * DAY)
    by_time = np.lexsort((time, user))
    return {"user": user, "item": item[by_time], "time": time[by_time], **_behaviour(len(user), chance)}


def _behaviour(rows: int, chance: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    """What was done: mostly views, and a little of everything else."""
    share = {"view": 0.45, "purchase": 0.2, "rating": 0.15, "dwell": 0.15, "not_interested": 0.05}
    kind = chance.choice(len(KINDS), rows, p=[share[name] for name in KINDS]).astype(np.int8)
    some = chance.random(rows).astype(np.float32)
    return {
        "kind": kind,
        "count": np.ones(rows, np.float32),
        "dwell": np.where(kind == KINDS.index("dwell"), some, np.float32(0.0)),
        "rating": np.where(kind == KINDS.index("rating"), np.rint(4 * some) / 4, np.float32("nan")).astype(np.float32),
    }


def _text(shelf: int, thing: int, activity: int, size: int, colour: int) -> str:
    topic, quality = _SHELVES[shelf]
    objects, _, activities = TOPICS[topic]
    return f"{_SIZES[size]} {_COLOURS[colour]} {quality} {objects[thing]}, for {activities[activity]}, {topic}"
