"""A person's own data from a folder: RecBole atomic files, or ``interactions`` and ``items`` as CSV or Parquet.

    shop.inter + shop.item                          user_id:token  item_id:token  rating:float  timestamp:float
    interactions.csv|parquet + items.csv|parquet    user,item,time,kind,count,dwell,rating   id,title,text,categories

Only ``user`` and ``item``, ``id`` and ``text`` are needed. Other names are given as a column map, ours -> theirs:
``{"user": "customer", "item": "sku", "text": "description"}``. Several categories in one CSV field are separated by
``|``. Everything is read into memory: for a population that does not fit there are generated data alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, DataError
from shared.history import KINDS
from shared.tables import Table, read_csv, texts
from simulations.datasets.dataset import Dataset, Items
from simulations.datasets.events import Events, dataset_from_events
from simulations.datasets.split import ascending_ids
from simulations.datasets.tables import numbers, read_atomic, read_parquet, times

_EVENT_FIELDS: Final = ("user", "item", "time", "kind", "count", "dwell", "rating")
FIELDS: Final = (*_EVENT_FIELDS, "id", "title", "text", "categories")
_SAME_NAMES: Final = {field: field for field in FIELDS}
_RECBOLE: Final = {"user": "user_id", "item": "item_id", "time": "timestamp", "id": "item_id"}
_RECBOLE_CATEGORIES: Final = ("class", "genre", "genres", "category", "categories")
_OWN_LICENCE: Final = (
    "Your own data: fedrecall neither knows nor checks its licence; "
    "its people's examples are never written into a report."
)
_LARGEST: Final = 1e9


def load_folder(folder: Path, columns: Mapping[str, str] | None = None) -> Dataset:
    """Read a folder of behaviour; every doubtful row is an error, every assumption a note.

    Args:
        folder: holds one pair of files as above.
        columns: ours -> theirs, for names that differ.

    Raises:
        ConfigError: a column map with unknown fields.
        DataError: files missing or empty, a broken row, an unknown item, a column missing.
    """
    given = dict(columns or {})
    unknown = next((field for field in given if field not in FIELDS), None)
    if unknown is not None:
        raise ConfigError(f"column map: field {unknown!r} is unknown; the fields are {', '.join(FIELDS)}")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    atomic = sorted(folder.glob("*.inter"))
    if len(atomic) > 1:
        raise DataError(f"{folder}: {len(atomic)} files end in .inter; keep one")
    if atomic:
        table, item_table = read_atomic(atomic[0]), read_atomic(atomic[0].with_suffix(".item"))
        named = _SAME_NAMES | _RECBOLE | _recbole_categories(item_table) | given
    else:
        table, item_table = _read_either(folder, "interactions"), _read_either(folder, "items")
        named = _SAME_NAMES | given
    for field, column in given.items():
        source = table if field in _EVENT_FIELDS else item_table
        if column not in source.columns:
            raise DataError(
                f"{source.path}: column map says {field} = {column!r}; there are {', '.join(source.columns)}"
            )
    return _dataset(folder.name, table, _items(item_table, named), named)


def _read_either(folder: Path, stem: str) -> Table:
    readers: dict[str, Callable[[Path], Table]] = {".csv": read_csv, ".parquet": read_parquet}
    for suffix, read in readers.items():
        if (folder / f"{stem}{suffix}").exists():
            return read(folder / f"{stem}{suffix}")
    raise DataError(f"{folder}: neither {stem}.csv nor {stem}.parquet (nor RecBole's *.inter and *.item) is there")


def _recbole_categories(table: Table) -> dict[str, str]:
    """RecBole leaves the names of item fields to the data set; these are the usual ones for categories."""
    found = next((name for name in _RECBOLE_CATEGORIES if name in table.columns), None)
    return {} if found is None else {"categories": found}


def _items(table: Table, named: Mapping[str, str]) -> Items:
    ids = texts(table, named["id"])
    first_row: dict[str, int] = {}
    for row, raw in enumerate(ids):
        if first_row.setdefault(raw, row) != row:
            first = table.lines[first_row[raw]]
            raise DataError(f"{table.place(row)}: item {raw!r} is there twice (first on line {first})")
    columns = _text_columns(table, named)
    titles = table.columns[named["title"] if named["title"] in table.columns else columns[0]]
    separator = None if table.types.get(named["categories"]) == "token_seq" else "|"
    raw_categories = table.columns.get(named["categories"], [""] * len(ids))
    categories = [tuple(part.strip() for part in raw.split(separator) if part.strip()) for raw in raw_categories]
    parts = zip(titles, *(table.columns[column] for column in columns), strict=True)
    # dict.fromkeys: the title is often one of the text columns, and is read once.
    words = [list(dict.fromkeys(part.strip() for part in row if part.strip())) for row in parts]
    return Items(
        ids=tuple(ids),
        titles=tuple(title.strip() for title in titles),
        texts=tuple(" ".join((*row, *names)) for row, names in zip(words, categories, strict=True)),
        categories=tuple(categories),
    )


def _text_columns(table: Table, named: Mapping[str, str]) -> list[str]:
    if named["text"] in table.columns:
        return [named["text"]]
    found = [name for name, kind in table.types.items() if kind == "token_seq" and name != named["categories"]]
    if found:
        return found
    raise DataError(
        f"{table.path}: no text column {named['text']!r} among {', '.join(table.columns)}; the text encoder needs one, "
        "name it in the column map as text"
    )


def _dataset(name: str, table: Table, items: Items, named: Mapping[str, str]) -> Dataset:
    raw_users = texts(table, named["user"])
    users = tuple(dict.fromkeys(raw_users))
    rank = ascending_ids(users)
    index = {raw: int(rank[i]) for i, raw in enumerate(users)}
    user = np.array([index[raw] for raw in raw_users], np.int32)
    notes: list[str] = []
    events = _events(table, named, user, _item_index(table, texts(table, named["item"]), items), notes)
    return dataset_from_events(
        events,
        name=name,
        licence=_OWN_LICENCE,
        public=False,
        items=items,
        users=[users[i] for i in np.argsort(rank)],
        notes=notes,
    )


def _item_index(table: Table, raw_items: Sequence[str], items: Items) -> NDArray[np.int32]:
    index = {raw: i for i, raw in enumerate(items.ids)}
    unknown = [row for row, raw in enumerate(raw_items) if raw not in index]
    if unknown:
        raise DataError(
            f"{table.place(unknown[0])}: item {raw_items[unknown[0]]!r} is not in the item table "
            f"({len(unknown):,} such rows); add it there or leave these rows out"
        )
    return np.array([index[raw] for raw in raw_items], np.int32)


def _events(
    table: Table, named: Mapping[str, str], user: NDArray[np.int32], item: NDArray[np.int32], notes: list[str]
) -> Events:
    n = len(table)
    has = {field: named[field] in table.columns for field in ("time", "kind", "count", "dwell", "rating")}
    rating = numbers(table, named["rating"], low=-_LARGEST, high=_LARGEST) if has["rating"] else np.full(n, np.nan)
    dwell = numbers(table, named["dwell"], low=0, high=_LARGEST) if has["dwell"] else np.zeros(n)
    count = numbers(table, named["count"], low=1, high=_LARGEST) if has["count"] else np.ones(n)
    if has["kind"]:
        kind = _kinds(table, named["kind"])
    else:
        kind = np.where(dwell > 0, KINDS.index("dwell"), KINDS.index("view")).astype(np.int8)
        kind[~np.isnan(rating)] = KINDS.index("rating")
        if has["rating"] and np.isnan(rating).any():
            notes.append(f"{int(np.isnan(rating).sum()):,} ratings are empty or NaN: they count as dwell or view")
    if not has["time"]:
        notes.append(f"{table.path.name} has no column {named['time']!r}: file order stands for time")
    return Events(
        user=user,
        item=item,
        kind=kind,
        count=np.nan_to_num(count, nan=1.0).astype(np.float32),
        dwell=_unit_dwell(np.nan_to_num(dwell, nan=0.0), notes),
        rating=_unit_rating(rating, notes),
        time=times(table, named["time"]) if has["time"] else np.arange(n, dtype=np.float64),
    )


def _kinds(table: Table, column: str) -> NDArray[np.int8]:
    values = texts(table, column)
    wrong = next((row for row, value in enumerate(values) if value not in KINDS), None)
    if wrong is not None:
        raise DataError(f"{table.place(wrong)}: {column} is {values[wrong]!r}; it must be one of {', '.join(KINDS)}")
    return np.array([KINDS.index(value) for value in values], np.int8)


def _unit_rating(rating: NDArray[np.float64], notes: list[str]) -> NDArray[np.float32]:
    if np.isnan(rating).all():
        return rating.astype(np.float32)
    low, high = float(np.nanmin(rating)), float(np.nanmax(rating))
    notes.append(f"ratings {low:g} to {high:g} are scaled to 0..1")
    return ((rating - low) / (high - low) if high > low else np.where(np.isnan(rating), np.nan, 1.0)).astype(np.float32)


def _unit_dwell(dwell: NDArray[np.float64], notes: list[str]) -> NDArray[np.float32]:
    if dwell.max(initial=0.0) <= 1.0:
        return dwell.astype(np.float32)
    longest = float(np.quantile(dwell[dwell > 0], 0.95))
    notes.append(f"dwell times are divided by {longest:g} (their 95th percentile) and cut at 1")
    return np.minimum(dwell / longest, 1.0).astype(np.float32)
