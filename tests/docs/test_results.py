"""Published results hold together: page, table and data are of one frontier, and every epsilon is kept."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from statistics import fmean

import pytest

RESULTS = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*.json"))
results = pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)


def read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


@results
def test_the_page_shows_the_numbers_the_command_and_the_plot(path):
    found, page = read(path), path.with_suffix(".md").read_text("utf-8")
    assert found["command"] in page
    for row in found["rows"]:
        for metrics in row["metrics"].values():
            for spread in metrics.values():
                assert f"{spread['mean']:.4f}" in page, f"{row['name']} at epsilon {row['epsilon']}"
    for ending in ("png", "svg"):
        assert path.with_suffix(f".{ending}").stat().st_size > 1000


@results
def test_means_are_those_of_the_seeds(path):
    for row in read(path)["rows"]:
        for metrics in row["metrics"].values():
            for spread in metrics.values():
                assert len(spread["each"]) == len(row["seeds"])
                assert spread["mean"] == pytest.approx(fmean(spread["each"]))


@results
def test_no_row_claims_more_privacy_than_was_asked_for_or_says_less_than_all_of_it(path):
    for row in read(path)["rows"]:
        claim = row["claim"]
        assert (claim["epsilon"] is None) == (row["epsilon"] is None)
        if claim["epsilon"] is not None:
            assert claim["epsilon"] <= row["epsilon"]
            assert all(claim[key] for key in ("unit", "adjacency", "trust", "delta", "accountant", "covers", "tuning"))


@results
def test_every_row_is_a_mean_of_three_seeds_and_what_is_special_stands_on_the_page(path):
    found, page = read(path), path.with_suffix(".md").read_text("utf-8")
    assert all(len(row["seeds"]) >= 3 for row in found["rows"])
    assert all(remark in page for remark in found["remarks"])


@results
def test_the_csv_is_the_same_table(path):
    rows = list(csv.DictReader(path.with_suffix(".csv").read_text("utf-8").splitlines()))
    means = [
        spread["mean"] for row in read(path)["rows"] for kind in row["metrics"].values() for spread in kind.values()
    ]
    assert [float(row["mean"]) for row in rows] == pytest.approx(means)


@results
def test_the_command_is_one_of_the_whole_preset(path):
    assert not re.search(r"--set rounds=", read(path)["command"]), "a shortened run is no result"
