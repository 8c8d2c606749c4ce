"""What one sample is."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from client.units import BLOCKS, as_units
from shared.history import History


def cut(history, rows):
    return replace(history, **{f.name: getattr(history, f.name)[rows] for f in fields(History)})


def test_unit_user_is_the_history_as_it_is(history):
    histories, keys = [history(1), history(2)], [7, 7]
    units, words = as_units("user", histories, keys)
    assert units == histories
    assert words == keys


def test_an_event_is_in_exactly_one_block(history):
    one = history(1, 40, 5)
    units, keys = as_units("interaction", [one], [0])
    assert len(units) == len(keys) == BLOCKS
    assert sorted(np.concatenate([u.item for u in units]).tolist()) == sorted(one.item.tolist())
    assert sum(u.held_out.sum() for u in units) == 5


@pytest.mark.parametrize("which", [0, 12, 29])
def test_without_one_event_one_block_changes(history, which):
    one = history(1, 30, 0)
    before, _ = as_units("interaction", [one], [9])
    after, _ = as_units("interaction", [cut(one, np.arange(30) != which)], [9])
    differ = [a for a, b in zip(before, after, strict=True) if not np.array_equal(a.item, b.item)]
    assert len(differ) == 1
    assert one.item[which] in differ[0].item


def test_the_number_of_samples_does_not_depend_on_the_history(history):
    histories = [history(1, 0, 0), history(2, 48, 4)]
    units, keys = as_units("interaction", histories, [1, 2])
    assert len(units) == len(keys) == 2 * BLOCKS
    assert len(set(keys)) == 2 * BLOCKS
    assert all(len(u) == 0 for u in units[:BLOCKS])


def test_every_event_has_a_draw_of_its_own(history):
    """Else taking one away would move the others: then two blocks a user, or all, would differ."""
    one, together = history(1, 12, 0), np.zeros((12, 12))
    for seed in range(2000):
        units, _ = as_units("interaction", [one], [seed])
        block = np.array([next(b for b, u in enumerate(units) if item in u.item) for item in one.item])
        together += block[:, None] == block[None]
    pairs = together[np.triu_indices(12, 1)] / 2000
    assert np.abs(pairs - 1 / BLOCKS).max() < 0.04  # five standard errors
