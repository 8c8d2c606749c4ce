from __future__ import annotations

import math
import xml.etree.ElementTree as ET  # of a file that this test writes
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.frontier.plot import STYLES, draw, lines, place, spaced
from simulations.frontier.rows import BOTH, METRICS, Claim, Outcome, collect


def outcome(name, epsilon, value, seed=0):
    return Outcome(name, epsilon, seed, {BOTH: dict.fromkeys(METRICS, value)}, Claim(epsilon))


ROWS = collect(
    [
        *(outcome("fedrecall", epsilon, 0.3 + 0.01 * seed, seed) for epsilon in (None, 8.0, 1.0) for seed in (0, 1)),
        *(outcome("DP-EASE", epsilon, 0.25) for epsilon in (8.0, 1.0)),
        outcome("EASE", None, 0.4),
        outcome("iALS", None, 0.4),
    ]
)


def test_doublings_are_equally_far_and_no_dp_stands_right_of_everything():
    asked = [None, 8.0, 4.0, 2.0, 0.5]
    assert place(4.0, asked) - place(2.0, asked) == place(8.0, asked) - place(4.0, asked)
    assert place(None, asked) > max(place(epsilon, asked) for epsilon in asked if epsilon)
    assert math.isfinite(place(None, [None]))


def test_what_has_no_epsilon_is_a_flat_line_and_ours_never_is():
    drawn = {line.name: line for line in lines(ROWS, "recall@20")}
    assert list(drawn) == ["fedrecall", "DP-EASE", "EASE"]  # iALS stands in the table alone
    assert [line.flat for line in drawn.values()] == [False, False, True]
    assert drawn["fedrecall"].x == tuple(sorted(drawn["fedrecall"].x))
    assert (drawn["fedrecall"].low[0], drawn["fedrecall"].high[0]) == (0.3, 0.31)
    (alone,) = lines(collect([outcome("fedrecall", None, 0.3)]), "recall@20")
    assert not alone.flat


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_labels_never_overlap_and_keep_their_order(wanted, gap):
    heights = spaced(wanted, gap)
    assert all(high - low >= gap - 1e-9 for low, high in pairwise(sorted(heights)))
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    assert [heights[at] for at in order] == sorted(heights)


def test_labels_that_have_room_stay_where_they_are():
    assert spaced([0.5, 0.1, 0.9], 0.1) == [0.5, 0.1, 0.9]


def test_both_files_are_written_the_same_every_time_with_names_as_text(tmp_path):
    for name in ("one", "two.half"):
        draw(ROWS, "title & split", tmp_path / name)
    for ending in ("svg", "png"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.half.{ending}").read_bytes()
    words = "".join(ET.parse(tmp_path / "one.svg").getroot().itertext())  # noqa: S314 - written above
    assert all(word in words for word in ("fedrecall", "DP-EASE", "EASE", "no DP", "recall@20", "ndcg@10", "title &"))


def test_a_full_disk_leaves_the_pictures_that_were_there(tmp_path, monkeypatch):
    draw(ROWS, "before", tmp_path / "x")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shared.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        draw(ROWS, "after", tmp_path / "x")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_epsilon_alone_is_drawn(tmp_path):
    draw(collect([outcome("fedrecall", 8.0, 0.0)]), "", tmp_path / "x")
    draw(collect([outcome("fedrecall", None, 0.2)]), "", tmp_path / "y")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_no_two_lines_look_alike():
    assert len({(style.marker, style.dash, style.colour) for style in STYLES.values()}) == len(STYLES)
    assert len({style.colour for style in STYLES.values()}) == len(STYLES)


@pytest.mark.parametrize("name", ["EASE", "popularity"])
def test_flat_lines_differ_from_ours_in_more_than_colour(name):
    assert STYLES[name].dash != STYLES["fedrecall"].dash
