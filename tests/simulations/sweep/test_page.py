"""The text of a sweep: no number without its promise, validation and test in tables of their own."""

from __future__ import annotations

import re
import shlex

import pytest

from simulations.frontier.page import Circumstances
from simulations.frontier.rows import BOTH, METRICS, TRAIN, VALID, Claim, Outcome, collect
from simulations.sweep.grid import Axis, Grid
from simulations.sweep.page import Failure, command, page, terminal
from simulations.sweep.rows import TABLES, Section

CLAIM = Claim(7.9013, "user", "zero-out", "distributed", 1e-5, "PLD", "every release.", "not covered")
MADE = Circumstances("2026-01-01", "a CPU", 2, {"Python": "3.11"})
GRID = Grid(("synthetic",), (Axis("policy.k", ("10", "20")),), (None, 8.0), (0, 1))


def outcome(name, epsilon, seed, value):
    metrics = {on: dict.fromkeys(METRICS, value) for on in (TRAIN, BOTH, VALID)}
    return Outcome(name, epsilon, seed, metrics, Claim(None) if epsilon is None else CLAIM)


@pytest.fixture
def sections():
    found = [
        outcome(name, epsilon, seed, 0.3 + 0.01 * seed)
        for name in ("fedrecall, policy.k=10", "fedrecall, policy.k=20")
        for epsilon in (None, 8.0)
        for seed in (0, 1)
    ]
    return [
        Section(
            "synthetic", "rs", collect([*found, outcome("popularity", None, 0, 0.1), outcome("EASE", None, 0, 0.4)])
        )
    ]


def tables(text):
    return [part for part in text.split("### ") if part.startswith(tuple(TABLES.values()))]


def test_every_quality_table_holds_the_floor_and_the_ceiling(sections):
    text = page(sections, GRID, [], [], MADE)
    found = tables(text)
    assert len(found) == 3
    for part in found:
        assert re.search(r"\| popularity +\| no DP", part)
        assert re.search(r"\| EASE +\| no DP", part)
        assert part.startswith("Validation") or "Test items" in part
    shown = terminal(sections, [], [])
    assert len(re.findall(r"^popularity", shown, re.MULTILINE)) == 2
    assert len(re.findall(r"^EASE", shown, re.MULTILINE)) == 2


@pytest.mark.parametrize("word", ["user", "zero-out", "distributed", "PLD", "every release", "not covered"])
def test_no_epsilon_stands_without_what_qualifies_it(sections, word):
    assert word in terminal(sections, [], [])
    assert word in page(sections, GRID, [], [], MADE).partition("### What is promised")[2]


def test_epsilons_are_rounded_up(sections):
    assert "7.91" in terminal(sections, [], [])
    assert "7.90" not in page(sections, GRID, [], [], MADE)


def test_rows_that_promise_alike_share_a_sentence(sections):
    assert terminal(sections, [], []).count("Printed epsilons") == 1


def test_a_search_and_a_sum_of_runs_are_named(sections):
    notes = page(sections, GRID, [], [], MADE).partition("## How to read it")[2]
    assert "runs add up" in notes
    assert "Choose settings by the validation table" in notes
    assert "report the chosen one with fresh seeds" in notes
    assert "of data zipf those of 20,000 users" in notes
    plain = Grid(("synthetic",), (Axis("policy.k", ("10",)),), (8.0,), (0,))
    assert "fresh seeds" not in page(sections, plain, [], [], MADE)


def test_failures_stand_on_top_and_in_the_terminal(sections):
    failed = [Failure("synthetic-epsilon-8-seed-1", "killed by SIGKILL")]
    assert "killed by SIGKILL" in page(sections, GRID, [], failed, MADE).partition("## synthetic")[0]
    assert "FAILED synthetic-epsilon-8-seed-1: killed by SIGKILL" in terminal(sections, [], failed)
    assert "failed" not in page(sections, GRID, [], [], MADE)


def test_the_command_asks_the_same_again():
    words = shlex.split(command(GRID))
    assert words[:2] == ["fedrecall-sim", "sweep"]
    assert words[words.index("--set") + 1] == "policy.k=10,20"
    assert words[words.index("--epsilons") + 1] == "none,8"


def test_the_pictures_are_told_in_words(sections):
    text = page(sections, GRID, [], [], MADE)
    assert re.search(
        r"!\[[^]]*recall@20: fedrecall, policy.k=10 \(no DP\) 0\.3050[^]]*\]\(synthetic-rs-test\.png\)", text
    )
    assert "(synthetic-rs-validation.png)" in text
