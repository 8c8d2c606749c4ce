"""Synthetic behaviour, generated from a seed: no person is behind it, so that it may be printed, shipped and attacked.

A latent-topic model with Zipf popularity (G. K. Zipf, 1949): an item has one topic, a popularity and a title from a
small grammar whose words depend on the topic; a user has a mix of two topics. An item is drawn with probability
proportional to its popularity times the user's weight of its topic. So text, identity and popularity each carry some
signal, as in real data. Results on it say nothing about real people, and the name says so wherever they are shown.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.history import DAY, KINDS
from simulations.datasets.dataset import Dataset, Items
from simulations.datasets.events import Events, dataset_from_events

USERS: Final = 600
ITEMS: Final = 400
LICENCE: Final = "Synthetic data from a seed: no real people, no licence; numbers on it say nothing about real data."
_ZIPF_EXPONENT: Final = 0.8
_TOPIC_FLOOR: Final = 0.03
_START: Final = 1_700_000_000.0
_DAYS: Final = 180.0
# The words of each topic: objects, then qualities, then activities.
TOPICS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "garden": (
        ("watering can", "herb planter", "trellis", "seed tray"),
        ("terracotta", "galvanised", "cedar"),
        ("planting", "pruning"),
    ),
    "kitchen": (
        ("saucepan", "cake tin", "chopping board", "teapot"),
        ("enamel", "cast iron", "bamboo"),
        ("baking", "brewing"),
    ),
    "running": (
        ("trail shoes", "hydration vest", "running cap", "shorts"),
        ("lightweight", "breathable", "reflective"),
        ("racing", "jogging"),
    ),
    "music": (
        ("guitar strings", "metronome", "drum pad", "songbook"),
        ("acoustic", "bluegrass", "jazz"),
        ("practising", "composing"),
    ),
    "camping": (
        ("tent", "sleeping bag", "camp stove", "headlamp"),
        ("waterproof", "ultralight", "alpine"),
        ("hiking", "bivouacking"),
    ),
    "crafts": (
        ("yarn", "embroidery hoop", "sewing kit", "felt sheets"),
        ("merino", "pastel", "vintage"),
        ("knitting", "quilting"),
    ),
    "science": (
        ("microscope", "circuit kit", "star chart", "crystal set"),
        ("digital", "classroom", "optical"),
        ("measuring", "observing"),
    ),
    "cinema": (
        ("film poster", "projector", "screenplay", "popcorn bowl"),
        ("noir", "silent", "technicolor"),
        ("screening", "collecting"),
    ),
}


def synthetic_dataset(seed: int, *, users: int = USERS, items: int = ITEMS) -> Dataset:
    """The same data for the same arguments.

    Args:
        seed: of the generator.
        users: how many users, at least 1; about a quarter of them have a long history, some only one event.
        items: how many items, at least the number of topics.
    """
    generator = np.random.default_rng([seed, users, items])
    topic = np.arange(items) % len(TOPICS)
    popularity = generator.permutation((1.0 + np.arange(items)) ** -_ZIPF_EXPONENT)
    tastes = _tastes(users, generator)
    events = _events(tastes, topic, popularity, generator)
    return dataset_from_events(
        events,
        name="synthetic",
        licence=LICENCE,
        public=True,
        items=_items(topic, generator),
        users=[f"synthetic-{i:04d}" for i in range(users)],
        notes=(f"synthetic data from seed {seed}: no real people",),
    )


def _tastes(users: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """(users, topics): one main and one side topic each, and a little of the rest."""
    tastes = np.full((users, len(TOPICS)), _TOPIC_FLOOR)
    main = generator.integers(len(TOPICS), size=users)
    side = (main + generator.integers(1, len(TOPICS), size=users)) % len(TOPICS)
    tastes[np.arange(users), main] += 0.7
    tastes[np.arange(users), side] += 0.3
    return tastes


def _items(topic: NDArray[np.int64], generator: np.random.Generator) -> Items:
    names = tuple(TOPICS)
    titles, texts = [], []
    for item, number in enumerate(topic):
        objects, qualities, activities = TOPICS[names[number]]
        quality, activity = generator.choice(qualities), generator.choice(activities)
        title = f"{quality} {generator.choice(objects)} no. {item + 1}".capitalize()
        titles.append(title)
        texts.append(f"{title}, for {activity}, {names[number]}")
    ids = tuple(f"item-{i:04d}" for i in range(len(topic)))
    return Items(ids, tuple(titles), tuple(texts), tuple((names[number],) for number in topic))


def _events(
    tastes: NDArray[np.float64],
    topic: NDArray[np.int64],
    popularity: NDArray[np.float64],
    generator: np.random.Generator,
) -> Events:
    users, items = len(tastes), len(topic)
    lengths = np.minimum(1 + generator.geometric(1 / 40.0, size=users) + 5 * generator.poisson(1.0, size=users), items)
    lengths[generator.random(users) < 0.02] = 1
    user = np.repeat(np.arange(users, dtype=np.int32), lengths)
    chance = popularity * tastes[:, topic]
    chance /= chance.sum(axis=1, keepdims=True)
    item = np.concatenate([generator.choice(items, size=n, p=chance[u]) for u, n in enumerate(lengths)]).astype(
        np.int32
    )
    liking = np.clip(tastes[user, topic[item]] / tastes.max() + generator.normal(0.0, 0.25, len(user)), 0.0, 1.0)
    kind = _kinds(liking, generator)
    dwell = np.where(kind == KINDS.index("dwell"), np.clip(0.2 + 0.8 * liking, 0.0, 1.0), 0.0)
    rating = np.where(kind == KINDS.index("rating"), np.round(4 * liking) / 4, np.nan)
    time = _START + np.floor(generator.random(len(user)) * _DAYS * DAY)
    order = np.argsort(time, kind="stable")
    return Events(
        user=user[order],
        item=item[order],
        kind=kind[order],
        count=np.ones(len(user), np.float32),
        dwell=dwell[order].astype(np.float32),
        rating=rating[order].astype(np.float32),
        time=time[order],
    )


def _kinds(liking: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int8]:
    """Liked items are bought and rated, others looked at; little liking sometimes ends in "not interested"."""
    draw = generator.random(len(liking))
    kind = np.full(len(liking), KINDS.index("view"))
    kind[draw < 0.25 + 0.35 * liking] = KINDS.index("dwell")
    kind[draw < 0.10 + 0.30 * liking] = KINDS.index("rating")
    kind[draw < 0.25 * liking] = KINDS.index("purchase")
    kind[(liking < 0.15) & (draw > 0.85)] = KINDS.index("not_interested")
    return kind.astype(np.int8)
