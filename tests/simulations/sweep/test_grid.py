"""The grid of a sweep: every run once, under a name of its own, or one sentence before anything runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from simulations.frontier.rows import parse_seeds
from simulations.sweep.grid import MOST_RUNS, Axis, Grid, parse_axes, planned


def grid(*sets, sources=("synthetic",), epsilons=(None, 8.0), seeds=(0, 1)):
    return Grid(sources, parse_axes(sets), epsilons, seeds)


def test_every_source_value_epsilon_and_seed_is_one_run():
    runs = planned(grid("policy.k=10,20", "rounds=3", sources=("synthetic", "ml-100k")))
    assert len(runs) == 2 * 2 * 2 * 2
    assert len({run.name for run in runs}) == len(runs)
    assert {run.config.rounds for run in runs} == {3}
    found = {(run.config.preset, run.config.policy.k, run.config.privacy.epsilon, run.config.seed) for run in runs}
    assert len(found) == len(runs)
    assert {epsilon for _, _, epsilon, _ in found} == {"none", 8.0}


def test_what_is_varied_names_the_row_and_what_is_fixed_does_not():
    runs = planned(grid("policy.k=10,20", "rounds=3", epsilons=(2.0,), seeds=(4,)))
    assert [run.row for run in runs] == ["fedrecall, policy.k=10", "fedrecall, policy.k=20"]
    assert [run.name for run in runs] == [f"synthetic-policy.k={k}-epsilon-2-seed-4" for k in (10, 20)]
    (plain,) = planned(grid("rounds=3", epsilons=(2.0,), seeds=(4,)))
    assert (plain.row, plain.name) == ("fedrecall", "synthetic-epsilon-2-seed-4")


def test_seeds_of_one_row_differ_in_their_seed_alone():
    one, other = planned(grid(epsilons=(2.0,)))
    assert one.row == other.row
    assert one.config.model_copy(update={"seed": 1}) == other.config


@pytest.mark.parametrize(
    ("pair", "values"),
    [
        ("a.b=1,2.5,x", ("1", "2.5", "x")),
        ("a.b=[1,2],[3]", ("[1,2]", "[3]")),
        ('a.b="x,y",z', ('"x,y"', "z")),
        ("a.b={c=[1,2],d=3}", ("{c=[1,2],d=3}",)),
        ("a.b = 1 , 2", ("1", "2")),
    ],
)
def test_commas_within_a_value_stay_there(pair, values):
    assert parse_axes([pair]) == (Axis("a.b", values),)


@given(st.lists(st.text("abc019._-", min_size=1), min_size=1, unique=True))
def test_what_was_listed_is_read(values):
    assert parse_axes([f"key={','.join(values)}"]) == (Axis("key", tuple(values)),)


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["policy.k"], "expected key=value"),
        (["policy.k="], "expected key=value"),
        (["policy.k=1,,2"], "expected key=value"),
        (["=1"], "expected key=value"),
        (["policy.k=1,1"], "1 stands there twice"),
        (["policy.k=1", "policy.k=2"], "list its values in one --set"),
        (["seed=1,2"], "name them with --seeds"),
        (["privacy.epsilon=1"], "name them with --epsilons"),
        (["evaluation.users=5,all"], "same data and people"),
        (["data.items=100,200"], "same data and people"),
        (['data={split="rs"},{split="ts"}'], "same data and people"),
    ],
)
def test_a_set_that_cannot_be_is_one_sentence(pairs, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_axes(pairs)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (grid("engine=ray"), "one process"),
        (grid("policy.nonsense=1"), "nonsense"),
        (grid("policy.k=10,ten"), "policy.k"),
        (grid(sources=("nowhere",)), "neither a preset"),
        (grid(sources=("synthetic", "synthetic")), "two runs would be called"),
        (replace(grid(sources=("synthetic", "ml-100k")), data=Path("own")), "own-.*: name one preset with --data"),
        (grid("privacy.delta=1e-3,0.001"), "delta=1e-3-epsilon-none-seed-0 and .*=0.001-.* are the same run"),
        (grid(seeds=tuple(range(MOST_RUNS))), "at most"),
    ],
)
def test_a_grid_that_cannot_be_is_one_sentence_before_anything_runs(asked, sentence):
    with pytest.raises(ConfigError, match=sentence):
        planned(asked)


def test_settings_that_no_folder_can_be_called_are_cut_and_still_told_apart():
    long = ["model.text_encoder=" + ",".join(f'"/{"very/" * 20}deep/{name}"' for name in "ab")]
    names = [run.name for run in planned(grid(*long, epsilons=(None,), seeds=(0,)))]
    assert len(set(names)) == 2
    assert all("/" not in name and len(name) < 120 for name in names)


def test_seeds_may_be_a_range():
    assert parse_seeds("0..4") == (0, 1, 2, 3, 4)
    assert parse_seeds("7,0..2") == (0, 1, 2, 7)


@pytest.mark.parametrize("text", ["4..0", "0..", "..3", "a..b", "0..1000000000000000000000", "0..1..2"])
def test_a_range_of_seeds_that_cannot_be_is_one_sentence(text):
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


def test_a_seed_that_a_range_holds_too_stands_there_twice():
    with pytest.raises(ConfigError, match="1 stands there twice"):
        parse_seeds("0..2,1")


def test_the_settings_are_the_product_of_all_values():
    asked = grid("a=1,2", "b=x,y,z")
    assert len(set(asked.settings)) == math.prod((2, 3))
    assert grid().settings == [()]
