"""What docs/measurement.md says of shares, bounds and the default run is what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from server import budget, exposures
from server.budget import measuring
from server.job import layout_of_reports, target_of
from shared.privacy.calibration import make_plan
from shared.recall.report import USEFUL, ReportLayout
from simulations.config import resolve

PAGE = (Path(__file__).parents[2] / "docs" / "measurement.md").read_text("utf-8")
TEXT = " ".join(PAGE.split())
USERS, ITEMS = 943, 1682  # MovieLens 100K


def test_the_sentence_of_the_default_run_is_what_the_default_run_prints():
    config = resolve("ml-100k")
    plan = make_plan(target_of(config, USERS, USERS, 10_000, "simulation"))
    assert measuring(plan, layout_of_reports(config, ITEMS), USERS) in TEXT


def test_the_rule_of_the_budget_states_its_numbers():
    assert f"standard error of {budget.ERROR:g} in the smallest cohort" in TEXT
    assert f"at least {budget.LEAST:g} and at most {budget.MOST:g}" in TEXT
    assert f"above {budget.HOPELESS:g} even at {budget.MOST:g}" in TEXT


@pytest.mark.parametrize(
    ("row", "part", "ones"),
    [
        ("recall@k, less 1/2", "recall", 0.25),
        ("ndcg@10, less 1/2", "ndcg", 0.25),
        ('a one for "has held-out items"', "users", 1),
        ("per activity group: ndcg@10 less 1/2", "ndcg:low", 0.25),
        ("per activity group: a one", "users:low", 1),
        ("a one for each of the k items shown, by bucket", "exposure", 20),
    ],
)
def test_the_table_of_shares_is_the_layout(row, part, ones):
    share = ones * ReportLayout(20, 100).weight(part) ** 2
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {row} |"))
    assert line.endswith(f"| {share:.2f} |")


def test_the_shares_set_aside_are_stated():
    shadows, central = ReportLayout(20, 100, 4), ReportLayout(20, 100, 0, central=True)
    assert 4 * shadows.weight("shadow") ** 2 / 4 == pytest.approx(0.2)
    assert (20 * central.weight("distinct")) ** 2 == pytest.approx(0.2)
    assert PAGE.count("| 0.2, taken off the others |") == 2
    assert f"noise multipliers of items, {20 / 0.2**0.5:.0f} at k = 20" in TEXT


def test_the_useful_cohort_and_the_scales_are_stated():
    assert f"fewer than {USEFUL} m users report" in TEXT
    assert "scaled by {}, {} and {}".format(*exposures.SCALE) in TEXT
