"""Clipping where rounding is at its worst: rows made so that adding up their squares loses as much as it can."""

from __future__ import annotations

import numpy as np
import pytest

from shared.privacy.clipping import clip_to_grid

WIDTHS = (64, 511, 512, 513, 2048, 5000)
LAYOUTS = {
    "one after another": np.ascontiguousarray,
    "column by column": np.asfortranarray,
    "every second number": lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
    "backwards": lambda rows: np.ascontiguousarray(rows[:, ::-1])[:, ::-1],
}


def swallowed(width):
    """Rows of float32 whose small squares vanish beside the first of their block, when added one by one."""
    rows = np.ones((3, width), np.float32)
    rows[:, ::512] = 4096.0  # its square is 2^24: the next number that float32 has is two above
    return rows


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("steps", [1 << 16, 1 << 30, (1 << 31) - 1])
def test_what_addition_swallows_lengthens_no_row(layout, width, steps):
    rows = LAYOUTS[layout](swallowed(width))
    length = float(np.linalg.norm(rows[0].astype(np.float64)))
    for clip in (1e-3, length, length * (1 - 2.0**-24)):
        grid = clip_to_grid(rows, clip, steps)
        assert grid.any()
        assert all(sum(int(x) ** 2 for x in row) <= steps**2 for row in grid)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_row_as_long_as_the_clip_to_the_last_digit_stays_inside(kind, size):
    rng = np.random.default_rng(0)
    for width in WIDTHS:
        rows = (rng.standard_normal((3, width)) * size).astype(kind)
        clip, steps = float(np.linalg.norm(rows[0].astype(np.float64))), (1 << 31) - 1
        for nearly in (np.nextafter(clip, 0), clip, np.nextafter(clip, np.inf)):
            row = clip_to_grid(rows[:1], float(nearly), steps)[0]
            squared = sum(int(x) ** 2 for x in row)
            assert squared <= steps**2
            assert squared > 0.9999 * steps**2 or width > 1000  # truncation alone shortens it
