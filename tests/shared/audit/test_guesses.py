"""The auditor counts guesses again by code of its own, and agrees with the attack's."""

from __future__ import annotations

import pytest

from shared.audit.guesses import MOST_GUESSES, least_epsilon
from simulations.attack.bounds import METHODS, lower_bound

CASES = [(160, 80, 78, 1e-3), (5000, 1000, 950, 1e-5), (5000, 4500, 2300, 1e-6), (40, 20, 20, 0.01), (100, 10, 3, 1e-5)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_two_implementations_agree(method, case):
    canaries, guesses, right, delta = case
    theirs = lower_bound(method, canaries, guesses, right, delta, 0.95)
    assert least_epsilon(method, canaries, guesses, right, delta, 0.95) == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_nothing_guessed_right_proves_nothing():
    assert least_epsilon("steinke-2023", 10, 5, 0, 1e-5, 0.95) == 0.0


def test_an_unknown_method_or_too_many_guesses_are_not_counted():
    assert least_epsilon("mine", 10, 5, 5, 1e-5, 0.95) is None
    assert least_epsilon("steinke-2023", 10**14, MOST_GUESSES + 1, 0, 1e-5, 0.95) is None
