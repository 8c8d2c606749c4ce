from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.privacy.clipping import clip_to_grid, grid_steps

any_float = st.floats(width=64, allow_nan=True, allow_infinity=True, allow_subnormal=True)
any_rows = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=any_float)
any_clip = st.sampled_from([5e-324, 1e-310, 1e-300, 1e-3, 0.5, 1.0, 3.7, 1e300, 1.7e308])
any_steps = st.sampled_from([1, 2, 64, 127, 1 << 16, (1 << 31) - 1])


def squared_norm(row):
    return sum(int(x) ** 2 for x in row)  # whole numbers: nothing rounds


# --- the bound, for whatever a row holds


@given(any_rows, any_clip, any_steps)
@example(np.array([[1e308, 1e308]]), 1.7e308, 64)
@example(np.array([[5e-324, 0.0]]), 5e-324, (1 << 31) - 1)
@example(np.array([[1.0, 0.0]]), 1e-320, 64)  # steps / clip is infinite
def test_no_row_is_longer_than_the_steps(rows, clip, steps):
    grid = clip_to_grid(rows, clip, steps)
    assert grid.dtype == np.int32
    assert grid.shape == rows.shape
    assert all(squared_norm(row) <= steps**2 for row in grid)


@given(st.integers(0, 1000), st.sampled_from([1, 3, 1000, 30_000]), st.sampled_from([1 << 16, (1 << 31) - 1]))
def test_the_bound_holds_to_the_last_grid_point_in_many_dimensions(seed, dimension, steps):
    row = np.random.default_rng(seed).standard_cauchy((1, dimension)) + 0.1
    assert squared_norm(clip_to_grid(row, 0.5, steps)[0]) <= steps**2


@given(any_rows, st.floats(1e-3, 1e3), any_steps)
def test_taking_one_row_away_moves_the_sum_by_at_most_the_steps(rows, clip, steps):
    without = rows.copy()
    without[0] = 0.0
    both = (clip_to_grid(r, clip, steps).sum(axis=0, dtype=np.int64) for r in (rows, without))
    assert squared_norm(next(both) - next(both)) <= steps**2


@given(any_rows, st.floats(1e-3, 1e3), any_steps)
def test_what_one_row_holds_changes_no_other(rows, clip, steps):
    whole = clip_to_grid(rows, clip, steps)
    assert np.array_equal(whole, np.concatenate([clip_to_grid(row[None], clip, steps) for row in rows]))


def test_943_rows_in_one_call_are_943_calls():
    rows = np.random.default_rng(0).standard_normal((943, 50)) * np.logspace(-3, 3, 943)[:, None]
    alone = [clip_to_grid(row[None], 0.5, 512) for row in rows]
    assert np.array_equal(clip_to_grid(rows, 0.5, 512), np.concatenate(alone))


# --- float32, which is clipped in its own precision: the bound holds as it does for double, a row alone or in a batch

any_single = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True),
)


@given(any_single, any_clip, any_steps)
@example(np.full((1, 4), 3.4e38, np.float32), 1.7e308, 64)
@example(np.full((1, 3), 1e-45, np.float32), 5e-324, (1 << 31) - 1)
@example(np.array([[1.5e38, 2e38]], np.float32), 3.7, 1)  # the factor is no normal float32
def test_no_row_of_float32_is_longer_than_the_steps(rows, clip, steps):
    grid = clip_to_grid(rows, clip, steps)
    assert (grid.dtype, grid.shape) == (np.int32, rows.shape)
    assert all(squared_norm(row) <= steps**2 for row in grid)
    assert np.array_equal(grid, np.concatenate([clip_to_grid(row[None], clip, steps) for row in rows]))


@given(st.integers(0, 1000), st.sampled_from([1, 3, 1000, 30_000]), st.sampled_from([1 << 16, (1 << 31) - 1]))
def test_the_bound_holds_to_the_last_grid_point_in_many_dimensions_of_float32(seed, dimension, steps):
    row = np.random.default_rng(seed).standard_cauchy((1, dimension)).astype(np.float32) + np.float32(0.1)
    assert squared_norm(clip_to_grid(row, 0.5, steps)[0]) <= steps**2


