"""Where a client keeps behaviour: the users of one client, their histories and what else the device knows of them.

On disk, one file a client, arrays without pickle; opened by the client's own side only, never by a path from a task.
An event changes a store at once (:func:`add_event`), and so the next list: nothing waits for a round.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.behaviour import STRENGTH, check_said
from shared.errors import DataError
from shared.files import read_arrays, write_arrays
from shared.history import KINDS, History
from shared.recall.item_rules import OLDEST

COLUMNS: Final[Mapping[str, type]] = {
    "item": np.int32,
    "kind": np.int8,
    "count": np.float32,
    "dwell": np.float32,
    "rating": np.float32,
    "time": np.float64,
    "held_out": np.bool_,
}
_UNKNOWN_AGE: Final = -1


@dataclass(frozen=True)
class Event:
    """One thing that a user did, as it arrives.

    Attributes:
        item: dense index into the catalogue.
        kind: one of ``KINDS``.
        time: unix seconds.
        dwell: 0..1, 0 where unknown.
        rating: 0..1, NaN where there is none.

    Raises:
        DataError: names the value and its range.
    """

    item: int
    kind: str
    time: float
    dwell: float = 0.0
    rating: float = math.nan

    def __post_init__(self) -> None:
        if self.item < 0:
            raise DataError(f"event: item {self.item}; items are counted from 0")
        if not math.isfinite(self.time):
            raise DataError(f"event: time {self.time}; expected unix seconds")
        check_said(self.kind, self.dwell, self.rating)


@dataclass(frozen=True)
class ClientStore:
    """One client's behaviour.

    Attributes:
        client: the client's name, as ledgers write it.
        users: names of its 1..n users; private.
        histories: one per user, possibly empty.
        ages: in years, one per user, None where unknown; () = nobody's is known. Private: used by item rules alone.
    """

    client: str
    users: tuple[str, ...]
    histories: tuple[History, ...]
    ages: tuple[int | None, ...] = ()


def ages_of(store: ClientStore) -> Sequence[int | None]:
    """The age of each user."""
    return store.ages or (None,) * len(store.users)


def with_event(history: History, event: Event) -> History:
    """A history after one more event, which counts as the latest whatever its time says.

    One row an item (docs/protocols.md): the kind is the strongest so far, or "not interested" when that is the latest
    word; counts add up, of dwell the longest stays, of ratings the latest, of times the one that came first. An item
    that is turned down is not held out any more: it is nothing that a measurement should look for.
    """
    found = np.flatnonzero(history.item == event.item)
    if len(found):
        return _joined(history, int(found[0]), event)
    row = {
        "item": event.item,
        "kind": KINDS.index(event.kind),
        "count": 1.0,
        "dwell": event.dwell,
        "rating": event.rating,
        "time": event.time,
        "held_out": False,
    }
    place = int(np.searchsorted(history.time, event.time, side="right"))  # oldest first
    columns = {name: np.insert(getattr(history, name), place, value) for name, value in row.items()}
    return History(**columns)


def with_user_event(store: ClientStore, user: str, event: Event) -> ClientStore:
    """A store after an event of one of its users.

    Raises:
        DataError: no such user here.
    """
    if user not in store.users:
        raise DataError(f"store of client {store.client!r}: no user {user!r} among its {len(store.users)}")
    at = store.users.index(user)
    histories = (*store.histories[:at], with_event(store.histories[at], event), *store.histories[at + 1 :])
    return replace(store, histories=histories)


def add_event(path: Path, items: int, user: str, event: Event) -> ClientStore:
    """Write an event into a store's file, whole or not at all; one process at a time.

    Args:
        path: the file.
        items: size of the catalogue.
        user: who did it.
        event: what was done.

    Returns:
        The store as it is now.

    Raises:
        DataError: the file is missing or broken, or the event is of nobody or nothing that is known here.
        OSError: the disk refuses; the file is as it was.
    """
    if event.item >= items:
        raise DataError(f"event: item {event.item}, but the catalogue has {items} items")
    if not path.exists():
        raise DataError(f"{path}: no such file")
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store = with_user_event(load_store(path, items), user, event)
        save_store(store, path)
    return store


def save_store(store: ClientStore, path: Path) -> None:
    """Write one client's behaviour."""
    ages = [_UNKNOWN_AGE if age is None else age for age in ages_of(store)]
    arrays: dict[str, Any] = {
        "names": np.frombuffer(json.dumps([store.client, *store.users]).encode(), np.uint8),
        "ages": np.array(ages, np.int16),
        "lengths": np.array([len(h) for h in store.histories], np.int64),
    }
    for field in fields(History):
        columns = [getattr(h, field.name) for h in store.histories]
        arrays[field.name] = np.concatenate(columns).astype(COLUMNS[field.name])
    write_arrays(path, arrays)


