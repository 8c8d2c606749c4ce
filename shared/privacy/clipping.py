"""From a private vector to bounded integers: finite check, clip, truncation toward zero.

The integer grid has ``steps`` points per clip norm, so one grid unit is ``clip / steps``. Truncation toward zero never
lengthens a vector, which is why no randomised rounding, and no proof of its own, is needed (docs/privacy.md).
This file knows nothing of noise, participation or accounting.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 512  # columns whose squares are added up in the rows' own precision
_PLAIN: Final = 2.0**64  # a factor between one over this and this is a normal number in any precision


def clip_to_grid(vectors: NDArray[np.floating], clip: float, steps: int) -> NDArray[np.int32]:
    """Each row clipped to L2 norm ``clip`` and truncated to the integer grid.

    Args:
        vectors: (units, d) real rows, one per privacy unit.
        clip: largest L2 norm of a row, in the rows' own unit; > 0.
        steps: grid points per clip norm; > 0.

    Returns:
        (units, d) int32 rows with L2 norm at most ``steps``. A row's integers depend on no other row.

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
    rows = np.ascontiguousarray(vectors)  # sums of another layout round differently
    rows = rows if rows.dtype == np.float32 else rows.astype(np.float64, copy=False)
    grid = np.empty(rows.shape, np.int32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number becomes zero, whatever it was
        factor, plain = _factors(rows, clip, steps)
        np.multiply(rows, factor[:, None], out=grid, casting="unsafe")  # a cast to integers truncates
        for number in np.flatnonzero(~plain):
            grid[number] = _clipped(rows[number].astype(np.float64), clip, steps)
    return grid


def grid_steps(dimension: int) -> int:
    """Grid points per clip norm: 64 per coordinate of a vector that is spread evenly over ``dimension`` coordinates.

    A power of two, so that the grid unit is exact in binary; truncation then costs such a vector less than one percent.
    """
    return 1 << (6 + (max(dimension, 1).bit_length() + 1) // 2)


def _factors(rows: NDArray[np.floating], clip: float, steps: int) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Grid points to one of each row's unit, and which rows that holds for.

    Not for those that hold nothing, something that is no number, or squares that are infinite or lost in the rows' own
    precision.
    """
    width, own = rows.shape[1], np.finfo(rows.dtype)
    whole = width - width % _BLOCK
    blocks, rest = rows[:, :whole].reshape(len(rows), whole // _BLOCK, _BLOCK), rows[:, whole:]
    # A block is too short for BLAS to share it out: no bit depends on how many cores a machine has.
    squares = np.vecdot(blocks, blocks).sum(1, dtype=np.float64) + np.vecdot(rest, rest)
    # A square below the smallest normal number may be lost: where the sum is this large, all of those are less than a
    # rounding of it.
    near = (squares > max(width, 1) * float(own.tiny / own.eps)) & np.isfinite(squares)
    # What a sum can lack of the true one: a rounding for each product and each addition (Higham, "Accuracy and
    # Stability of Numerical Algorithms", section 3.1), in a block and over the blocks.
    lack = (_BLOCK + 32) * float(own.eps) / 2 + width * 2.0**-52
    factor = steps * np.minimum(1.0 / clip, 1.0 / np.sqrt(np.where(near, squares, 1.0) / (1.0 - lack)))
    plain = near & (factor > 1 / _PLAIN) & (factor < _PLAIN)
    # Inside by more than what rounding can add to the factor and to a product together.
    return (np.where(plain, factor, 0.0) * (1.0 - 4.0 * float(own.eps))).astype(rows.dtype), plain


def _clipped(row: NDArray[np.float64], clip: float, steps: int) -> NDArray[np.int32]:
    """One row, whatever it holds."""
    # By a power of two, exactly where it matters, so that no square of a finite row is infinite or lost.
    _, exponent = math.frexp(np.abs(row).max(initial=0.0))
    exponent = min(max(exponent, -1000), 1022)  # so that both powers of two are normal numbers
    unit = row * 2.0**-exponent
    norm = math.sqrt(float(np.square(unit).sum()))
    if not 0 < norm < math.inf:  # nothing in it, or something that is no number
        return np.zeros(len(row), np.int32)
    # As many grid points as the clip says, fewer in a row that is longer than the clip.
    points = steps * min(2.0**exponent / clip, 1.0 / norm)
    # Adding d squares errs by at most d rounding errors: that much inside, no rounding can step over the bound.
    return (unit * (points * (1.0 - (len(row) + 64) * 2.0**-52))).astype(np.int32)
