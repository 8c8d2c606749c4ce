"""The one protocol of every number: full ranking over the catalogue, seen items masked, choices made on validation.

Validating masks what a user saw in train; testing masks train and validation. Metrics are ``RankingSums.reduce``: means
over users with a held-out item. "Not interested" rows are masked like everything seen, and are never positives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from shared.history import NOT_INTERESTED
from shared.recall.metrics import RECALL_K, RankingSums, top_k
from simulations.datasets.dataset import Dataset, Split

FloatArray = NDArray[np.floating]
Scorer = Callable[[slice], FloatArray]
"""Users (a slice of their indices) -> (users, n_items) scores, higher is better."""
Candidate = TypeVar("Candidate")

CHOICE: Final = "ndcg@10"
"""The validation metric that picks hyper-parameters."""
CHOICE_MARGIN: Final = 1e-4
"""By how much a candidate must win to replace a simpler one; far below the standard error of a mean over users."""
_BLOCK_CELLS: Final = 4_000_000  # users x items scored at once: 32 MB a dense float64 block, whatever the data set


@dataclass(frozen=True)
class Interactions:
    """A data set and its split as sparse (users, n_items) matrices.

    Attributes:
        train: float64, 1 for a train positive.
        valid: bool, validation positives.
        test: bool, test positives.
        seen_before_valid: bool, everything in train, "not interested" included.
        seen_before_test: bool, everything in train and validation.
    """

    train: csr_array
    valid: csr_array
    test: csr_array
    seen_before_valid: csr_array
    seen_before_test: csr_array

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.train.shape[0])

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return int(self.train.shape[1])


def interactions(dataset: Dataset, split: Split) -> Interactions:
    """The sparse matrices of a split data set."""
    shape = (len(dataset.users), len(dataset.items))
    liked = dataset.kind != NOT_INTERESTED

    def matrix(rows: NDArray[np.bool_], dtype: type = np.bool_) -> csr_array:
        return csr_array((rows[rows].astype(dtype), (dataset.user[rows], dataset.item[rows])), shape)

    return Interactions(
        train=matrix(split.train & liked, np.float64),
        valid=matrix(split.valid & liked),
        test=matrix(split.test & liked),
        seen_before_valid=matrix(split.train),
        seen_before_test=matrix(split.train | split.valid),
    )


def evaluate(
    scores: Scorer | FloatArray, data: Interactions, on: Literal["valid", "test"] = "test"
) -> dict[str, float]:
    """Metrics of a recommender by the protocol above.

    Args:
        scores: (users, n_items), or a function that scores a slice of the users.
        data: the split data set.
        on: which held-out items to look for.

    Returns:
        recall@20, ndcg@10, coverage@20, gini@20, head_share@20.

    Raises:
        DataError: the scores hold NaN or do not have the shape of the data.
    """
    relevant = data.test if on == "test" else data.valid
    seen = data.seen_before_test if on == "test" else data.seen_before_valid
    sums = RankingSums.empty(data.n_items)
    for rows in blocks(data.users, data.n_items):
        if not relevant[rows].nnz:  # nobody here is asked for anything
            continue
        block = scores(rows) if callable(scores) else scores[rows]
        ranked = top_k(block, seen[rows].toarray(), RECALL_K)
        sums = sums.merge(RankingSums.of(ranked, relevant[rows].toarray()))
    return sums.reduce()


def blocks(users: int, n_items: int) -> Iterator[slice]:
    """Slices that cover all users, each small enough to be scored densely."""
    step = max(1, _BLOCK_CELLS // max(1, n_items))
    return (slice(start, min(start + step, users)) for start in range(0, users, step))


def choose(
    candidates: Iterable[Candidate], fit: Callable[[Candidate], Scorer], data: Interactions
) -> tuple[Candidate, Scorer]:
    """Fit every candidate and keep the best by ``CHOICE`` on validation items, of near equals the earlier one.

    Args:
        candidates: simplest (most regularised) first.
        fit: candidate -> scorer.
        data: the split data set.

    Raises:
        ValueError: there is no candidate.
    """
    best: tuple[float, Candidate, Scorer] | None = None
    for candidate in candidates:
        scorer = fit(candidate)
        value = evaluate(scorer, data, "valid")[CHOICE]
        if best is None or value > best[0] + CHOICE_MARGIN:
            best = (value, candidate, scorer)
    if best is None:
        raise ValueError("choose needs at least one candidate")
    return best[1:]
