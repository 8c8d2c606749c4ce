"""A shelf on disk, mapped into memory: the pages that a request touches are read, and the system may drop them again.

``client/shelving.py`` writes it. Nothing here needs torch or flwr, and opening takes the same few milliseconds whatever
the size of the catalogue.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.recommending import Rows
from shared.encoder.spec import EncoderSpec, Floats
from shared.errors import DataError
from shared.policy.recall_policy import RecallPolicy, policy_from_dict
from shared.recall.index import Frame, Graph, Indices, has_graphs, open_graph
from shared.recall.quantised import unit_rows_of

FORMAT: Final = "fedrecall-shelf-1"
ABOUT, GRAPH = "about.json", "graph.usearch"
NOBODY: Final = -1  # no such item
_SMALL: Final = 1 << 14  # bytes; an empty array cannot be mapped at all


@dataclass(frozen=True)
class Words:
    """Many texts, one after another.

    Attributes:
        content: UTF-8.
        at: (texts + 1,) where each begins.
    """

    content: NDArray[np.uint8]
    at: NDArray[np.int64]

    def __getitem__(self, place: int) -> str:
        return self.content[self.at[place] : self.at[place + 1]].tobytes().decode()


@dataclass(frozen=True)
class Lists:
    """Many lists of whole numbers, one after another.

    Attributes:
        content: all of them.
        at: (lists + 1,) where each begins.
    """

    content: NDArray[np.int32]
    at: NDArray[np.int64]

    def __getitem__(self, place: int) -> NDArray[np.int32]:
        return self.content[self.at[place] : self.at[place + 1]]


@dataclass(frozen=True)
class MappedModel:
    """The model's side of a shelf.

    Attributes:
        run, round: where it comes from.
        policy: in force.
        spec, parameters, context, popularity, scale: as in :class:`client.recommending.Rows`; (0,) parameters of an
            encoder whose user vectors need none.
        items: feature group that counts -> (items, width), bytes of unit rows or floats.
        alike: (items, width) public text rows, for diversity; likewise.
        price: (items,) logits of re-ranking.
        popular: item indices, the most popular first; not all.
        near, frame, graph: what candidates are found with; no graph where every row is looked at.
    """

    run: str
    round: int
    policy: RecallPolicy
    spec: EncoderSpec
    parameters: Floats
    context: Floats
    popularity: Floats
    scale: float
    items: Mapping[str, NDArray[Any]]
    alike: NDArray[Any]
    price: Floats
    popular: NDArray[np.int32]
    near: NDArray[np.int8]
    frame: Frame
    graph: Graph | None


@dataclass(frozen=True)
class MappedShelf:
    """A catalogue, and a model where there is one.

    Attributes:
        name: of what it was made from; the same name = the same content.
        catalogue: its version.
        ids, titles: of the items.
        hashes, place: sorted hashes of the ids and whose they are.
        categories: their names.
        of_item: item -> its categories. of_category: category -> its items, ascending.
        barred: item indices that rules keep from a user of unknown age, ascending.
        model: None before the first.
    """

    name: str
    catalogue: str
    ids: Words
    titles: Words
    hashes: NDArray[np.uint64]
    place: NDArray[np.int32]
    categories: tuple[str, ...]
    of_item: Lists
    of_category: Lists
    barred: Indices
    model: MappedModel | None

    def __len__(self) -> int:
        return len(self.place)

    def find(self, item: str) -> int:
        """Index of a raw id; ``NOBODY`` where there is none."""
        wanted = id_hash(item)
        at = int(np.searchsorted(self.hashes, wanted))
        while at < len(self.hashes) and self.hashes[at] == wanted:
            if self.ids[self.place[at]] == item:
                return int(self.place[at])
            at += 1
        return NOBODY

    def found(self, items: Sequence[str]) -> Indices:
        """Indices of the raw ids that are there, in the order of ``items``."""
        places = np.array([self.find(item) for item in items], np.int64)
        return places[places >= 0]

    def within(self, categories: Sequence[str]) -> Indices:
        """The items of any of some categories, ascending.

        Raises:
            DataError: no such category.
        """
        for name in categories:
            if name not in self.categories:
                some = ", ".join(self.categories[:8])
                raise DataError(f"category {name!r:.80}: not in the catalogue, which has {some or 'none'} …")
        lists = [self.of_category[self.categories.index(name)] for name in categories]
        return ascending(lists)

    def categories_of(self, item: int) -> tuple[str, ...]:
        """Names of an item's categories."""
        return tuple(self.categories[one] for one in self.of_item[item])


