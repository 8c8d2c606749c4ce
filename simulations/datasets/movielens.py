"""MovieLens 100K: 943 users, 1,682 films, 100,000 ratings.

F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015, doi:10.1145/2827872.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from shared.history import KINDS
from shared.tables import Table, texts
from simulations.datasets.dataset import Dataset, Items
from simulations.datasets.events import Events, dataset_from_events
from simulations.datasets.tables import numbers, read_atomic
from simulations.fetch import ML100K_LICENCE

_BEST: Final = 5


def load_movielens(folder: Path) -> Dataset:
    """Read ``ml-100k.inter`` and ``ml-100k.item`` (RecBole atomic files).

    One row per (user, item); kind "rating"; rating = (r - 1) / 4; text = title, year, genres; categories = genres.

    Raises:
        DataError: a broken file; that the ratings are the published ones is checked by ``simulations.fetch``.
    """
    table = read_atomic(folder / "ml-100k.inter")
    items = _items(read_atomic(folder / "ml-100k.item"))
    users = sorted(set(texts(table, "user_id")), key=int)
    user_index = {raw: i for i, raw in enumerate(users)}
    item_index = {raw: i for i, raw in enumerate(items.ids)}
    n = len(table)
    events = Events(
        user=np.array([user_index[raw] for raw in table.columns["user_id"]], np.int32),
        item=np.array([item_index[raw] for raw in table.columns["item_id"]], np.int32),
        kind=np.full(n, KINDS.index("rating"), np.int8),
        count=np.ones(n, np.float32),
        dwell=np.zeros(n, np.float32),
        rating=((numbers(table, "rating", low=1, high=_BEST) - 1) / (_BEST - 1)).astype(np.float32),
        time=numbers(table, "timestamp", low=0, high=np.inf),
    )
    return dataset_from_events(events, name="ml-100k", licence=ML100K_LICENCE, public=True, items=items, users=users)


def _items(table: Table) -> Items:
    years = [year if year.isdigit() else "" for year in texts(table, "release_year")]
    # RecBole spells the one film without a name "unkonwn".
    titles = [title.replace("unkonwn", "unknown") for title in texts(table, "movie_title")]
    genres = [tuple(value.split()) for value in texts(table, "class")]
    words = zip(titles, years, genres, strict=True)
    return Items(
        ids=tuple(texts(table, "item_id")),
        titles=tuple(f"{title} ({year})" if year else title for title, year in zip(titles, years, strict=True)),
        texts=tuple(" ".join(part for part in (title, year, *names) if part) for title, year, names in words),
        categories=tuple(() if names == ("unknown",) else names for names in genres),
    )
