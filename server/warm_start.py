"""Context vectors from the one-off private second moment of profiles, and the public sizes that go with it.

The leading directions of the noisy moment are where people differ; each is scaled so that people spread evenly along
all of them, and popularity is a direction of its own. Everything here is post-processing of a released sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.encoder.profile import as_parameters, popular, popularity_direction, unpacked
from shared.encoder.spec import EncoderSpec, Floats, unpack

LARGEST_RANK: Final = 32
LARGEST_WIDTH: Final = 1024


@dataclass(frozen=True)
class Known:
    """What the one-off statistics said, as the encoder reads it.

    Attributes:
        prior: (buckets,) log private popularity.
        peak: mean entry of the most popular bucket over people's histories at length one.
        typical: length of a typical history.
    """

    prior: Floats
    peak: float
    typical: int

    def popularity(self) -> NDArray[np.float64]:
        """(buckets,) over that of the most popular, above 0 to 1; known also where the peak is not."""
        return np.asarray(np.exp(np.asarray(self.prior, np.float64) - self.prior.max()), np.float64)

    def shares(self) -> Floats:
        """(buckets,) mean entry of every bucket."""
        return np.asarray(self.peak * self.popularity(), np.float32)


def rank_of(signal: float) -> int:
    """Directions worth their noise, popularity included: a little more than the cube root of the signal.

    A direction is told from noise when its share of people exceeds about ``sqrt(2 width) / signal`` (Wigner's edge of
    the noise), and shares fall fast. A rule of thumb, the same for every data set; a few directions too many cost
    little, because targets are shrunk one direction at a time.
    """
    return LARGEST_RANK if math.isinf(signal) else max(2, min(LARGEST_RANK, round(signal**0.4)))


def width_of(signal: float, buckets: int) -> int:
    """Popular items that are features of their own: more of them with more signal; noise's edge grows as their root."""
    most = min(buckets, LARGEST_WIDTH)
    return most if math.isinf(signal) else max(2, min(most, round(3.5 * signal**0.6)))


def with_contexts(
    spec: EncoderSpec,
    parameters: Floats,
    moment: NDArray[np.float64],
    known: Known,
    compact: Floats,
    bucket: NDArray[np.int64],
    width: int,
    people: int,
) -> Floats:
    """The parameters with context vectors in place of none.

    Args:
        spec, parameters: the encoder, kind "linear".
        moment: noisy sum of packed profiles.
        known: what the statistics before said.
        compact, bucket: (items, d) and (items,), the public side of features (``shared/encoder/profile.py``).
        width: popular buckets among the features.
        people: public number of units that the sum stands for.

    Returns:
        (size,) float32.
    """
    chosen, count = popular(known.prior, width), width + compact.shape[1]
    direction = np.zeros(count)
    direction[:width] = popularity_direction(known.prior, chosen)
    away = np.eye(count) - np.outer(direction, direction)  # profiles have nothing along popularity: it is all noise
    values, vectors = np.linalg.eigh(away @ unpacked(moment, count) @ away)
    order = np.argsort(-values)[: spec.rank - 1]
    # A person's coordinates have mean square one, as far as the noise lets it be told.
    basis = vectors[:, order] / np.sqrt(np.maximum(values[order], 1.0) / people)
    flat = parameters.copy()
    parts = unpack(spec, flat)
    projection, context = as_parameters(
        np.asarray(basis, np.float32), compact, bucket, known.prior, width, known.typical
    )
    found = basis.shape[1]
    parts["projection"][:, 1 : 1 + found] = projection
    parts["context"][:, 1 : 1 + found] = context
    # Popularity is a direction of its own, of mean one.
    parts["context"][chosen, 0] = direction[:width] / (np.linalg.norm(known.shares()[chosen]) or 1.0)
    return flat
