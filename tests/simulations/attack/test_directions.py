from __future__ import annotations

import numpy as np
import pytest

from simulations.attack.directions import combined, draw_directions, products, rows_of


@pytest.mark.parametrize(("count", "dimension"), [(5, 16), (16, 16), (40, 16), (7, 1), (30, 13)])
def test_fast_products_and_sums_are_those_of_the_rows(count, dimension):
    rng = np.random.default_rng(1)
    directions = draw_directions(count, dimension, rng)
    rows = rows_of(directions, np.arange(count))
    weights, vector = rng.normal(size=count), rng.normal(size=dimension)
    np.testing.assert_allclose(products(directions, vector), rows @ vector, atol=1e-12)
    np.testing.assert_allclose(combined(directions, weights), weights @ rows, atol=1e-12)


def test_every_direction_has_length_one_and_is_spread_over_all_coordinates():
    rows = rows_of(draw_directions(200, 512, np.random.default_rng(2)), np.arange(200))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0)
    assert np.abs(rows).max() <= np.sqrt(2 / 512) + 1e-12


def test_canaries_do_not_hide_one_another_while_there_is_room():
    rows = rows_of(draw_directions(64, 64, np.random.default_rng(3)), np.arange(64))
    np.testing.assert_allclose(rows @ rows.T, np.eye(64), atol=1e-12)


def test_beyond_that_they_are_as_good_as_independent():
    rows = rows_of(draw_directions(512, 256, np.random.default_rng(4)), np.arange(512))
    between = rows[:256] @ rows[256:].T
    assert between.std() == pytest.approx(256**-0.5, rel=0.1)