@given(st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 1e3]))
def test_float32_rows_mean_what_the_same_numbers_mean_in_double(seed, size):
    rows = (np.random.default_rng(seed).standard_normal((3, 9000)) * size / 94).astype(np.float32)
    single, double = clip_to_grid(rows, 1.0, 1 << 13), clip_to_grid(rows.astype(np.float64), 1.0, 1 << 13)
    assert np.abs(single - double).max() <= 1
    # The bound on what sums of squares lack in single precision shortens a row by 16 parts in a million.
    assert (single != double).mean() < 3e-3


# --- what the integers mean


def test_a_short_row_keeps_its_length_and_direction():
    row = np.array([[0.3, -0.1, 0.0]])
    assert clip_to_grid(row, 1.0, 1 << 20)[0] / (1 << 20) == pytest.approx(row[0], abs=2e-6)


def test_a_long_row_keeps_its_direction_and_gets_the_length_of_the_clip():
    grid = clip_to_grid(np.array([[300.0, -400.0]]), 0.5, 1000)[0]
    assert grid.tolist() == [599, -799]  # of 600 and -800, toward zero


@pytest.mark.parametrize("clip", [0.25, 1.0, 64.0])
def test_the_clip_is_in_the_unit_of_the_rows(clip):
    inside, outside = np.array([[0.9 * clip]]), np.array([[2.0 * clip]])
    assert clip_to_grid(inside, clip, 1000)[0, 0] == 899
    assert clip_to_grid(outside, clip, 1000)[0, 0] == 999


@given(hnp.arrays(np.float64, (2, 5), elements=st.floats(-1, 1)))
def test_truncation_goes_toward_zero(rows):
    rows /= max(1.0, float(np.linalg.norm(rows, axis=1).max()))
    assert np.all(np.abs(clip_to_grid(rows, 1.0, 100)) <= np.abs(rows) * 100)


@given(any_rows)
def test_the_sign_of_a_row_is_the_sign_of_its_integers(rows):
    assert np.array_equal(clip_to_grid(-rows, 0.5, 64), -clip_to_grid(rows, 0.5, 64))


# --- edges


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_makes_its_row_zero_and_no_other(bad):
    grid = clip_to_grid(np.array([[bad, 1.0], [1.0, 0.0]]), 1.0, 64)
    assert grid[0].tolist() == [0, 0]
    assert grid[1, 0] > 0


def test_an_empty_history_is_a_row_of_zeros():
    assert clip_to_grid(np.zeros((1, 3)), 1.0, 64).tolist() == [[0, 0, 0]]
    assert clip_to_grid(-np.zeros((1, 3)), 1.0, 64).tolist() == [[0, 0, 0]]


def test_no_rows_and_no_columns_stay_so():
    assert clip_to_grid(np.zeros((0, 3)), 1.0, 64).shape == (0, 3)
    assert clip_to_grid(np.zeros((2, 0)), 1.0, 64).shape == (2, 0)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int32, np.int64, np.bool_, np.longdouble])
def test_other_numbers_are_read_as_reals(kind):
    rows = np.array([[1, 0], [0, 1]], dtype=kind)
    assert clip_to_grid(rows, 2.0, 64).tolist() == [[31, 0], [0, 31]]


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_that_bounds_nothing_is_a_wrong_call(clip):
    with pytest.raises(ValueError, match="clip"):
        clip_to_grid(np.ones((1, 1)), clip, 64)


@pytest.mark.parametrize("steps", [0, -1, 2**31])
def test_steps_that_are_no_int32_are_a_wrong_call(steps):
    with pytest.raises(ValueError, match="steps"):
        clip_to_grid(np.ones((1, 1)), 1.0, steps)


# --- the grid


@given(st.integers(0, 10_000_000))
def test_a_spread_vector_has_64_grid_points_a_coordinate_or_more(dimension):
    steps = grid_steps(dimension)
    assert steps & (steps - 1) == 0
    assert 64 <= steps / math.sqrt(max(dimension, 1)) <= 128


def test_truncation_costs_a_spread_vector_less_than_one_percent():
    dimension = 4096
    row = np.full((1, dimension), 1 / 64) * np.random.default_rng(0).uniform(0.5, 1.5, dimension)
    row /= np.linalg.norm(row)
    grid = clip_to_grid(row, 1.0, grid_steps(dimension)) / grid_steps(dimension)
    assert np.linalg.norm(grid) > 0.99
