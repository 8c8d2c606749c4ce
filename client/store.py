"""Where a client keeps behaviour: the users of one client and their histories.

On disk, one file a client, arrays without pickle; opened by the client's own side only, never by a path from a task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.files import read_arrays, write_arrays
from shared.history import KINDS, History

COLUMNS: Final[Mapping[str, type]] = {
    "item": np.int32,
    "kind": np.int8,
    "count": np.float32,
    "dwell": np.float32,
    "rating": np.float32,
    "time": np.float64,
    "held_out": np.bool_,
}


@dataclass(frozen=True)
class ClientStore:
    """One client's behaviour.

    Attributes:
        client: the client's name, as ledgers write it.
        users: names of its 1..n users; private.
        histories: one per user, possibly empty.
    """

    client: str
    users: tuple[str, ...]
    histories: tuple[History, ...]


def save_store(store: ClientStore, path: Path) -> None:
    """Write one client's behaviour."""
    arrays: dict[str, Any] = {
        "names": np.frombuffer(json.dumps([store.client, *store.users]).encode(), np.uint8),
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
        lengths = stored["lengths"]
    except (LookupError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not a client store ({type(error).__name__}: {error})") from error
    if not (isinstance(client, str) and users and all(isinstance(user, str) for user in users)):
        raise DataError(f"{path}: a store names its client and at least one user")
    if lengths.dtype != np.int64 or lengths.shape != (len(users),) or lengths.min() < 0:
        raise DataError(f"{path}: one length of a history for each of the {len(users)} users, none below 0")
    _check(raw, int(lengths.sum()), items, path)
    parts = {name: np.split(column, np.cumsum(lengths)[:-1]) for name, column in raw.items()}
    histories = (History(**{name: columns[row] for name, columns in parts.items()}) for row in range(len(users)))
    return ClientStore(client, tuple(users), tuple(histories))


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
