"""Charts of a run: private estimates and oracle values never share a series, epsilons are never stacked."""

from __future__ import annotations

from simulations.report import figures, tables, wording
from simulations.report.folder import read_run


def test_estimate_and_oracle_are_separate_series_with_separate_marks(run_folder):
    run = read_run(run_folder(rounds=10, every=2))
    recall = figures.curves(run, wording.privacy(run))[0].svg
    measured, key = 6, 1
    assert recall.count('<circle class="mark estimate"') == measured + key
    assert recall.count('<path class="mark oracle"') == measured + key
    assert recall.count('class="whisker estimate"') == measured
    assert "whisker oracle" not in recall


def test_an_oracle_value_never_fills_in_for_a_missing_estimate(run_folder):
    folder = run_folder(rounds=6, each=lambda r: r | {"estimate": None})
    run = read_run(folder)
    for figure in figures.curves(run, wording.privacy(run)):
        assert "mark estimate" not in figure.svg
        assert "no estimate of this one was released" in figure.caption


def test_what_cannot_be_told_is_listed_with_its_reason(run_folder):
    rows = figures.cannot_tell(read_run(run_folder(rounds=4, every=2)))
    assert rows == (("coverage@20", "3 rounds, 1 to 4", "zero and one exposure look the same under this noise"),)


def test_the_plane_joins_oracle_rounds_and_names_the_baselines(run_folder):
    run = read_run(run_folder(rounds=10))
    svg = figures.recall_coverage(run, tables.plane_points(run)).svg
    assert svg.count('class="mark oracle"') == 6
    assert svg.count('class="star"') == 1
    assert svg.count('class="square"') == 5
    assert ">EASE<" in svg
    assert ">this run, test<" in svg


def test_knobs_that_moved_are_drawn_and_the_others_only_named(run_folder):
    knobs = {knob.name: knob for knob in figures.knobs(read_run(run_folder()))}
    assert {name for name, knob in knobs.items() if knob.svg} == {"depth", "exposure_price", "weights.category"}
    assert (knobs["exposure_price"].low, knobs["exposure_price"].high, knobs["exposure_price"].last) == (0, 0.03, 0.02)
    assert "frozen" not in knobs


def test_the_epsilons_of_kinds_are_lines_of_their_own_never_areas(run_folder):
    svg = figures.budget(read_run(run_folder())).svg
    assert svg.count('<path class="line kind-') == 2 * 3  # a line and its key for update, measurement and statistics
    assert svg.count('<path class="line total"') == 2
    assert "everything together 8.00" in svg


def test_without_privacy_an_estimate_is_not_called_private(run_folder):
    run = read_run(run_folder(epsilon=None))
    recall = figures.curves(run, wording.privacy(run))[0].svg
    assert "estimate, not private" in recall
    assert "private estimate" not in recall
