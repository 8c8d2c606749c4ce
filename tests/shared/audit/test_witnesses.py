"""The second and the third accountant: other code, the same composition."""

from __future__ import annotations

import math

import pytest

from shared.audit.witnesses import prv, rdp, version_of
from shared.privacy.accounting import Sampled, epsilon_sampled

DELTA = 1e-5
COMPOSITIONS = [
    ((4.0, 1.0, 40),),
    ((1.65, 1.0, 4), (3.12, 1.0, 2), (1.9, 1.0, 1), (1.1, 1.0, 1)),
    ((1.0, 0.1, 100),),
    ((4.0, 0.3, 40), (9.0, 0.3, 8), (12.0, 0.3, 1)),
    ((400.0, 1.0, 4),),
    ((0.5, 1.0, 3),),
]


def sampled(events):
    return tuple(Sampled(*event) for event in events)


@pytest.mark.parametrize("events", COMPOSITIONS)
def test_prv_agrees_with_pld_within_two_percent_and_rdp_is_not_below(events):
    printed, numeric = epsilon_sampled(sampled(events), DELTA), prv(sampled(events), DELTA)
    assert numeric == pytest.approx(printed, rel=0.02)
    assert numeric >= printed - 1e-6  # its upper end is an upper bound too
    assert rdp(sampled(events), DELTA) >= printed


def test_the_golden_numbers_of_an_assumption():
    assert prv(sampled([(1.0, 0.1, 100)]), DELTA) == pytest.approx(7.057, abs=0.02)
    assert rdp(sampled([(1.0, 1.0, 100)]), DELTA) == pytest.approx(96.1, abs=0.1)


def test_no_noise_is_infinite_and_nothing_costs_nothing():
    assert prv(sampled([(0.0, 1.0, 1)]), DELTA) == rdp(sampled([(0.0, 1.0, 1)]), DELTA) == math.inf
    assert prv((), DELTA) == rdp((), DELTA) == 0.0
    assert prv(sampled([(1.0, 0.0, 5)]), DELTA) == 0.0


def test_beyond_its_grid_prv_says_nothing():
    assert prv(sampled([(0.05, 1.0, 4)]), DELTA) is None


def test_a_composition_of_absurd_length_is_answered_at_once_or_not_at_all():
    events = sampled([(1e6, 1.0, 10**12)])
    assert prv(events, DELTA) == pytest.approx(epsilon_sampled(events, DELTA), rel=0.02)
    assert prv(sampled([(1e6, 0.5, 10**12)]), DELTA) is None


def test_many_different_releases_are_composed_to_one():
    events = sampled([(40.0 + number / 100.0, 1.0, 1) for number in range(1000)])
    assert prv(events, DELTA) == pytest.approx(epsilon_sampled(events, DELTA), rel=0.02)


def test_a_multiplier_whose_square_is_no_double_is_no_crash():
    assert prv(sampled([(1e-200, 1.0, 1)]), DELTA) in (None, math.inf)
    assert prv(sampled([(1e200, 1.0, 1), (4.0, 1.0, 40)]), DELTA) == pytest.approx(7.51, rel=0.02)
    assert rdp(sampled([(1e200, 1.0, 1)]), DELTA) < 0.01


def test_versions_are_told_and_a_stranger_is_unknown():
    assert version_of("dp-accounting")[0].isdigit()
    assert version_of("no-such-package") == "unknown"


def test_without_the_package_the_second_accountant_cannot_tell(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "prv_accountant", None)
    assert prv(sampled([(4.0, 1.0, 40)]), DELTA) is None
