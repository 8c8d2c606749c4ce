"""Finding the best of many items without scoring them all: 64 bytes an item, and above 250,000 a graph of neighbours.

A score is R = sum over groups of W_g (1 + gain_g) S_g(u_g, v_gi): for every kind of similarity an inner product of
something of the user with something of the item, plus what is the same for all items. So one row of ``WIDTH`` numbers
an item is enough to look for candidates; what is found is scored exactly afterwards. The columns:

- learned vectors as they are, up to ``TEXT_WIDTH`` wide;
- all other groups together by their principal directions, as many as there is room for (Eckart and Young 1936: no
  other projection of that width keeps more of the sum of squares);
- popularity, and minus the squared length where the similarity is a distance.

W and a person's gains stand on the user's side: neither needs other rows. Each column is kept as whole numbers in
-127..127 of its own step. The graph is HNSW (Malkov and Yashunin, IEEE TPAMI 2020) over inner products, by usearch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.encoder.encode import at_length_one
from shared.encoder.spec import Floats
from shared.errors import DataError
from shared.policy.recall_policy import RecallPolicy
from shared.recall.quantised import BLOCK, LARGEST

Indices = NDArray[np.int64]
WIDTH: Final = 64
TEXT_WIDTH: Final = 32
LOOKED_THROUGH: Final = 250_000  # items; up to here looking at every row is as quick as the graph
_SAMPLED: Final = 2048  # scores, at least, that a threshold comes from;
_SURELY: Final = 2  # times as many as are wanted lie above it, by the sample
_SAMPLE: Final = 8192  # items that the principal directions come from
_TURNS: Final = 8  # of the subspace iteration
_NEIGHBOURS, _EFFORT_BUILDING, _EFFORT_SEARCHING = 32, 128, 1600  # HNSW's M, ef_construction, ef


@dataclass(frozen=True)
class Frame:
    """What the columns are.

    Attributes:
        text: columns of the learned vectors as they are; 0 = they are mixed in with the others.
        mixed: groups that share columns, in order.
        widths: of their vectors.
        weights: their W when the rows were made; the query puts another one in relation to it.
        basis: (sum of widths, columns) float32.
        single: what the columns after those are, "popularity" or "length".
        step: (WIDTH,) float32, what one whole number stands for; 0 = the column is empty.
    """

    text: int
    mixed: tuple[str, ...]
    widths: tuple[int, ...]
    weights: tuple[float, ...]
    basis: Floats
    single: tuple[str, ...]
    step: Floats


class Graph(Protocol):
    """What is used of ``usearch.index.Index``."""

    def search(self, vectors: Any, count: int = 10) -> Any:  # noqa: ANN401 - usearch's own types
        """The nearest keys of a query."""


def framed(policy: RecallPolicy, items: Mapping[str, Floats], popularity: Floats) -> tuple[NDArray[np.int8], Frame]:
    """The rows of all items.

    Args:
        policy: weights, kinds of similarity and groups; the rows are of use as long as kinds and groups stay.
        items: group -> (items, width), every group that counts.
        popularity: (items,).

    Returns:
        (items, WIDTH) int8 and what its columns are.
    """
    counted = [group for group in policy.features if policy.weight(group) and group != "popularity"]
    counted = [group for group in counted if items[group].shape[1]]
    single = (("popularity",) if policy.weight("popularity") else ()) + (
        ("length",) if "text" in counted and policy.similarity["text"] == "euclidean" else ()
    )
    text = items["text"].shape[1] if "text" in counted else 0
    text = text if text <= TEXT_WIDTH else 0
    mixed = tuple(group for group in counted if group != "text" or not text)
    widths, weights = tuple(items[g].shape[1] for g in mixed), tuple(float(policy.weight(g)) for g in mixed)
    room = WIDTH - text - len(single)
    basis = _directions([_side(policy, group, items[group]) for group in mixed], weights, room)
    values = np.zeros((len(popularity), WIDTH), np.int8)
    frame = Frame(text, mixed, widths, weights, basis, single, np.zeros(WIDTH, np.float32))
    blocks = range(0, len(popularity), BLOCK)
    largest = np.zeros(WIDTH, np.float32)
    for start in blocks:
        row = _rows(frame, policy, items, popularity, slice(start, start + BLOCK))
        largest = np.maximum(largest, np.abs(row).max(axis=0))
    step = largest / np.float32(LARGEST)
    for start in blocks:
        row = _rows(frame, policy, items, popularity, slice(start, start + BLOCK))
        values[start : start + BLOCK] = np.rint(np.divide(row, step, out=np.zeros_like(row), where=step > 0))
    return values, Frame(text, mixed, widths, weights, basis, single, step)


def query_of(frame: Frame, policy: RecallPolicy, users: Mapping[str, Floats], gain: Mapping[str, float]) -> Floats:
    """The user's side: times an item's row it is the item's score, but for what all items have in common.

    Args:
        frame: of the rows.
        policy: of the request; of the kinds and groups that the rows were made for.
        users: group -> (1, width).
        gain: group -> by what share its weight is raised.

    Returns:
        (WIDTH,) float32.
    """

    def weight(group: str) -> float:
        return policy.weight(group) * (1.0 + gain.get(group, 0.0))

    out = np.zeros(WIDTH, np.float32)
    if frame.text:
        out[: frame.text] = weight("text") * _own(policy, "text", users["text"])
    end = frame.text + frame.basis.shape[1]
    if frame.mixed:
        sides = [
            np.float32(weight(group) / before) * _own(policy, group, users[group])
            for group, before in zip(frame.mixed, frame.weights, strict=True)
        ]
        out[frame.text : end] = np.concatenate(sides) @ frame.basis
    for place, name in enumerate(frame.single, end):
        out[place] = weight("popularity") if name == "popularity" else -weight("text")
    return np.asarray(out * frame.step, np.float32)


def best_rows(values: NDArray[np.int8], query: Floats, count: int, among: Indices | None = None) -> Indices:
    """The ``count`` rows of the largest products with a query, by looking at every row; ascending.

    Args:
        values: (items, WIDTH).
        query: (WIDTH,).
        count: at least 1; all rows where there are fewer.
        among: look at these rows only; None = all.
    """
    size = len(values) if among is None else len(among)
    score = np.empty(size, np.float32)
    for start in range(0, size, BLOCK):
        part = slice(start, start + BLOCK)
        rows = values[part] if among is None else values[among[part]]
        np.matmul(rows.astype(np.float32), query, out=score[part])
    kept = _largest(score, count)
    return np.asarray(kept if among is None else among[kept], np.int64)


def _largest(score: Floats, count: int) -> Indices:
    """The places of the ``count`` largest, ascending; all where there are no more.

    Selecting among all costs as much as scoring them. A sample says below what most lie, and the few that are left are
    selected among; where the sample was wrong, all are.
    """
    every = len(score) // _SAMPLED
    if every > 1 and count * _SURELY < len(score):
        sample = score[::every]
        low = len(sample) - count * _SURELY // every - 1
        some = np.flatnonzero(score >= np.partition(sample, low)[low])
    else:
        some = np.arange(len(score))
    if len(some) < count < len(score):
        some = np.arange(len(score))
    if len(some) <= count:
        return some
    return some[np.sort(np.argpartition(score[some], len(some) - count)[len(some) - count :])]


def near_rows(graph: Graph, values: NDArray[np.int8], query: Floats, count: int) -> Indices:
    """As :func:`best_rows`, through a graph: most of the best ones.

    Twice as many are fetched and looked at again, as the graph walks by a query in whole numbers.
    """
    largest = float(np.abs(query).max())
    whole = np.rint(query * (LARGEST / largest)) if largest > 0 else query
    keys = np.asarray(graph.search(whole.astype(np.int8), 2 * count).keys, np.int64)
    return best_rows(values, query, count, np.sort(keys))


def has_graphs() -> bool:
    """Whether usearch is installed (extra "index")."""
    return find_spec("usearch") is not None


def write_graph(path: Path, values: NDArray[np.int8], rows: Indices) -> None:
    """A graph over some rows, as a file; minutes for a million.

    Args:
        path: of the file.
        values: (items, WIDTH).
        rows: which of them can be found.
    """
    from usearch.index import Index  # noqa: PLC0415 - an extra, and only large catalogues need it

    graph = Index(
        ndim=WIDTH, metric="ip", dtype="i8", connectivity=_NEIGHBOURS, expansion_add=_EFFORT_BUILDING, multi=False
    )
    graph.add(rows.astype(np.uint64), values[rows], threads=0)  # 0 = all there are
    graph.save(str(path))


def open_graph(path: Path) -> Graph:
    """A graph's file, mapped into memory.

    Raises:
        DataError: it cannot be read.
    """
    from usearch.index import Index  # noqa: PLC0415 - as above

    try:
        graph = Index(ndim=WIDTH, metric="ip", dtype="i8", connectivity=_NEIGHBOURS, expansion_search=_EFFORT_SEARCHING)
        graph.view(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: not a readable index ({error}); remove the shelf, it is built again") from error
    return graph


def _rows(frame: Frame, policy: RecallPolicy, items: Mapping[str, Floats], popularity: Floats, block: slice) -> Floats:
    """(block, WIDTH) the rows before rounding."""
    out = np.zeros((len(popularity[block]), WIDTH), np.float32)
    if frame.text:
        out[:, : frame.text] = _side(policy, "text", items["text"][block])
    end = frame.text + frame.basis.shape[1]
    start = 0
    for group, width, weight in zip(frame.mixed, frame.widths, frame.weights, strict=True):
        side = np.float32(weight) * _side(policy, group, items[group][block])
        out[:, frame.text : end] += side @ frame.basis[start : start + width]
        start += width
    for place, name in enumerate(frame.single, end):
        out[:, place] = popularity[block] if name == "popularity" else np.square(items["text"][block]).sum(axis=1)
    return out


def _side(policy: RecallPolicy, group: str, vectors: Floats) -> Floats:
    """The item's side of a similarity. Of public groups all lengths are one, so a distance needs no length there."""
    return at_length_one(vectors) if policy.similarity[group] == "cosine" else np.asarray(vectors, np.float32)


