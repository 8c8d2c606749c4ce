"""What one person did, as a device keeps it: by the item's own id, so that it outlives every catalogue.

A list of many events is held as columns; :func:`history_of` turns it into what an encoder reads, for one catalogue.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.history import KINDS, NOT_INTERESTED, History

LONGEST_ID: Final = 200  # characters of an item's id, as shared/publication.py has it
LATEST: Final = 1e11  # unix seconds, in the year 5138; in milliseconds it is 1973
FEWEST_LIKED: Final = 10  # liked items from which on some are held out
HELD_OUT: Final = 10  # one in so many
STRENGTH: Final = ("not_interested", "view", "dwell", "rating", "purchase")  # a later one says more than an earlier
_STRENGTH: Final = np.array([STRENGTH.index(kind) for kind in KINDS])
_BY_STRENGTH: Final = np.argsort(_STRENGTH).astype(np.int8)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One thing that the person did.

    Attributes:
        item: the item's own id, 1 to 200 characters.
        kind: one of ``KINDS``.
        time: unix seconds, 0 to ``LATEST``.
        dwell: 0..1, 0 where unknown.
        rating: 0..1, NaN where there is none.

    Raises:
        DataError: names the value and its range.
    """

    item: str
    kind: str
    time: float
    dwell: float = 0.0
    rating: float = math.nan

    def __post_init__(self) -> None:
        if not (isinstance(self.item, str) and is_id(self.item)):
            raise DataError(f"event: item {self.item!r:.80}; an id is a text of 1 to {LONGEST_ID} printable characters")
        if not 0 <= self.time < LATEST:
            raise DataError(f"event: time {self.time}; expected unix seconds, 0 to {LATEST:.0e}, no milliseconds")
        check_said(self.kind, self.dwell, self.rating)


@dataclass(frozen=True, eq=False)
class Events(Sequence[Behaviour]):
    """Many events, 29 bytes each and their items' ids; reads like a list of :class:`Behaviour`.

    Attributes:
        ids: item ids, all different; some may belong to no event.
        item: (n,) int32, index into ``ids``.
        kind: (n,) int8, index into ``KINDS``.
        time: (n,) float64, unix seconds.
        dwell: (n,) float64 in 0..1.
        rating: (n,) float64 in 0..1, NaN where there is none.
    """

    ids: tuple[str, ...]
    item: NDArray[np.int32]
    kind: NDArray[np.int8]
    time: NDArray[np.float64]
    dwell: NDArray[np.float64]
    rating: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.item)

    @overload
    def __getitem__(self, at: int) -> Behaviour: ...
    @overload
    def __getitem__(self, at: slice) -> Events: ...
    def __getitem__(self, at: int | slice) -> Behaviour | Events:
        if isinstance(at, slice):
            return self.taken(at)
        return Behaviour(
            self.ids[self.item[at]],
            KINDS[self.kind[at]],
            float(self.time[at]),
            float(self.dwell[at]),
            float(self.rating[at]),
        )

    def __iter__(self) -> Iterator[Behaviour]:
        return (self[at] for at in range(len(self)))

    def taken(self, rows: NDArray[Any] | slice) -> Events:
        """Some of the events, in the order of ``rows``: a mask, indices, or a slice."""
        return Events(self.ids, self.item[rows], self.kind[rows], self.time[rows], self.dwell[rows], self.rating[rows])


def events_of(events: Iterable[Behaviour]) -> Events:
    """Columns of a list of events, in its order."""
    if isinstance(events, Events):
        return events
    numbers: dict[str, int] = {}
    item, kind, time, dwell, rating = array("i"), array("b"), array("d"), array("d"), array("d")  # 29 bytes an event
    for one in events:
        item.append(numbers.setdefault(one.item, len(numbers)))
        kind.append(KINDS.index(one.kind))
        time.append(one.time)
        dwell.append(one.dwell)
        rating.append(one.rating)
    return Events(
        tuple(numbers),
        np.array(item, np.int32),
        np.array(kind, np.int8),
        np.array(time, np.float64),
        np.array(dwell, np.float64),
        np.array(rating, np.float64),
    )


def joined(parts: Sequence[Events]) -> Events:
    """One list after another."""
    if not parts:
        return events_of(())
    numbers: dict[str, int] = {}
    item = [
        np.array([numbers.setdefault(one, len(numbers)) for one in part.ids], np.int32)[part.item] for part in parts
    ]
    return Events(
        tuple(numbers),
        np.concatenate(item),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.dwell for part in parts]),
        np.concatenate([part.rating for part in parts]),
    )


def chosen(events: Events, items: Collection[str] | None, before: float | None) -> NDArray[np.bool_]:
    """Which events are meant: of these items (None = of any), and older than this (None = of any time)."""
    wanted = None if items is None else frozenset(items)
    meant = np.array([wanted is None or one in wanted for one in events.ids], np.bool_)[events.item]
    return meant if before is None else meant & (events.time < before)


