"""Where a client keeps behaviour: the users of one client and their histories.

On disk, one file a client, arrays without pickle; opened by the client's own side only, never by a path from a task.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import DataError
from shared.history import KINDS, History


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
        arrays[field.name] = np.concatenate([getattr(h, field.name) for h in store.histories])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


def load_store(path: Path, items: int) -> ClientStore:
    """Read one client's behaviour.

    Args:
        path: the file.
        items: size of the catalogue that item indices must fit.

    Raises:
        DataError: the file is missing, broken, or speaks of items that the catalogue does not have.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            raw = {name: data[name] for name in data.files}
        client, *users = json.loads(raw["names"].tobytes())
        ends = np.cumsum(raw["lengths"])[:-1]
        parts = {field.name: np.split(raw[field.name], ends) for field in fields(History)}
    except OSError as error:
        raise DataError(f"{path}: no client store ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a client store: {error}") from error
    histories = tuple(History(**_row(parts, row)) for row in range(len(users)))
    for user, history in zip(users, histories, strict=True):
        if len(history) and not (0 <= history.item.min() and history.item.max() < items):
            raise DataError(f"{path}: user {user} has an item outside the catalogue's {items}: another catalogue?")
        if len(history) and not (0 <= history.kind.min() and history.kind.max() < len(KINDS)):
            raise DataError(f"{path}: user {user} has a kind of behaviour outside {KINDS}")
    return ClientStore(client, tuple(users), histories)


def _row(parts: Mapping[str, list[Any]], row: int) -> dict[str, Any]:
    return {name: columns[row] for name, columns in parts.items()}
