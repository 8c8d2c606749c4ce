"""Tables of a sweep: intervals over seeds, validation apart from test, the claim beside every number."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.frontier.rows import BOTH, METRICS, TRAIN, VALID, Claim, Outcome, collect
from simulations.sweep.rows import Section, cell, interval, to_csv, to_json

CLAIM = Claim(7.9, "user", "zero-out", "distributed", 1e-5, "PLD", "every release", "not covered")


def outcome(name, epsilon, seed, valid=0.2, test=0.3):
    metrics = {TRAIN: dict.fromkeys(METRICS, test - 0.01), BOTH: dict.fromkeys(METRICS, test)}
    claim = Claim(None) if epsilon is None else CLAIM
    return Outcome(name, epsilon, seed, metrics | {VALID: dict.fromkeys(METRICS, valid)}, claim)


@pytest.fixture
def section():
    ours = [outcome("fedrecall", 8.0, seed, 0.20 + 0.01 * seed, 0.30 + 0.02 * seed) for seed in (0, 1, 2)]
    flat = [outcome(name, None, seed, 0.1, 0.1) for name in ("popularity", "EASE") for seed in (0, 1, 2)]
    return Section("synthetic", "rs", collect([*ours, *flat]))


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (31, 2.0423)])
def test_the_interval_is_students_as_tables_have_it(count, quantile):
    values = [float(number) for number in range(count)]
    deviation = math.sqrt(sum((value - (count - 1) / 2) ** 2 for value in values) / (count - 1))
    found = interval(values)
    assert found.mean == (count - 1) / 2
    assert found.half == pytest.approx(quantile * deviation / math.sqrt(count), rel=1e-4)


def test_one_seed_tells_nothing_of_the_spread():
    assert interval([0.3]).half is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(-1, 1), st.floats(0.1, 10))
def test_an_interval_moves_and_stretches_with_its_values(values, shift, scale):
    one, other = interval(values), interval([scale * value + shift for value in values])
    assert other.mean == pytest.approx(scale * one.mean + shift, abs=1e-9)
    assert other.half == pytest.approx(scale * one.half, abs=1e-9)


def test_a_cell_shows_an_interval_only_where_seeds_differ(section):
    ours, popularity = section.rows[0], section.rows[1]
    assert cell(ours.metrics[BOTH]["recall@20"]) == "0.3200 ± 0.0497"
    assert cell(popularity.metrics[BOTH]["recall@20"]) == "0.1000"
    assert cell(None) == "—"


def test_json_keeps_validation_apart_from_both_readings_of_test(section):
    (found,) = json.loads(json.dumps(to_json([section])))
    ours = found["rows"][0]
    assert ours["valid"]["recall@20"]["mean"] == pytest.approx(0.21)
    assert ours["test"]["recall@20"]["mean"] == pytest.approx(0.32)
    assert ours["test_reading_train"]["recall@20"]["mean"] == pytest.approx(0.31)
    assert ours["test"]["recall@20"]["each"] == pytest.approx([0.30, 0.32, 0.34])
    assert ours["claim"]["trust"] == "distributed"


def test_csv_has_a_line_for_every_number_with_bounds_seeds_and_claim(section):
    lines = list(csv.DictReader(io.StringIO(to_csv([section]))))
    assert len(lines) == 3 * 3 * len(METRICS)  # rows, what was measured, metrics
    (one,) = [
        line
        for line in lines
        if (line["name"], line["items"], line["metric"]) == ("fedrecall", "validation", METRICS[0])
    ]
    assert float(one["low 95%"]) < float(one["mean"]) < float(one["high 95%"])
    assert [float(one[f"seed {seed}"]) for seed in (0, 1, 2)] == pytest.approx([0.20, 0.21, 0.22])
    assert (one["unit"], one["adjacency"], one["trust"], one["delta"]) == ("user", "zero-out", "distributed", "1e-05")
    assert {line["reads"] for line in lines if line["items"] == "validation"} == {TRAIN}
    assert {line["reads"] for line in lines if line["items"] == "test"} == {TRAIN, BOTH}


def test_a_row_that_lost_a_seed_leaves_its_column_empty():
    rows = collect([outcome("fedrecall", 8.0, 0), outcome("EASE", None, 0), outcome("EASE", None, 1)])
    first = next(csv.DictReader(io.StringIO(to_csv([Section("synthetic", "rs", rows)]))))
    assert (first["seeds"], first["seed 1"], first["low 95%"]) == ("1", "", "")
