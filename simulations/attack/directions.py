"""Directions for canaries: fixed, random, and orthogonal as far as there is room, so that one does not hide another.

Rows of the orthonormal cosine transform with random signs for the coordinates: spread over all of them like the vector
of a person, and never stored, since a whole set costs one fast transform. What is left over when a set is full goes
into another with signs of its own; two sets are as good as independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct


@dataclass(frozen=True)
class Directions:
    """Unit vectors, one a canary.

    Attributes:
        dimension: d, of each.
        place: (m,) int64 row of the transform; canary j is in set ``j // d``.
        signs: (sets, d) of +1 and -1.
    """

    dimension: int
    place: NDArray[np.int64]
    signs: NDArray[np.float64]


def draw_directions(count: int, dimension: int, rng: np.random.Generator) -> Directions:
    """``count`` directions in ``dimension`` coordinates."""
    sets = -(-count // dimension)
    place = np.concatenate([rng.permutation(dimension) for _ in range(sets)])[:count]
    signs = np.where(rng.integers(0, 2, (sets, dimension)) == 1, 1.0, -1.0)
    return Directions(dimension, place.astype(np.int64), signs.astype(np.float64))


def rows_of(directions: Directions, which: NDArray[np.integer]) -> NDArray[np.float64]:
    """(n, d) vectors of length one of the canaries ``which``."""
    spectrum = np.zeros((len(which), directions.dimension))
    spectrum[np.arange(len(which)), directions.place[which]] = 1.0
    return np.asarray(idct(spectrum, norm="ortho", axis=1) * directions.signs[which // directions.dimension])


def combined(directions: Directions, weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """(d,) sum of all directions, each times its weight, (m,)."""
    total = np.zeros(directions.dimension)
    for part, signs in _sets(directions):
        spectrum = np.zeros(directions.dimension)
        spectrum[directions.place[part]] = weights[part]
        total += signs * idct(spectrum, norm="ortho")
    return total


def products(directions: Directions, vector: NDArray[np.floating]) -> NDArray[np.float64]:
    """(m,) inner product of every direction with a (d,) vector."""
    return np.concatenate(
        [dct(signs * vector, norm="ortho")[directions.place[part]] for part, signs in _sets(directions)]
    )


def _sets(directions: Directions) -> list[tuple[slice, NDArray[np.float64]]]:
    """Each set's canaries, and its signs."""
    size = directions.dimension
    return [(slice(n * size, (n + 1) * size), signs) for n, signs in enumerate(directions.signs)]
