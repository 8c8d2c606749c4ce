"""From many events to one row per (user, item) pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.history import KINDS, NOT_INTERESTED
from simulations.datasets.dataset import Dataset, Items

# purchase > rating > dwell > view; "not interested" only counts as the latest word on an item.
_STRENGTH: Final = np.array(
    [{"view": 1, "dwell": 2, "rating": 3, "purchase": 4}.get(kind, 0) for kind in KINDS], np.int64
)


@dataclass(frozen=True)
class Events:
    """Raw events in file order; all arrays are (n_events,) with the meaning and range they have in ``Dataset``."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    kind: NDArray[np.int8]
    count: NDArray[np.float32]
    dwell: NDArray[np.float32]
    rating: NDArray[np.float32]
    time: NDArray[np.float64]


def aggregate(events: Events, n_items: int) -> Events:
    """One row per pair, in order of the pair's first row in the file.

    Kind: the strongest (purchase, rating, dwell, view), or "not interested" where that is the latest. Count: the sum.
    Dwell: the longest. Rating: the latest. Time: the first. "Latest" is by time, then by file order.
    """
    key = events.user.astype(np.int64) * max(n_items, 1) + events.item
    _, first, pair = np.unique(key, return_index=True, return_inverse=True)
    in_file_order = np.argsort(first, kind="stable")
    place = np.empty(len(first), np.int64)
    place[in_file_order] = np.arange(len(first))
    pair = place[pair]
    n = len(first)

    count = np.bincount(pair, events.count, n).astype(np.float32)
    dwell = np.zeros(n, np.float32)
    np.maximum.at(dwell, pair, events.dwell)
    time = np.full(n, np.inf)
    np.minimum.at(time, pair, events.time)

    # Later assignments win in numpy's fancy indexing, so the last event by (time, file order) stays.
    by_time = np.argsort(events.time, kind="stable")
    latest = np.empty(n, np.int64)
    latest[pair[by_time]] = by_time
    rated = by_time[~np.isnan(events.rating[by_time])]
    rating = np.full(n, np.nan, np.float32)
    rating[pair[rated]] = events.rating[rated]

    strength = np.zeros(n, np.int64)
    np.maximum.at(strength, pair, _STRENGTH[events.kind])
    by_strength = np.argsort(_STRENGTH).astype(np.int8)
    kind = np.where(events.kind[latest] == NOT_INTERESTED, np.int8(NOT_INTERESTED), by_strength[strength])
    rows = first[in_file_order]
    return Events(events.user[rows], events.item[rows], kind.astype(np.int8), count, dwell, rating, time)


def repeats_note(events: int, pairs: int) -> tuple[str, ...]:
    """The sentence about repeated pairs, or none."""
    if events == pairs:
        return ()
    return (
        f"{events - pairs:,} of {events:,} events repeat a (user, item) pair: counts added up, {pairs:,} rows remain",
    )


def dataset_from_events(
    events: Events,
    *,
    name: str,
    licence: str,
    public: bool,
    items: Items,
    users: Sequence[str],
    notes: Sequence[str] = (),
) -> Dataset:
    """Aggregate and label; ``events.user`` and ``events.item`` index ``users`` and ``items``."""
    rows = aggregate(events, len(items))
    return Dataset(
        name=name,
        licence=licence,
        public=public,
        items=items,
        users=tuple(users),
        user=rows.user,
        item=rows.item,
        kind=rows.kind,
        count=rows.count,
        dwell=rows.dwell,
        rating=rows.rating,
        time=rows.time,
        notes=(*notes, *repeats_note(len(events.user), len(rows.user))),
    )
