"""From a private vector to bounded integers: finite check, clip, truncation toward zero.

The integer grid has ``steps`` points per clip norm, so one grid unit is ``clip / steps``. Truncation toward zero never
lengthens a vector, which is why no randomised rounding, and no proof of its own, is needed (docs/privacy.md).
This file knows nothing of noise, participation or accounting.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clip_to_grid(vectors: NDArray[np.floating], clip: float, steps: int) -> NDArray[np.int32]:
    """Each row clipped to L2 norm ``clip`` and truncated to the integer grid.

    Args:
        vectors: (units, d) real rows, one per privacy unit.
        clip: largest L2 norm of a row, in the rows' own unit; > 0.
        steps: grid points per clip norm; > 0.

    Returns:
        (units, d) int32 rows with L2 norm at most ``steps``.

    Formal guarantees:
        The sum over rows has L2 sensitivity ``steps`` under zero-out adjacency (one row replaced by zeros), whatever
        the rows hold.

    Edge cases:
        a row with a NaN or an infinity -> zeros (never an error, which would tell the server something);
        an empty history (a zero row) -> zeros; a row far outside the clip -> norm ``steps`` or less;
        integer rows -> treated as reals; no rows -> an empty array.

    Raises:
        ValueError: ``clip`` is not a finite number above 0, or ``steps`` does not fit int32 (a wrong call, not input).
    """
    if not (0 < clip < np.inf and 0 < steps < 2**31):
        raise ValueError(f"clip {clip} must be finite and above 0, steps {steps} between 1 and 2^31 - 1")
    rows = np.asarray(vectors, dtype=np.float64)
    finite = np.isfinite(rows).all(axis=1, keepdims=True)
    rows = np.where(finite, rows, 0.0)
    # Dividing by the largest entry first keeps the squares finite for every finite double.
    largest = np.abs(rows).max(axis=1, initial=0.0)
    unit = rows / np.where(largest > 0, largest, 1.0)[:, None]
    norm = np.sqrt(np.einsum("ij,ij->i", unit, unit))
    with np.errstate(over="ignore"):  # an infinite length is clipped like any other
        length = np.minimum(largest * norm, clip)
    # Of ``length / clip <= 1`` nothing can overflow, however small the clip is.
    scale = length / clip * steps / np.where(norm > 0, norm, 1.0)
    # Adding d squares errs by at most d rounding errors: that much inside, no rounding can step over the bound.
    inside = 1.0 - (rows.shape[1] + 16) * 2.0**-52
    grid: NDArray[np.float64] = np.trunc(unit * (scale * inside)[:, None])
    return grid.astype(np.int32)


def grid_steps(dimension: int) -> int:
    """Grid points per clip norm: 64 per coordinate of a vector that is spread evenly over ``dimension`` coordinates.

    A power of two, so that the grid unit is exact in binary; truncation then costs such a vector less than one percent.
    """
    return 1 << (6 + (max(dimension, 1).bit_length() + 1) // 2)
