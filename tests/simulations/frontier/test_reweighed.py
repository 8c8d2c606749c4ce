"""Other weights, the same model: what a frontier need not train twice."""

from __future__ import annotations

import json

import pytest

from simulations.config import resolve
from simulations.frontier.reweighed import JUDGED, judged_anew, only_weights
from simulations.run import new_run
from simulations.screen import open_screen
from simulations.world import load_world

SETS = (
    "privacy.delta=1e-3",
    "model.text_encoder=none",
    "rounds=2",
    "policy.controller=static",
    "secure_aggregation=ideal",
)
OTHER = "policy.weights.lexical=40"


def asked(*sets):
    return resolve("synthetic", sets=[*SETS, *sets], seed=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run under the default weights, and the summary of one that was trained under others."""
    folder = tmp_path_factory.mktemp("frontier")
    with open_screen(quiet=True) as screen:
        summary = new_run(asked(), folder / "first", cache=folder, source=None, screen=screen)
        other = new_run(asked(OTHER), folder / "other", cache=folder, source=None, screen=screen)
    return folder / "first", summary, other


def world(run):
    return load_world(asked(), run[0].parent, None, lambda _: None)


def test_a_model_under_other_weights_is_the_one_that_is_trained_under_them(run):
    folder, summary, trained = run
    found = judged_anew(folder, summary, asked(OTHER), lambda: world(run))
    for name in ("test", "test_reading_train"):
        for metric in ("recall@20", "ndcg@10", "coverage@20"):
            assert found[name][metric] == trained[name][metric]
    assert found["test"]["ndcg@10"] != summary["test"]["ndcg@10"]
    assert found["epsilon"] == summary["epsilon"]


def test_an_answer_is_kept_until_model_or_weights_are_others(run):
    folder, summary, _ = run
    first = judged_anew(folder, summary, asked(OTHER), lambda: world(run))
    again = judged_anew(folder, summary, asked(OTHER), lambda: pytest.fail("the answer is there"))
    assert again == first
    judged_anew(folder, summary, asked("policy.weights.lexical=7"), lambda: world(run))
    kept = json.loads(folder.with_name(folder.name + JUDGED).read_text())
    assert kept["question"]["weights"]["lexical"] == 7.0


def test_only_weights_of_a_policy_that_stands_still_leave_training_alone():
    assert only_weights(asked(), (OTHER, "policy.weights.text=5"))
    assert not only_weights(asked(), (OTHER, "model.rank=8"))
    assert not only_weights(asked("policy.controller=rules"), (OTHER,))
    assert not only_weights(asked("model.encoder=mean"), (OTHER,))
