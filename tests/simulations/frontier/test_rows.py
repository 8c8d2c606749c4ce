from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from simulations.frontier.rows import (
    BOTH,
    METRICS,
    TRAIN,
    Claim,
    Outcome,
    collect,
    headline,
    parse_epsilons,
    parse_seeds,
    said,
    to_csv,
    to_json,
)


def outcome(name="fedrecall", epsilon=8.0, seed=0, value=0.3, readings=(TRAIN, BOTH), printed=None):
    metrics = {reading: dict.fromkeys(METRICS, value) for reading in readings}
    return Outcome(name, epsilon, seed, metrics, Claim(printed or epsilon, "user", "zero-out", "distributed", 1e-5))


def test_epsilons_go_from_none_to_the_smallest_whatever_their_order():
    assert parse_epsilons("1, 8,none,0.5") == (None, 8.0, 1.0, 0.5)
    assert parse_seeds("2,0") == (0, 2)


@pytest.mark.parametrize("text", ["", ",", "x", "0", "-1", "nan", "inf", "8,8.0", "none,none", "1e999"])
def test_epsilons_that_are_none_are_refused_by_name(text):
    with pytest.raises(ConfigError, match="--epsilons"):
        parse_epsilons(text)


@given(st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False))
def test_an_epsilon_is_spelled_so_that_it_is_read_as_the_same(epsilon):
    assert parse_epsilons(said(epsilon)) == (epsilon,)


def test_whole_epsilons_are_spelled_without_a_point():
    assert [said(epsilon) for epsilon in (None, 8.0, 0.5, 0.12345678)] == ["none", "8", "0.5", "0.12345678"]


@pytest.mark.parametrize("text", ["", " ", "-1", "1.5", "x", "1,1", "0,²"])
def test_seeds_that_are_none_are_refused_by_name(text):
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


def test_a_row_is_the_mean_over_seeds_with_each_seed_beside_it():
    (row,) = collect([outcome(seed=2, value=0.4), outcome(seed=0, value=0.2), outcome(seed=1, value=0.3)])
    spread = row.metrics[TRAIN]["recall@20"]
    assert row.seeds == (0, 1, 2)
    assert spread.each == (0.2, 0.3, 0.4)
    assert (spread.low, spread.high) == (0.2, 0.4)
    assert spread.mean == pytest.approx(0.3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_a_mean_lies_between_the_smallest_and_the_largest(values):
    (row,) = collect([outcome(seed=seed, value=value) for seed, value in enumerate(values)])
    spread = row.metrics[BOTH]["ndcg@10"]
    assert spread.low - 1e-12 <= spread.mean <= spread.high + 1e-12
    assert sorted(spread.each) == sorted(values)


def test_recommenders_keep_their_order_and_epsilons_fall():
    rows = collect([outcome("a", 2.0), outcome("a", None), outcome("b", 1.0), outcome("a", 8.0), outcome("b", 4.0)])
    assert [(row.name, row.epsilon) for row in rows] == [("a", None), ("a", 8.0), ("a", 2.0), ("b", 4.0), ("b", 1.0)]


def test_the_claim_of_a_row_is_its_largest():
    (row,) = collect([outcome(seed=0, printed=7.9), outcome(seed=1, printed=8.0), outcome(seed=2, printed=7.8)])
    assert row.claim.epsilon == 8.0


def test_one_run_without_privacy_is_no_claim_for_its_row():
    runs = [outcome(seed=0, printed=7.9), Outcome("fedrecall", 8.0, 1, outcome().metrics, Claim(None))]
    assert collect(runs)[0].claim.epsilon is None


def test_a_reading_that_one_seed_lacks_has_no_mean():
    (row,) = collect([outcome(seed=0), outcome(seed=1, readings=(BOTH,))])
    assert list(row.metrics) == [BOTH]


def test_ours_decides_which_reading_leads():
    peer = outcome("EASE", None)
    assert headline(collect([outcome(), peer])) == TRAIN
    assert headline(collect([outcome(readings=(BOTH,)), peer])) == BOTH


def test_csv_and_json_hold_every_seed_and_the_claim():
    rows = collect([outcome(seed=0, value=0.2), outcome(seed=1, value=0.4), outcome("EASE", None, seed=0)])
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert len(lines) == 2 * len(METRICS) * 2
    first = lines[0]
    assert (first["name"], first["epsilon"], first["reads"], first["unit"]) == ("fedrecall", "8", TRAIN, "user")
    assert [float(first[key]) for key in ("mean", "min", "max", "seed 0", "seed 1")] == pytest.approx(
        [0.3, 0.2, 0.4, 0.2, 0.4]
    )
    assert lines[-1]["seed 1"] == ""
    assert json.loads(json.dumps(to_json(rows)))[0]["metrics"][TRAIN]["recall@20"]["each"] == [0.2, 0.4]
