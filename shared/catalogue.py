"""The public catalogue: what can be recommended, and one vector per item and feature group.

A catalogue is public by definition: it holds nothing about behaviour. Servers build it (``server/features.py``),
devices load it; neither needs torch or transformers to read it. The file is a plain ``.npz`` without pickle, so that
a hostile catalogue can be broken but not run code (https://numpy.org/doc/stable/reference/generated/numpy.load.html).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.files import arrays_of_bytes, bytes_of_arrays, read_arrays, write_atomically
from shared.recall.quantised import unit_rows_of, whole_rows

GROUPS: Final = ("text", "lexical", "category")
_FORMAT: Final = "fedrecall-catalogue-1"
_UNIT_TOLERANCE: Final = 1e-3


@dataclass(frozen=True)
class Catalogue:
    """Items and their vectors; the position in ``ids`` is the dense item index used everywhere.

    Attributes:
        ids: raw item ids, all different.
        titles: what a person reads.
        texts: what a text encoder reads (title, description, categories).
        categories: the categories of each item, possibly none.
        groups: feature group -> (n_items, d) float32 with rows of length 1, or 0 for an item with nothing in the group.

    Raises:
        DataError: lengths differ, an id appears twice, or a group has the wrong shape, type or row length.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]
    groups: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        n = len(self.ids)
        for name in ("titles", "texts", "categories"):
            if len(getattr(self, name)) != n:
                raise DataError(f"catalogue: {len(getattr(self, name))} {name} for {n} ids; give one per item")
        if len(set(self.ids)) != n:
            raise DataError(f"catalogue: item id {_first_repeated(self.ids)!r} appears twice; ids must be unique")
        for name, vectors in self.groups.items():
            _check_group(name, vectors, n)

    def __len__(self) -> int:
        return len(self.ids)

    def version(self) -> str:
        """SHA-256 over everything, as hex: two catalogues with one version score alike, bit for bit."""
        return self._version

    @cached_property
    def _version(self) -> str:
        digest = hashlib.sha256(_words_as_json(self))
        for name in sorted(self.groups):
            vectors = np.ascontiguousarray(self.groups[name], "<f4")
            digest.update(f"\n{name}:{vectors.shape}\n".encode())
            digest.update(vectors.tobytes())
        return digest.hexdigest()


def save_catalogue(catalogue: Catalogue, path: Path) -> None:
    """Write one file, atomically: readers see the old file or the whole new one."""
    write_atomically(path, catalogue_bytes(catalogue))


def load_catalogue(path: Path) -> Catalogue:
    """Read what ``save_catalogue`` wrote.

    Raises:
        DataError: no such file, not a catalogue, cut short, or changed after it was written.
    """
    return _catalogue(read_arrays(path), str(path))


def catalogue_bytes(catalogue: Catalogue) -> bytes:
    """The catalogue as it stands in a file and on the wire."""
    arrays = arrays_of_items(catalogue) | {"format": as_bytes(_FORMAT.encode())}
    return bytes_of_arrays(arrays | {"version": as_bytes(catalogue.version().encode())})


def catalogue_of(content: bytes, place: str) -> Catalogue:
    """What ``catalogue_bytes`` made.

    Args:
        content: from anywhere.
        place: where it comes from, for the message.

    Raises:
        DataError: as :func:`load_catalogue`, and nothing else on whatever bytes.
    """
    return _catalogue(arrays_of_bytes(content, place), place)


def arrays_of_items(catalogue: Catalogue) -> dict[str, NDArray[np.generic]]:
    """Items as named arrays.

    A group whose rows bytes stand for exactly (built with ``vectors = "int8"``) is written as those bytes, a quarter as
    large, and read back as the same floats.
    """
    arrays: dict[str, NDArray[np.generic]] = {"words": as_bytes(_words_as_json(catalogue))}
    for name, vectors in catalogue.groups.items():
        whole = whole_rows(vectors)
        arrays[f"group/{name}"] = np.ascontiguousarray(vectors, "<f4") if whole is None else whole
    return arrays


def items_of_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> Catalogue:
    """What ``arrays_of_items`` made.

    Raises:
        DataError: items that do not fit together.
        KeyError, TypeError, ValueError, RecursionError: not such arrays.
    """
    words = json.loads(bytes(arrays["words"]))
    return Catalogue(
        ids=strings_of(words["ids"]),
        titles=strings_of(words["titles"]),
        texts=strings_of(words["texts"]),
        categories=tuple(strings_of(row) for row in words["categories"]),
        groups={k.removeprefix("group/"): _floats(v) for k, v in arrays.items() if k.startswith("group/")},
    )


def strings_of(values: object) -> tuple[str, ...]:
    """A JSON list of texts that can be written.

    Raises:
        TypeError: no list of texts.
        ValueError: half of a surrogate pair, which no file, terminal or hash takes.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("a list of texts is expected")
    "".join(values).encode()
    return tuple(values)


def as_bytes(content: bytes) -> NDArray[np.uint8]:
    """Bytes as an array, for a file of arrays."""
    return np.frombuffer(content, np.uint8)


def _catalogue(arrays: Mapping[str, NDArray[np.generic]], place: str) -> Catalogue:
    try:
        if bytes(arrays["format"]) != _FORMAT.encode():
            raise DataError(f"{place}: format {bytes(arrays['format'])[:40]!r}; this version reads {_FORMAT}")
        catalogue, stored = items_of_arrays(arrays), bytes(arrays["version"]).decode()
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{place}: not a catalogue ({error}); build it again") from error
    if stored != catalogue.version():
        raise DataError(f"{place}: content does not match its version {stored[:12]}…; build the catalogue again")
    return catalogue


def _check_group(name: str, vectors: NDArray[np.float32], n_items: int) -> None:
    if vectors.ndim != 2 or vectors.shape[0] != n_items or vectors.dtype != np.float32:
        raise DataError(
            f"catalogue: group {name!r} is {vectors.dtype} {vectors.shape}; it must be float32 ({n_items}, d)"
        )
    with np.errstate(over="ignore"):  # a length beyond float32 is a wrong one, said below
        lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~((np.abs(lengths - 1.0) <= _UNIT_TOLERANCE) | (lengths == 0.0)))
    if len(wrong):
        raise DataError(
            f"catalogue: group {name!r}, item {wrong[0]} has a vector of length {lengths[wrong[0]]}; it must be 1 or 0"
        )


def _words_as_json(catalogue: Catalogue) -> bytes:
    words = {
        "ids": catalogue.ids,
        "titles": catalogue.titles,
        "texts": catalogue.texts,
        "categories": catalogue.categories,
    }
    return json.dumps(words, ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode()


def _floats(vectors: NDArray[np.generic]) -> NDArray[np.float32]:
    if vectors.dtype == np.int8 and vectors.ndim == 2:
        return unit_rows_of(vectors.astype(np.int8, copy=False))
    if vectors.dtype != np.dtype("<f4"):
        raise ValueError(f"a group of type {vectors.dtype} instead of float32 or int8")
    return vectors.astype(np.float32, copy=False)


def _first_repeated(ids: tuple[str, ...]) -> str:
    seen: set[str] = set()
    for value in ids:
        if value in seen:
            return value
        seen.add(value)
    return ""
