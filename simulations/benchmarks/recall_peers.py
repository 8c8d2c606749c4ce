"""The peers of ``fedrecall-sim bench recall``: exact numpy, faiss, usearch; one float32 row an item, inner products.

Libraries are imported where an index is built, so that one that is not installed is a row that says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.encoder.spec import Floats
from shared.recall.index import Indices

BEST: Final = 100  # items that are asked for
NEIGHBOURS, EFFORT_BUILDING = 32, 128  # HNSW's M and ef_construction, the same as in shared/recall/index.py
_SEED: Final = 1234  # of faiss' k-means; its default, written down


@dataclass(frozen=True)
class Built:
    """An index.

    Attributes:
        search: (query, effort) -> indices of the best items, the best first.
        bytes: of memory or disk that it takes.
    """

    search: Callable[[Floats, int], Indices]
    bytes: int


@dataclass(frozen=True)
class Peer:
    """Something else that finds the best.

    Attributes:
        name: whose, and how.
        package: what to install where it is missing; "" = always there.
        build: (items, width) float32 rows -> the index.
        efforts: how widely it may search, ascending; (0,) where it looks at every row.
    """

    name: str
    package: str
    build: Callable[[Floats], Built]
    efforts: tuple[int, ...] = (0,)


def best(score: Floats, count: int) -> Indices:
    """The places of the ``count`` largest of (n,), the largest first."""
    some = np.argpartition(-score, count - 1)[:count] if len(score) > count else np.arange(len(score))
    return np.asarray(some[np.argsort(-score[some], kind="stable")], np.int64)


def _numpy(rows: Floats) -> Built:
    return Built(lambda query, _: best(rows @ query, BEST), rows.nbytes)


def _faiss_flat(rows: Floats) -> Built:
    import faiss  # noqa: PLC0415 - may be missing

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return Built(lambda query, _: index.search(query[None], BEST)[1][0], rows.nbytes)


def _faiss_lists(rows: Floats) -> Built:
    """Rows by the nearest of 4 sqrt(items) centres, as faiss' guide has it; effort = how many lists are looked at."""
    import faiss  # noqa: PLC0415 - as above

    faiss.omp_set_num_threads(1)
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], int(4 * len(rows) ** 0.5), faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed = _SEED
    index.cp.min_points_per_centroid = 1  # a small catalogue has few rows a centre, which it warns of
    index.train(rows)
    index.add(rows)

    def search(query: Floats, effort: int) -> Indices:
        index.nprobe = effort
        return np.asarray(index.search(query[None], BEST)[1][0], np.int64)

    return Built(search, len(faiss.serialize_index(index)))


def _faiss_graph(rows: Floats) -> Built:
    import faiss  # noqa: PLC0415 - as above

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(rows.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EFFORT_BUILDING
    index.add(rows)

    def search(query: Floats, effort: int) -> Indices:
        index.hnsw.efSearch = effort
        return np.asarray(index.search(query[None], BEST)[1][0], np.int64)

    return Built(search, len(faiss.serialize_index(index)))


def _usearch_graph(rows: Floats) -> Built:
    from usearch.index import Index  # noqa: PLC0415 - as above

    index = Index(ndim=rows.shape[1], metric="ip", dtype="f32", connectivity=NEIGHBOURS, expansion_add=EFFORT_BUILDING)
    index.add(np.arange(len(rows), dtype=np.uint64), rows, threads=1)

    def search(query: Floats, effort: int) -> Indices:
        index.expansion_search = effort  # type: ignore[misc]  # its setter stands apart
        return np.asarray(index.search(query, BEST, threads=1).keys, np.int64)

    return Built(search, int(index.serialized_length))


_EFFORTS: Final = (100, 200, 400, 800, 1600)
PEERS: Final = (
    Peer("numpy, every row", "", _numpy),
    Peer("faiss, every row", "faiss-cpu", _faiss_flat),
    Peer("faiss, inverted lists", "faiss-cpu", _faiss_lists, (4, 16, 64, 128, 256, 512)),
    Peer("faiss, HNSW", "faiss-cpu", _faiss_graph, _EFFORTS),
    Peer("usearch, HNSW", "usearch", _usearch_graph, _EFFORTS),
)
