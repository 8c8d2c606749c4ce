"""Behaviour as every preset hands it on: one row per (user, item) pair, plus the public item table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from client.store import COLUMNS as STORED

Protocol = Literal["rs", "ts", "loo"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("rs", "ts", "loo")
# Of the rows of a user; what is held out is a split's to say.
COLUMNS: Final[Mapping[str, type]] = {name: kind for name, kind in STORED.items() if name != "held_out"}


@dataclass(frozen=True)
class Items:
    """The public item table; the position in ``ids`` is the dense item index.

    Attributes:
        ids: raw item ids, all different.
        titles: what a person reads.
        texts: what a text encoder reads.
        categories: the categories of each item, possibly none.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Dataset:
    """What users did, one row per (user, item) pair, rows in file order of a pair's first event.

    Attributes:
        name: preset name or folder name.
        licence: what a person must know before using the data, one or two sentences.
        public: whether examples of real people may be printed.
        items: the item table.
        users: raw user ids; the position is the dense user index.
        user: (rows,) int32, dense user index.
        item: (rows,) int32, dense item index.
        kind: (rows,) int8, index into ``shared.history.KINDS``.
        count: (rows,) float32, number of events.
        dwell: (rows,) float32 in 0..1, 0 where there is none.
        rating: (rows,) float32 in 0..1, NaN where there is none.
        time: (rows,) float64, unix seconds of the first event.
        notes: what was changed or assumed while reading, a sentence each, for a person.
    """

    name: str
    licence: str
    public: bool
    items: Items
    users: tuple[str, ...]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    kind: NDArray[np.int8]
    count: NDArray[np.float32]
    dwell: NDArray[np.float32]
    rating: NDArray[np.float32]
    time: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Split:
    """Which rows train, validate and test: three masks of shape (rows,), exactly one of them true per row."""

    protocol: Protocol
    train: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    test: NDArray[np.bool_]
