"""Writes the folder that ``client/mapped.py`` maps: one array a file, as it lies in memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.behaviour import is_id
from client.mapped import ABOUT, FORMAT, GRAPH, id_hash
from client.recommending import Shelf
from shared.catalogue import Catalogue
from shared.encoder.spec import Floats
from shared.files import sync_folder
from shared.policy.recall_policy import RecallPolicy, policy_to_dict
from shared.printable import printable
from shared.recall.index import LOOKED_THROUGH, Indices, framed, has_graphs, write_graph
from shared.recall.item_rules import ItemRules, barred
from shared.recall.quantised import BLOCK, whole_rows
from shared.recall.rerank import item_prices

LONGEST: Final = 500  # characters of a title or a category; what comes after them is cut off
POPULAR: Final = 10_000  # items by popularity that a list can be filled from


@dataclass(frozen=True)
class Origin:
    """What a shelf is made from.

    Attributes:
        name: the same name = the same content.
        catalogue: its version.
        run, round: of the model; "" and 0 without one.
        rules: what may never be shown.
    """

    name: str
    catalogue: str
    run: str
    round: int
    rules: ItemRules


@dataclass(frozen=True)
class Ready:
    """A model ready to serve: the shelf in memory and the policy in force."""

    shelf: Shelf
    policy: RecallPolicy


def write_shelf(folder: Path, origin: Origin, catalogue: Catalogue, ready: Ready | None) -> None:
    """Write a shelf's folder, whole or not at all.

    Args:
        folder: a new one.
        origin: what it is made from.
        catalogue: what can be recommended.
        ready: None before there is a model: then there is nothing but ids, titles and categories.

    Raises:
        OSError: the disk refuses.
    """
    began = time.monotonic()
    draft = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed half way
    draft.mkdir(parents=True)
    nameless = np.array([not is_id(one) for one in catalogue.ids], np.bool_)  # no event could turn them down
    never = np.flatnonzero(barred(origin.rules, catalogue.ids, None) | nameless)
    _save(draft, "barred", never)
    _write_words(draft, catalogue)
    model = None if ready is None else _write_model(draft, origin, ready, never)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if sys.platform == "darwin" else 1024)
    about = {
        "format": FORMAT,
        "name": origin.name,
        "catalogue": origin.catalogue,
        "items": len(catalogue),
        "model": model,
        "seconds": round(time.monotonic() - began, 1),
        "peak_mib": peak,
    }
    (draft / ABOUT).write_text(json.dumps(about), encoding="utf-8")
    _sync(draft)
    draft.replace(folder)
    sync_folder(folder.parent)


def _write_words(draft: Path, catalogue: Catalogue) -> None:
    _save_texts(draft, "ids", catalogue.ids)
    _save_texts(draft, "titles", [printable(one[:LONGEST]) for one in catalogue.titles])
    hashes = np.array([id_hash(one) for one in catalogue.ids], np.uint64)
    place = np.argsort(hashes, kind="stable").astype(np.int32)
    _save(draft, "hashes", hashes[place])
    _save(draft, "place", place)
    shown = {name: printable(name[:LONGEST]) for some in catalogue.categories for name in some}
    names = sorted(set(shown.values()))
    number = {name: one for one, name in enumerate(names)}
    of_item = [sorted({number[shown[name]] for name in some}) for some in catalogue.categories]
    content = np.array([one for some in of_item for one in some], np.int32)
    owner = np.repeat(np.arange(len(of_item), dtype=np.int32), [len(some) for some in of_item])
    _save(draft, "of_item", content)
    _save(draft, "of_item.at", _ends([len(some) for some in of_item]))
    _save(draft, "of_category", owner[np.argsort(content, kind="stable")])
    _save(draft, "of_category.at", _ends(np.bincount(content, minlength=len(names))))
    (draft / "categories.json").write_text(json.dumps(names), encoding="utf-8")


def _write_model(draft: Path, origin: Origin, ready: Ready, never: Indices) -> dict[str, Any]:
    shelf, policy = ready.shelf, ready.policy
    groups = {
        group: shelf.items[group] for group in ("text", *policy.features) if group == "text" or _counts(policy, group)
    }
    for group, vectors in groups.items():
        _save(draft, f"group.{group}", vectors if group == "text" else _small(vectors))
    _save(draft, "alike", _small(shelf.catalogue.groups["text"]))
    _save(draft, "context", shelf.context)
    _save(draft, "parameters", np.zeros(0, np.float32) if shelf.spec.kind == "linear" else shelf.parameters)
    _save(draft, "popularity", np.asarray(shelf.popularity, np.float32))
    _save(draft, "price", item_prices(policy, shelf.prior, shelf.bucket))
    free = np.delete(np.arange(len(shelf.popularity)), never)
    by_popularity = free[np.argsort(-shelf.popularity[free], kind="stable")]
    _save(draft, "popular", by_popularity[:POPULAR].astype(np.int32))
    near, frame = framed(policy, groups, shelf.popularity)
    _save(draft, "near", near)
    _save(draft, "basis", frame.basis)
    _save(draft, "step", frame.step)
    graph = len(near) > LOOKED_THROUGH and has_graphs()
    if graph:
        write_graph(draft / GRAPH, near, free)
    return {
        "run": origin.run,
        "round": origin.round,
        "policy": policy_to_dict(policy),
        "spec": asdict(shelf.spec),
        "scale": shelf.scale,
        "groups": list(groups),
        "frame": {name: getattr(frame, name) for name in ("text", "mixed", "widths", "weights", "single")},
        "graph": graph,
    }


def _counts(policy: RecallPolicy, group: str) -> bool:
    return group != "popularity" and policy.weight(group) != 0


def _small(vectors: Floats) -> NDArray[Any]:
    """Unit rows as the bytes that stand for exactly them, a quarter as large; as they are where there are none."""
    out = np.empty(vectors.shape, np.int8)
    for start in range(0, len(vectors), BLOCK):
        part = whole_rows(vectors[start : start + BLOCK])
        if part is None:
            return vectors
        out[start : start + BLOCK] = part
    return out


def _save_texts(draft: Path, name: str, texts: Sequence[str]) -> None:
    encoded = [text.encode() for text in texts]
    _save(draft, name, np.frombuffer(b"".join(encoded), np.uint8))
    _save(draft, f"{name}.at", _ends([len(one) for one in encoded]))


def _ends(lengths: Iterable[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.fromiter(lengths, np.int64))]).astype(np.int64)


def _save(draft: Path, name: str, array: NDArray[Any]) -> None:
    np.save(draft / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
