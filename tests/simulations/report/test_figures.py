"""Charts of a run: private estimates and oracle values never share a series, epsilons are never stacked."""

from __future__ import annotations

import re

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


def test_metrics_that_cannot_be_told_for_one_reason_share_a_row(run_folder):
    why = {"gap@10": "the cohort is too small", "ndcg@10:low": "the cohort is too small", "gini@20": "other"}
    rows = figures.cannot_tell(read_run(run_folder(rounds=2, each=lambda r: r | {"cannot_tell": why})))
    assert rows == (
        ("gap@10, ndcg@10:low", "2 rounds, 1 to 2", "the cohort is too small"),
        ("gini@20", "2 rounds, 1 to 2", "other"),
    )


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


def grouped(record):
    groups = {"ndcg@10:low": 0.2, "ndcg@10:middle": 0.25, "ndcg@10:high": 0.3, "gap@10": 0.1}
    estimate = {name: {"value": value, "low": value - 0.02, "high": value + 0.02} for name, value in groups.items()}
    return record | {"estimate": estimate, "oracle": groups}


def test_activity_groups_share_a_chart_and_their_gap_has_its_own(run_folder):
    run = read_run(run_folder(rounds=3, each=grouped))
    found = {figure.metric: figure for figure in figures.curves(run, wording.privacy(run))}
    svg = found["ndcg@10:activity"].svg
    assert [svg.count(f'class="whisker group-{name}"') for name in ("low", "middle", "high")] == [3, 3, 3]
    places = [re.search(rf'class="whisker group-{name}" d="M([\d.]+) ', svg)[1] for name in ("low", "middle", "high")]
    assert len(set(places)) == 3  # side by side
    assert "oracle" not in svg  # estimates and oracle values do not mix
    assert "gap@10: ranking quality" in found["gap@10"].caption
    assert [len(cells) for _, cells in figures.measured(run)] == [len(figures.METRICS)] * 3
    assert ("0.250 (0.230 to 0.270)", "0.250") in figures.measured(run)[0][1]


def test_without_estimates_of_activity_groups_their_oracle_values_say_so(run_folder):
    run = read_run(run_folder(rounds=3, each=lambda r: grouped(r) | {"estimate": None}))
    found = {figure.metric: figure for figure in figures.curves(run, wording.privacy(run))}
    assert "short histories, oracle" in found["ndcg@10:activity"].svg
    assert "whisker" not in found["ndcg@10:activity"].svg
    assert "oracle values, no estimate" in found["ndcg@10:activity"].caption
