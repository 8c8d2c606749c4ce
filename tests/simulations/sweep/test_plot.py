"""Pictures of a sweep: written whole, the same each time, with every line told apart."""

from __future__ import annotations

import xml.etree.ElementTree as ET  # of a file that this test writes
from itertools import pairwise

import pytest

from simulations.frontier.rows import BOTH, METRICS, VALID, Claim, Outcome, collect
from simulations.sweep.plot import MOST_LINES, apart, draw, settings, style


def outcome(name, epsilon, seed, value, on=BOTH):
    return Outcome(name, epsilon, seed, {on: dict.fromkeys(METRICS, value)}, Claim(epsilon))


def rows(epsilons=(None, 8.0, 1.0), names=("fedrecall, policy.k=10", "fedrecall, policy.k=20"), on=BOTH):
    ours = [
        outcome(name, epsilon, seed, 0.3 + 0.01 * seed, on) for name in names for epsilon in epsilons for seed in (0, 1)
    ]
    return collect([*ours, outcome("popularity", None, 0, 0.1, on), outcome("EASE", None, 0, 0.4, on)])


def test_both_files_are_the_same_every_time_with_names_as_text(tmp_path):
    for name in ("one", "two.half"):
        draw(rows(), BOTH, "title & split", tmp_path / name)
    for ending in ("svg", "png"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.half.{ending}").read_bytes()
    words = "".join(ET.parse(tmp_path / "one.svg").getroot().itertext())  # noqa: S314 - written above
    for word in ("policy.k=10", "policy.k=20", "EASE", "popularity", "no DP", "title &", *METRICS):
        assert word in words


@pytest.mark.parametrize("epsilons", [(None,), (8.0,), (8.0, 0.5)])
def test_whatever_was_asked_is_drawn(tmp_path, epsilons):
    draw(rows(epsilons, on=VALID), VALID, "", tmp_path / "x")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_a_section_whose_runs_all_failed_is_drawn(tmp_path):
    draw(rows(names=()), BOTH, "", tmp_path / "x")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_no_two_lines_look_alike():
    assert len({(style(number).colour, style(number).marker) for number in range(MOST_LINES)}) == MOST_LINES


@pytest.mark.parametrize("lines", [1, 2, 17, MOST_LINES])
@pytest.mark.parametrize("places", [(), (3.0,), (0.0, 1.0, 5.0), (3.0, 3.2)])
def test_lines_at_one_epsilon_stay_nearer_to_it_than_to_another(lines, places):
    near = min([later - earlier for earlier, later in pairwise(places)] + [1.0])
    assert apart(lines, places) > 0
    assert apart(lines, places) * (lines - 1) / 2 < near / 2


def test_a_line_is_drawn_once_however_many_epsilons_it_has():
    assert settings(rows((8.0, 1.0))) == ("fedrecall, policy.k=10", "fedrecall, policy.k=20")
