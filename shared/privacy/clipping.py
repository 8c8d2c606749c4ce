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

# Columns at a time: what a row needs on the way stays in the fastest cache. BLAS adds up to 10,000 products on one
# thread, so that no bit depends on how many cores a machine has.
_BLOCK: Final = 8192
_PLAIN: Final = 2.0**64  # a factor between one over this and this is a normal number of float32 too


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
    rows = np.asarray(vectors)
    rows = rows if rows.dtype == np.float32 else rows.astype(np.float64)
    grid = np.zeros(rows.shape, np.int32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number becomes zero, whatever it was
        for number, row in enumerate(rows):
            _clip_row(row, clip, steps, grid[number])
    return grid


def grid_steps(dimension: int) -> int:
    """Grid points per clip norm: 64 per coordinate of a vector that is spread evenly over ``dimension`` coordinates.

    A power of two, so that the grid unit is exact in binary; truncation then costs such a vector less than one percent.
    """
    return 1 << (6 + (max(dimension, 1).bit_length() + 1) // 2)


def _clip_row(row: NDArray[np.floating], clip: float, steps: int, out: NDArray[np.int32]) -> None:
    unit, exponent = _without_exponent(row)
    norm = math.sqrt(_squares(unit))
    if not 0 < norm < math.inf:  # nothing in it, or something that is no number
        return
    # Grid points to one of the unit's: as many as the clip says, fewer in a row that is longer than the clip.
    points = steps * min(2.0**exponent / clip, 1.0 / norm)
    # Adding d squares errs by at most d rounding errors: that much inside, no rounding can step over the bound.
    _truncate(unit, points * (1.0 - (len(row) + 32) * 2.0**-52), out)


def _without_exponent(row: NDArray[np.floating]) -> tuple[NDArray[np.floating], int]:
    """``(unit, e)`` with ``row = unit * 2^e``, exactly where it matters: no square of a finite row is infinite or lost.

    Squares of float32 are neither in float64, whatever they are of.
    """
    if row.dtype == np.float32:
        return row, 0
    _, exponent = math.frexp(np.abs(row).max(initial=0.0))
    exponent = min(max(exponent, -1000), 1023)  # so that both powers of two are normal numbers
    return row * 2.0**-exponent, exponent


def _squares(row: NDArray[np.floating]) -> float:
    """The sum of the squares, in float64; not finite if the row is not."""
    total = 0.0
    for start in range(0, len(row), _BLOCK):
        part = row[start : start + _BLOCK].astype(np.float64)
        total += float(np.dot(part, part))
    return total


def _truncate(row: NDArray[np.floating], factor: float, out: NDArray[np.int32]) -> None:
    """``out`` becomes ``factor * row``, truncated toward zero; in the row's own precision where that has an exponent.

    The factor gives way by more than what rounding can add to it and to a product together.
    """
    plain = row.dtype == np.float32 and 1 / _PLAIN < factor < _PLAIN
    own = np.float32(factor * (1.0 - 2.0**-21)) if plain else np.float64(factor * (1.0 - 2.0**-50))
    for start in range(0, len(row), _BLOCK):
        part = slice(start, start + _BLOCK)
        out[part] = np.multiply(row[part], own)  # a cast to integers truncates