def _own(policy: RecallPolicy, group: str, user: Floats) -> Floats:
    """(width,) the user's side of a similarity."""
    kind = policy.similarity[group]
    own = at_length_one(user) if kind == "cosine" else user
    return np.asarray(own[0] * (2.0 if kind == "euclidean" else 1.0), np.float32)


def _directions(sides: Sequence[Floats], weights: Sequence[float], room: int) -> Floats:
    """(width, columns) orthonormal: the principal directions of the groups side by side, each times its weight.

    By subspace iteration from rows of the data, on every n-th item: no chance in it, so every device gets the same.
    """
    if not sides:
        return np.zeros((0, 0), np.float32)
    every = max(1, len(sides[0]) // _SAMPLE)
    rows = np.concatenate([w * s[::every].astype(np.float64) for s, w in zip(sides, weights, strict=True)], axis=1)
    width = rows.shape[1]
    if width <= room:
        return np.eye(width, dtype=np.float32)
    rows -= rows.mean(axis=0)  # what all items have in common ranks none of them
    start = np.zeros((width, room))
    spread = np.linspace(0, len(rows) - 1, min(room, len(rows))).astype(int)
    start[:, : len(spread)] = rows[spread].T
    basis = np.linalg.qr(start)[0]
    for _ in range(_TURNS):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    turn = np.linalg.svd(rows @ basis, full_matrices=False)[2]
    return np.asarray(basis @ turn.T, np.float32)
