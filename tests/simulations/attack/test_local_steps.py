from __future__ import annotations

import numpy as np
import pytest

from shared.privacy.noise import NoiseSource
from shared.privacy.plan import Mechanism
from simulations.attack.local_steps import private_change
from simulations.seeding import noise

SOURCE = NoiseSource("seeded", lambda n: np.zeros(n, np.uint64))


def test_each_unit_is_clipped_at_every_step_however_rows_are_chunked():
    mechanism = Mechanism(1, 0.5, 1024, 0.0, inner_steps=3)
    rows = np.eye(4)[:3] * np.array([[10.0], [0.1], [0.0]])
    expected = 3 * np.array([[0.5, 0.1, 0.0, 0.0]])
    for chunks in ([rows], [rows[:1], rows[1:]], list(rows[:, None])):
        np.testing.assert_allclose(private_change(lambda c=chunks: c, 4, mechanism, SOURCE), expected, rtol=1e-4)


def test_noise_comes_once_a_step_for_every_coordinate_also_without_units():
    mechanism = Mechanism(1, 0.5, 1024, 2.0, inner_steps=4)
    alone = private_change(list, 20_000, mechanism, noise(1, "local"))
    assert alone.std() == pytest.approx(2.0 * 0.5 * 2.0, rel=0.03)


def test_a_row_that_is_not_finite_counts_as_zeros():
    mechanism = Mechanism(1, 1.0, 1024, 0.0)
    rows = np.array([[np.nan, 0.0], [0.0, 0.25]])
    np.testing.assert_allclose(private_change(lambda: [rows], 2, mechanism, SOURCE), [[0.0, 0.25]], rtol=1e-4)
