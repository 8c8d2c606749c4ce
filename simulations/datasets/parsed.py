"""Published data sets as they were read before: parsing text takes far longer than reading arrays.

Kept under a hash of the files' bytes and of the code that reads them (``shared/kept.py``). A person's own folder is
never kept: behaviour is not copied to places that its owner does not know of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.kept import Arrays, code_of, kept, key_of
from simulations.datasets.dataset import COLUMNS, Dataset, Items

_WORDS: Final = "words"
_CODE: Final = (
    "shared.history",
    "shared.tables",
    "simulations.datasets.dataset",
    "simulations.datasets.events",
    "simulations.datasets.movielens",
    "simulations.datasets.online_retail",
    "simulations.datasets.tables",
    "simulations.fetch",
)
_COLUMNS: Final = {"user": np.int32, **COLUMNS}


def parsed(files: Sequence[Path], cache: Path, parse: Callable[[], Dataset]) -> Dataset:
    """What ``parse`` makes of files, read from the cache if these bytes were parsed before.

    Args:
        files: all that ``parse`` reads, published data.
        cache: the cache folder.
        parse: by the modules above.

    Raises:
        DataError: as ``parse``.
        OSError: a file cannot be read.
    """
    key = key_of([*code_of(*_CODE), *(path.read_bytes() for path in files)])
    return _dataset(kept(cache / "parsed" / f"{key}.npz", lambda: _arrays(parse()), _fits))


def _arrays(data: Dataset) -> Arrays:
    words = {name: value for name, value in asdict(data).items() if name not in _COLUMNS}
    columns = {name: getattr(data, name) for name in _COLUMNS}
    return {**columns, _WORDS: np.frombuffer(json.dumps(words).encode(), np.uint8)}


def _fits(arrays: Arrays) -> bool:
    shapes = {arrays[name].shape for name in arrays if name != _WORDS}
    types = {name: rows.dtype for name, rows in arrays.items()}
    return len(shapes) == 1 and types == {**{name: np.dtype(kind) for name, kind in _COLUMNS.items()}, _WORDS: np.uint8}


def _dataset(arrays: Arrays) -> Dataset:
    words: dict[str, Any] = json.loads(arrays[_WORDS].tobytes())
    items = words.pop("items")
    tables = {name: tuple(items[name]) for name in ("ids", "titles", "texts")}
    categories = tuple(tuple(names) for names in items["categories"])
    for name in ("users", "notes"):
        words[name] = tuple(words[name])
    columns = {name: arrays[name] for name in _COLUMNS}
    return Dataset(**{**words, **columns, "items": Items(**tables, categories=categories)})
