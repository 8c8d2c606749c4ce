"""Per-user splits, exact to the row, so that published reference numbers can be compared.

Three protocols; n is a user's number of positives (every row except "not interested"), k = int(0.1 n):

- ``rs``: ``default_rng([2024, raw_user_id]).permutation`` over the user's ascending item ids; the first k are test,
  the next k valid, the rest train.
- ``ts``: the k newest are test, the next k newest valid, the rest train.
- ``loo``: the newest is test, the next valid, the rest train. A user with two positives has no validation row, a user
  with one only trains: nobody is asked for something without any history.

Equal times: the row that comes first in the file counts as the newer one. That choice is worth a lot on coarse
timestamps (Popularity HR@10 on MovieLens-100K, ``loo``: 0.086 by file order, 0.050 by largest item id), so it is fixed.
"Not interested" rows are always train and never positives.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.history import NOT_INTERESTED
from simulations.datasets.dataset import PROTOCOLS, Dataset, Protocol, Split

SPLIT_SEED: Final = 2024
HELD_OUT_SHARE: Final = 0.1


def split_dataset(dataset: Dataset, protocol: str) -> Split:
    """Assign every row to train, valid or test.

    Raises:
        ConfigError: no such protocol.
    """
    chosen = next((known for known in PROTOCOLS if known == protocol), None)
    if chosen is None:
        raise ConfigError(f"split protocol {protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    valid, test = np.zeros(len(dataset), np.bool_), np.zeros(len(dataset), np.bool_)
    positive = np.flatnonzero(dataset.kind != NOT_INTERESTED)
    by_user = positive[np.argsort(dataset.user[positive], kind="stable")]
    bounds = np.searchsorted(dataset.user[by_user], np.arange(len(dataset.users) + 1))
    id_order = ascending_ids(dataset.items.ids if chosen == "rs" else ())  # the others do not ask for it
    for user, raw_id in enumerate(dataset.users):
        rows = by_user[bounds[user] : bounds[user + 1]]
        ordered = _shuffled(rows, id_order[dataset.item[rows]], raw_id) if chosen == "rs" else _newest(dataset, rows)
        n_test, n_valid = _held_out(len(rows), chosen)
        test[ordered[:n_test]] = True
        valid[ordered[n_test : n_test + n_valid]] = True
    return Split(chosen, train=~(valid | test), valid=valid, test=test)


def ascending_ids(ids: tuple[str, ...]) -> NDArray[np.int64]:
    """(n,) rank of each raw id: by number where all are non-negative integers, else by code points."""
    numbers = all(_is_number(raw) for raw in ids)
    order = sorted(range(len(ids)), key=(lambda i: (int(ids[i]), ids[i])) if numbers else (lambda i: (0, ids[i])))
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids))
    return rank


def user_number(raw_id: str) -> int:
    """The integer that seeds a user's split: the raw id itself, or 64 bits of its SHA-256 where it is no integer."""
    if _is_number(raw_id):
        return int(raw_id)
    return int.from_bytes(hashlib.sha256(raw_id.encode()).digest()[:8], "big")


def _is_number(raw: str) -> bool:
    return raw.isascii() and raw.isdigit()


def _shuffled(rows: NDArray[np.intp], ids: NDArray[np.int64], raw_id: str) -> NDArray[np.intp]:
    generator = np.random.default_rng([SPLIT_SEED, user_number(raw_id)])
    return generator.permutation(rows[np.argsort(ids, kind="stable")])


def _newest(dataset: Dataset, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    return rows[np.argsort(-dataset.time[rows], kind="stable")]


def _held_out(n: int, protocol: Protocol) -> tuple[int, int]:
    if protocol == "loo":
        return int(n > 1), int(n > 2)
    k = int(HELD_OUT_SHARE * n)
    return k, k