def ascending(lists: Sequence[NDArray[Any]]) -> Indices:
    """Every index of some lists, once. The lists are ascending, or short: long ones are merged, not sorted anew."""
    merged = np.sort(np.concatenate(lists).astype(np.int64), kind="stable")
    fresh = np.ones(len(merged), np.bool_)
    fresh[1:] = merged[1:] != merged[:-1]
    return np.asarray(merged[fresh], np.int64)


def id_hash(item: str) -> np.uint64:
    """Where an id is looked up; two ids of one hash are told apart by themselves."""
    return np.uint64(int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8).digest(), "big"))


def rows_of(model: MappedModel, item: Indices) -> Rows:
    """What scoring needs of some items, read from disk, in their order."""
    return Rows(
        model.spec,
        model.parameters,
        {group: floats_of(vectors, item) for group, vectors in model.items.items()},
        model.context[item],
        model.popularity[item],
        model.scale,
    )


def floats_of(vectors: NDArray[Any], item: Indices) -> Floats:
    """Some rows, as the floats that their bytes stand for."""
    rows = vectors[item]
    return unit_rows_of(rows) if rows.dtype == np.int8 else np.asarray(rows, np.float32)


def open_folder(folder: Path) -> MappedShelf:
    """Map a shelf's folder.

    Raises:
        DataError: there is none, or it is broken.
    """
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        if about["format"] != FORMAT:
            raise DataError(f"{folder}: format {about['format']!r:.40}; this version reads {FORMAT}")
        return MappedShelf(
            about["name"],
            about["catalogue"],
            Words(mapped(folder, "ids"), mapped(folder, "ids.at")),
            Words(mapped(folder, "titles"), mapped(folder, "titles.at")),
            mapped(folder, "hashes"),
            mapped(folder, "place"),
            tuple(json.loads((folder / "categories.json").read_bytes())),
            Lists(mapped(folder, "of_item"), mapped(folder, "of_item.at")),
            Lists(mapped(folder, "of_category"), mapped(folder, "of_category.at")),
            mapped(folder, "barred"),
            _model(folder, about["model"]) if about["model"] else None,
        )
    except (EOFError, OSError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: not a readable shelf ({error}); remove it, it is built again") from error


def mapped(folder: Path, name: str) -> NDArray[Any]:
    """An array of a shelf; a large one is not read yet."""
    path = folder / f"{name}.npy"
    if path.stat().st_size <= _SMALL:
        return np.asarray(np.load(path, allow_pickle=False))
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.view(np.ndarray)  # numpy's own subclass is slower to index, and shows up in everything made of it


def _model(folder: Path, about: Mapping[str, Any]) -> MappedModel:
    frame = {name: tuple(about["frame"][name]) for name in ("mixed", "widths", "weights", "single")}
    basis, step = np.asarray(mapped(folder, "basis")), np.asarray(mapped(folder, "step"))
    return MappedModel(
        about["run"],
        about["round"],
        policy_from_dict(about["policy"]),
        EncoderSpec(**about["spec"]),
        mapped(folder, "parameters"),
        mapped(folder, "context"),
        mapped(folder, "popularity"),
        about["scale"],
        {group: mapped(folder, f"group.{group}") for group in about["groups"]},
        mapped(folder, "alike"),
        mapped(folder, "price"),
        mapped(folder, "popular"),
        mapped(folder, "near"),
        Frame(text=about["frame"]["text"], basis=basis, step=step, **frame),
        open_graph(folder / GRAPH) if about["graph"] and has_graphs() else None,
    )