def load_store(path: Path, items: int) -> ClientStore:
    """Read one client's behaviour.

    Args:
        path: the file.
        items: size of the catalogue that item indices must fit.

    Raises:
        DataError: the file is missing, broken, or speaks of items that the catalogue does not have.
    """
    stored = read_arrays(path)
    try:
        raw = {field.name: stored[field.name] for field in fields(History)}
        client, *users = json.loads(stored["names"].tobytes())
        lengths, ages = stored["lengths"], stored["ages"]
    except (LookupError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not a client store ({type(error).__name__}: {error})") from error
    if not (isinstance(client, str) and users and all(isinstance(user, str) for user in users)):
        raise DataError(f"{path}: a store names its client and at least one user")
    if lengths.dtype != np.int64 or lengths.shape != (len(users),) or lengths.min() < 0:
        raise DataError(f"{path}: one length of a history for each of the {len(users)} users, none below 0")
    if ages.dtype != np.int16 or ages.shape != (len(users),) or ages.min() < _UNKNOWN_AGE or ages.max() > OLDEST:
        raise DataError(f"{path}: one age for each of the {len(users)} users, 0 to {OLDEST}, {_UNKNOWN_AGE} = unknown")
    _check(raw, int(lengths.sum()), items, path)
    parts = {name: np.split(column, np.cumsum(lengths)[:-1]) for name, column in raw.items()}
    histories = (History(**{name: columns[row] for name, columns in parts.items()}) for row in range(len(users)))
    known = tuple(None if age == _UNKNOWN_AGE else int(age) for age in ages)
    return ClientStore(client, tuple(users), tuple(histories), known if any(a is not None for a in known) else ())


def _joined(history: History, at: int, event: Event) -> History:
    """The row of an item that is known already, after one more event."""
    before, turned_down = KINDS[history.kind[at]], event.kind == "not_interested"
    kind = event.kind if turned_down else max(before, event.kind, key=STRENGTH.index)
    row = {
        "kind": KINDS.index(kind),
        "count": history.count[at] + 1,
        "dwell": max(history.dwell[at], event.dwell),
        "rating": history.rating[at] if math.isnan(event.rating) else event.rating,
        "held_out": history.held_out[at] and not turned_down,
    }
    columns = {name: getattr(history, name).copy() for name in row}
    for name, value in row.items():
        columns[name][at] = value
    return replace(history, **columns)


def _check(raw: Mapping[str, NDArray[Any]], rows: int, items: int, path: Path) -> None:
    """Types, lengths and ranges: training and measuring rely on them.

    Raises:
        DataError: names the column and what it should hold.
    """
    for name, kind in COLUMNS.items():
        if raw[name].dtype != kind or raw[name].shape != (rows,):
            raise DataError(
                f"{path}: column {name} is {raw[name].dtype} {raw[name].shape}, expected {np.dtype(kind)} ({rows},)"
            )
    rating = raw["rating"][~np.isnan(raw["rating"])]
    for right, what in (
        (((raw["item"] >= 0) & (raw["item"] < items)).all(), f"an item outside the catalogue's {items}"),
        (((raw["kind"] >= 0) & (raw["kind"] < len(KINDS))).all(), f"a kind of behaviour outside {KINDS}"),
        (((raw["count"] >= 0) & np.isfinite(raw["count"])).all(), "a count below 0 or not finite"),
        (((raw["dwell"] >= 0) & (raw["dwell"] <= 1)).all(), "a dwell time outside 0..1"),
        (((rating >= 0) & (rating <= 1)).all(), "a rating outside 0..1"),
        (np.isfinite(raw["time"]).all(), "a time that is not finite"),
    ):
        if not right:
            raise DataError(f"{path}: has {what}")