def oldest_first(events: Events) -> Events:
    """The same events by time; those of one moment in the order in which they came."""
    return events.taken(np.argsort(events.time, kind="stable"))


def history_of(events: Iterable[Behaviour], ids: Sequence[str], secret: bytes) -> History:
    """What the encoder reads: one row an item of the catalogue, oldest first.

    The rows are those that ``client.store.with_event`` gives event by event, oldest event first: the kind is the
    strongest since the item was last turned down, or "not interested" when that is the latest word; counts add up; of
    dwell the longest stays, of ratings the latest, of times the first. From ten liked items on, about one in ten of
    them is held out, chosen by a keyed hash of its id alone: the choice is stable for ever, whatever comes or goes.

    Args:
        events: in any order.
        ids: raw ids of the catalogue's items; events of others are left out.
        secret: this vault's (``Vault.secret``); nobody else can tell what is held out.
    """
    by_time = oldest_first(events_of(events))
    dense = {one: number for number, one in enumerate(ids)}
    item = np.array([dense.get(one, -1) for one in by_time.ids], np.int64)[by_time.item]
    known = by_time.taken(item >= 0)
    item = item[item >= 0]
    if not len(item):
        return _empty()
    order = np.argsort(item, kind="stable")  # runs of one item, each by time
    item = item[order]
    run = known.taken(order)
    starts = np.flatnonzero(np.r_[True, item[1:] != item[:-1]])
    row = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(item)]))
    first = np.argsort(order[starts])
    kind = _kinds(run.kind, row, starts)
    names = [known.ids[one] for one in run.item[starts]]
    return History(
        item=item[starts][first].astype(np.int32),
        kind=kind[first],
        count=np.bincount(row).astype(np.float32)[first],
        dwell=np.maximum.reduceat(run.dwell, starts).astype(np.float32)[first],
        rating=_latest(run.rating, row, len(starts)).astype(np.float32)[first],
        time=run.time[starts][first],
        held_out=_held_out(names, kind != NOT_INTERESTED, secret)[first],
    )


def check_said(kind: str, dwell: float, rating: float) -> None:
    """Check what an event says, whatever its item is called and whatever its clock counts.

    Raises:
        DataError: names the value and its range.
    """
    if kind not in KINDS:
        raise DataError(f"event: kind {kind!r:.80}; choose one of {', '.join(KINDS)}")
    if not 0 <= dwell <= 1:
        raise DataError(f"event: dwell {dwell}; must lie between 0 and 1")
    if not (math.isnan(rating) or 0 <= rating <= 1):
        raise DataError(f"event: rating {rating}; must lie between 0 and 1, or be NaN for none")


def is_id(item: str) -> bool:
    """Whether an event may name an item so."""
    return 1 <= len(item) <= LONGEST_ID and item.isprintable()


def pseudonym(item: str, secret: bytes, purpose: str) -> bytes:
    """32 bytes that stand for an item's id; who lacks the secret learns nothing from them.

    Args:
        item: raw item id.
        secret: 32 bytes.
        purpose: pseudonyms of two purposes cannot be linked.
    """
    return hmac.digest(secret, purpose.encode() + b"\0" + item.encode(), hashlib.sha256)


def _empty() -> History:
    none = np.zeros(0)
    return History(
        none.astype(np.int32),
        none.astype(np.int8),
        none.astype(np.float32),
        none.astype(np.float32),
        none.astype(np.float32),
        none,
        none.astype(np.bool_),
    )


def _kinds(kind: NDArray[np.int8], row: NDArray[np.intp], starts: NDArray[np.intp]) -> NDArray[np.int8]:
    """The strongest kind of each row since it was last turned down."""
    place = np.arange(len(kind))
    turned_down = np.maximum.reduceat(np.where(kind == NOT_INTERESTED, place, -1), starts)
    strength = np.where(place > turned_down[row], _STRENGTH[kind], 0)  # 0 = not interested
    return np.asarray(_BY_STRENGTH[np.maximum.reduceat(strength, starts)])


def _latest(rating: NDArray[np.float64], row: NDArray[np.intp], rows: int) -> NDArray[np.float64]:
    """The last rating of each row that is one."""
    out = np.full(rows, np.nan)
    there = ~np.isnan(rating)
    out[row[there]] = rating[there]  # of several, numpy keeps the last
    return out


def _held_out(names: Sequence[str], liked: NDArray[np.bool_], secret: bytes) -> NDArray[np.bool_]:
    out = np.zeros(len(names), np.bool_)
    if liked.sum() >= FEWEST_LIKED:
        for at in np.flatnonzero(liked).tolist():
            out[at] = int.from_bytes(pseudonym(names[at], secret, "held out")) % HELD_OUT == 0
    return out
