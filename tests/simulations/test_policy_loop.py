"""The loop that steers recall and coverage from private measurements alone, on real behaviour. Minutes each."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.config import PolicySection, first_policy, read_toml, validate
from shared.policy.replay import replay
from shared.privacy.chain import read_ledger
from shared.recall.item_rules import NO_RULES
from simulations.config import SimulationConfig
from simulations.download import cache_folder
from simulations.model import read_model
from simulations.world import load_world, oracle

pytestmark = pytest.mark.slow

POLICY = first_policy(PolicySection())
SEEDS = (0, 1, 2)
STATIC = "policy.controller=static"
# What could be chosen beforehand and left alone. The linear encoder is trained without looking at the policy, so that
# one model serves them all.
SWEEP = [
    {},
    {"features": ("text",)},
    {"features": ("text", "lexical", "category")},
    {"features": ("text", "lexical", "popularity")},
    {"features": ("text", "lexical", "category", "popularity")},
    {"weights": {"text": 10.0, "lexical": 10.0, "category": 1.0, "popularity": 1.0}},
    {"weights": {"text": 10.0, "lexical": 2.5, "category": 1.0, "popularity": 1.0}},
    {"exposure_price": 0.5, "depth": 1000},
    {"diversity": 0.1},
    {"exploration": 0.05, "depth": 1682},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """``run(seed, *settings)``: the folder of a finished run of ml-100k; each is run once."""
    made: dict[tuple, Path] = {}

    def once(seed, *settings):
        if (seed, settings) not in made:
            folder = tmp_path_factory.mktemp("loop") / "a"
            command = [sys.executable, "-m", "simulations.cli", "run", "ml-100k", "--seed", str(seed)]
            command += ["--out", str(folder), *[part for pair in settings for part in ("--set", pair)]]
            subprocess.run(command, check=True, capture_output=True)
            made[seed, settings] = folder
        return made[seed, settings]

    return once


def summary(folder):
    return json.loads((folder / "summary.json").read_text("utf-8"))


def measured(folder):
    rows = [json.loads(row) for row in (folder / "rounds.jsonl").read_text("utf-8").splitlines()]
    return [row for row in rows if row["oracle"] is not None]


def decisions(folder):
    events = [line.event for line in read_ledger(folder / "ledger.jsonl")]
    return events, [event["decision"] for event in events if event["type"] == "decision"]


def best_static(folder):
    """recall@20 on test items of the static policy that is best on validation items, with this run's model."""
    config = validate(SimulationConfig, read_toml(folder / "config.toml"), "config.toml")
    world = load_world(config, cache_folder(), None, lambda _: None)
    model = read_model(folder / "model.safetensors")
    assert model.encoder.kind == "linear"

    def recall(changes, on):
        rngs = [np.random.default_rng(n) for n in range(len(world.histories))]
        policy = replace(POLICY, **changes)
        return oracle(world, model.encoder, model.parameters, model.prior, policy, NO_RULES, rngs, on=on)["recall@20"]

    return recall(max(SWEEP, key=lambda changes: recall(changes, "valid")), "test")


@pytest.mark.parametrize("seed", SEEDS)
def test_from_the_default_policy_it_reaches_its_coverage_and_keeps_its_recall(run, seed):
    folder = run(seed)
    result = summary(folder)
    assert result["epsilon_claims"]["everyone"] <= 8.0
    assert measured(folder)[-1]["oracle"]["coverage@20"] >= 0.45
    assert result["test"]["coverage@20"] >= 0.45
    assert result["test"]["recall@20"] >= 0.97 * best_static(folder)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_round_after_the_fifth_loses_more_than_five_percent(run, seed):
    """Against the same rounds of the policy that it began with, left alone."""
    alone = {row["round"]: row["oracle"]["recall@20"] for row in measured(run(seed, STATIC))}
    steered = {row["round"]: row["oracle"]["recall@20"] for row in measured(run(seed))}
    assert len(steered) >= 7
    for number, recall in steered.items():
        assert number < 5 or recall >= 0.95 * alone[number]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_decision_replays_from_the_ledger(run, seed):
    events, made = decisions(run(seed))
    assert replay(events) == []
    assert "move" in made


def test_with_ten_times_the_noise_it_stands_still(run):
    """A hundredth of the measurements' share of the budget: ten times the noise."""
    fine = decisions(run(0))[0]
    coarse, made = decisions(run(0, "privacy.measurement_share=0.0012"))
    widths = [
        # What cannot be told at all has no bar that is too wide.
        [(e["sight"]["recall"] or {"half_width": math.inf})["half_width"] for e in events if e["type"] == "decision"]
        for events in (fine, coarse)
    ]
    assert min(widths[1]) > 5 * max(widths[0])  # about ten; the estimated number of users moves a bar, too
    assert set(made) == {"hold"}
