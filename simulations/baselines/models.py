"""Classical recommenders without privacy. Each ``fit`` returns a ``Scorer`` of the histories that it is given to read.

- popularity: number of train users of an item, the floor.
- TF-IDF: cosine between an item's TF-IDF vector and the mean vector of a user's items (Lops, de Gemmis and Semeraro,
  Recommender Systems Handbook 2011, section 3.3.1).
- ItemKNN: shrunk cosine between items, the nearest neighbours only (Deshpande and Karypis 2004; shrinkage as in Bell
  and Koren 2007).
- EASE: linear item-item model with a zero diagonal (Steck 2019, equation 8).
- iALS: implicit matrix factorisation by alternating least squares (Hu, Koren and Volinsky 2008), library ``implicit``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix

from shared.errors import DataError
from shared.recall.metrics import top_k
from simulations.baselines.protocol import FloatArray, Scorer

EASE_RIDGES: Final = (1000.0, 500.0, 300.0, 200.0, 100.0)
KNN_CHOICES: Final = ((200, 50.0), (50, 50.0), (200, 0.0), (50, 0.0))
"""(neighbours, shrink), most shrunk first."""
IALS_FACTORS: Final = 32
# Chosen on MovieLens-100K's validation items, random split; on Online Retail within 0.001 of the best of six pairs.
IALS_REGULARISATION: Final = 22.0
IALS_ALPHA: Final = 2.5
IALS_ITERATIONS: Final = 15
# scikit-learn's words (two characters or more) without bare years: the published TF-IDF row reads titles and genres.
_WORD: Final = r"(?u)\b(?!\d{4}\b)\w\w+\b"


def fit_popularity(train: csr_array) -> Scorer:
    """The same scores for everybody: how many users have the item in train."""
    return constant_scores(np.asarray(train.sum(axis=0), np.float64).ravel())


def constant_scores(scores: NDArray[np.float64]) -> Scorer:
    """A scorer that shows everybody the same (n_items,) scores."""
    return lambda rows: np.broadcast_to(scores, (rows.stop - rows.start, len(scores)))


def tfidf_vectors(texts: Sequence[str]) -> csr_array:
    """TF-IDF vectors of the items' texts: (n_items, words), unit-norm rows (all-zero where a text has no word).

    Raises:
        DataError: no text has a word of two characters.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - heavy import

    try:
        return csr_array(TfidfVectorizer(token_pattern=_WORD).fit_transform(texts))
    except ValueError as error:
        raise DataError(
            f"none of the {len(texts)} item texts has a word; TF-IDF needs titles or descriptions"
        ) from error


def fit_tfidf(read: csr_array, vectors: csr_array) -> Scorer:
    """Cosine of item vectors with the mean vector of a history's items.

    Args:
        read: (rows, n_items), 1 for a positive: the histories to score.
        vectors: (n_items, d) unit-norm rows.
    """
    profiles = read @ vectors
    norms = np.sqrt(np.asarray(profiles.multiply(profiles).sum(axis=1), np.float64)).reshape(-1, 1)

    def score(rows: slice) -> FloatArray:
        scores: FloatArray = (profiles[rows] @ vectors.T).toarray() / np.maximum(norms[rows], 1e-12)
        return scores

    return score


def gram(train: csr_array) -> NDArray[np.float64]:
    """Dense (n_items, n_items) co-occurrence counts; the diagonal is popularity."""
    counts: NDArray[np.float64] = (train.T @ train).toarray()
    return counts


def fit_itemknn(read: csr_array, counts: NDArray[np.float64], neighbours: int, shrink: float) -> Scorer:
    """Sum of an item's shrunk cosine similarities to those of a history's items that are among its nearest neighbours.

    Args:
        read: (rows, n_items), 1 for a positive: the histories to score.
        counts: ``gram(train)``.
        neighbours: how many similar items each item keeps.
        shrink: added to the cosine's denominator, so that similarities of rare items count less.
    """
    root = np.sqrt(np.diag(counts))
    denominator = np.outer(root, root) + shrink
    similarity = np.divide(counts, denominator, out=np.zeros_like(counts), where=denominator > 0)
    np.fill_diagonal(similarity, 0.0)
    nearest = top_k(similarity, None, min(neighbours, len(counts)))
    kept = np.zeros_like(similarity)
    np.put_along_axis(kept, nearest, np.take_along_axis(similarity, nearest, axis=1), axis=1)
    return linear_scores(read, kept.T)


def fit_ease(read: csr_array, counts: NDArray[np.float64], ridge: float) -> Scorer:
    """EASE: B = -P / diag(P) off the diagonal, P = (X'X + ridge I)^-1; a history's scores are its row times B.

    Args:
        read: (rows, n_items), 1 for a positive: the histories to score.
        counts: ``gram(train)``.
        ridge: L2 penalty, above 0.
    """
    regularised = counts.copy()
    regularised[np.diag_indices(len(counts))] += ridge
    return linear_scores(read, ease_weights(np.linalg.inv(regularised)))


def ease_weights(precision: FloatArray) -> FloatArray:
    """EASE's item-item weights from the (n_items, n_items) inverse of the regularised Gram matrix."""
    weights: FloatArray = -precision / np.diag(precision)
    np.fill_diagonal(weights, 0.0)
    return weights


def linear_scores(read: csr_array, weights: FloatArray) -> Scorer:
    """A scorer whose scores are the history's row of ``read`` times (n_items, n_items) weights."""

    def score(rows: slice) -> FloatArray:
        scores: FloatArray = read[rows] @ weights
        return scores

    return score


def fit_ials(train: csr_array, further: csr_array, seed: int) -> Scorer:
    """Matrix factorisation (iALS); exact solves on one thread, so that a seed gives one result.

    Args:
        train: (users, n_items), 1 for a positive.
        further: (rows, n_items), more histories to score, folded in: factors solved for the fitted item factors. Their
            rows come after those of ``train``.
        seed: of the factors' start.
    """
    from implicit.als import AlternatingLeastSquares  # noqa: PLC0415 - heavy import
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415 - beside implicit

    with threadpool_limits(1, "blas"):  # implicit warns about BLAS threads beside its own
        model = AlternatingLeastSquares(
            factors=IALS_FACTORS,
            regularization=IALS_REGULARISATION,
            alpha=IALS_ALPHA,
            iterations=IALS_ITERATIONS,
            use_cg=False,
            use_gpu=False,
            num_threads=1,
            random_state=seed,
        )
        model.fit(csr_matrix(train.astype(np.float32)), show_progress=False)
        folded = model.recalculate_user(np.arange(further.shape[0]), csr_matrix(further.astype(np.float32)))
    users, items = np.vstack([model.user_factors, folded]), np.asarray(model.item_factors)
    return lambda rows: users[rows] @ items.T
