"""What the one-off profile release sees of a history: its place in a few hundred public features.

A feature is one of the most popular items, or one direction of the catalogue's compact text vectors. Both come from
public numbers (the catalogue, the private popularity that was released before), so everybody computes the same map. The
direction of popularity itself is taken out: it is known already, and what is known need not be paid for again.

A profile is a row of length one; its second moment, summed over people, is what ``server/warm_start.py`` reads the
context vectors from (principal components under differential privacy: Dwork, Talwar, Thakurta and Zhang, STOC 2014,
"Analyze Gauss", section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.encoder.encode import at_length_one, pad, user_vectors
from shared.encoder.spec import Floats, plain_behaviour
from shared.history import History

TEXT_SHARE: Final = 0.4  # of a typical profile's squared length; the rest are popular items


def profile_length(features: int) -> int:
    """Numbers in a profile release: the upper triangle of a second moment."""
    return features * (features + 1) // 2


def popular(prior: Floats, width: int) -> NDArray[np.int64]:
    """(width,) buckets by falling private popularity; ties by lower bucket."""
    return np.argsort(-prior, kind="stable")[:width].astype(np.int64)


def popularity_direction(prior: Floats, chosen: NDArray[np.int64]) -> Floats:
    """(width,) private popularity of the chosen buckets at length one."""
    mass = np.exp(np.asarray(prior[chosen], np.float64) - prior.max())
    return np.asarray(mass / np.linalg.norm(mass), np.float32)


def popular_mean(compact: Floats, bucket: NDArray[np.int64], prior: Floats) -> Floats:
    """(d,) mean of the items' compact vectors, weighed by private popularity."""
    mass = np.exp(np.asarray(prior[bucket], np.float64) - prior.max())
    return np.asarray((mass @ compact) / mass.sum(), np.float32)


@dataclass(frozen=True)
class FeatureMap:
    """What items add to a profile, worked out for those that are asked for.

    Attributes:
        compact: (items, d) the catalogue's compact text vectors.
        bucket: (items,) row of each item in per-item vectors.
        place: (buckets,) column of each popular bucket, -1 for the others.
        direction: (width,) private popularity of the popular buckets at length one.
        mean: (d,) popular mean of the compact vectors.
        text_scale: of the text's columns.
    """

    compact: Floats
    bucket: NDArray[np.int64]
    place: NDArray[np.int64]
    direction: Floats
    mean: Floats
    text_scale: float

    def rows(self, items: NDArray[np.integer]) -> Floats:
        """(n, width + d): each item's bucket less its part along popularity, and its text less the popular mean."""
        width = len(self.direction)
        place = self.place[self.bucket[items]]
        known = np.flatnonzero(place >= 0)
        out = np.zeros((len(items), width + self.compact.shape[1]), np.float32)
        out[known, place[known]] = 1.0
        out[known, :width] -= self.direction[place[known], None] * self.direction
        out[:, :width] *= _item_scale()
        out[:, width:] = (self.compact[items] - self.mean) * self.text_scale
        return out


def feature_map(compact: Floats, bucket: NDArray[np.int64], prior: Floats, width: int, typical: int) -> FeatureMap:
    """What an item adds to a profile.

    Args:
        compact: (items, d) the catalogue's compact text vectors.
        bucket: (items,) row of each item in per-item vectors.
        prior: (buckets,) log private popularity.
        width: popular buckets that are features of their own.
        typical: public length of a typical history; a sum of that many text vectors is as long as it is.
    """
    chosen = popular(prior, width)
    place = np.full(len(prior), -1)
    place[chosen] = np.arange(len(chosen))
    mean = popular_mean(compact, bucket, prior)
    return FeatureMap(compact, bucket, place, popularity_direction(prior, chosen), mean, _text_scale(typical))


def as_parameters(
    basis: Floats, compact: Floats, bucket: NDArray[np.int64], prior: Floats, width: int, typical: int
) -> tuple[Floats, Floats]:
    """A basis of features as an encoder's parts.

    With all items, ``feature_map(...).rows(items) @ basis == compact @ projection + context[bucket]``.

    Args:
        basis: (width + d, n), without any part along popularity.
        compact, bucket, prior, width, typical: as in :func:`feature_map`.

    Returns:
        ``(projection, context)``: (d, n) and (buckets, n).
    """
    chosen = popular(prior, width)
    projection = np.asarray(basis[len(chosen) :] * _text_scale(typical), np.float32)
    context = np.tile(-popular_mean(compact, bucket, prior) @ projection, (len(prior), 1))
    context[chosen] += basis[: len(chosen)] * _item_scale()
    return projection, np.asarray(context, np.float32)


def _item_scale() -> float:
    return math.sqrt(1.0 - TEXT_SHARE)


def _text_scale(typical: int) -> float:
    return math.sqrt(TEXT_SHARE / max(typical, 1))


def profiles(features: FeatureMap, histories: Sequence[History]) -> Floats:
    """(users, width + d) rows of length one, zeros where nothing is visible; held-out rows are hidden.

    Formal guarantees: a history that is replaced by nothing changes its row to zeros, so the upper triangle below
    changes by at most 1 in L2 norm (:func:`packed`).
    """
    width = len(features.direction) + features.compact.shape[1]
    rows = np.zeros((len(histories), width), np.float32)
    for row, history in enumerate(histories):
        # One at a time: nobody's row may depend, not even in its last bit, on who else is here. Of a catalogue that may
        # be large, the features of a history's own items alone are worked out.
        items, places = np.unique(history.item, return_inverse=True)
        own = replace(history, item=places.astype(np.int32))
        if len(items):
            rows[row] = at_length_one(user_vectors(plain_behaviour(), features.rows(items), pad([own])))[0]
    return rows


def packed(profile: Floats) -> NDArray[np.float64]:
    """(users, n (n + 1) / 2) upper triangles of outer products, off-diagonals times sqrt(2): length 1 for length 1."""
    first, second = np.triu_indices(profile.shape[1])
    wide = profile.astype(np.float64)
    return np.asarray(wide[:, first] * wide[:, second] * np.where(first == second, 1.0, math.sqrt(2.0)), np.float64)


def unpacked(triangle: NDArray[np.float64], features: int) -> NDArray[np.float64]:
    """(features, features) symmetric matrix of a sum of :func:`packed` rows."""
    first, second = np.triu_indices(features)
    out = np.zeros((features, features))
    out[first, second] = triangle / np.where(first == second, 1.0, math.sqrt(2.0))
    out[second, first] = out[first, second]
    return out
