"""What the whole thing is worth on real behaviour, and what it promises meanwhile. Minutes each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    def start(*arguments: str) -> dict:
        command = [sys.executable, "-m", "simulations.cli", "run", "ml-100k", "--out", str(tmp_path / "a"), "--json"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return start


def test_without_privacy_recall_is_worth_having(run):
    summary = run("--set", "privacy.epsilon=none")
    assert summary["test"]["ndcg@10"] >= 0.25
    assert summary["test"]["recall@20"] >= 0.33


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_at_epsilon_8_against_everybody_everything_released_counted(run, seed):
    summary = run("--seed", str(seed))
    assert (summary["unit"], summary["trust"], summary["delta"]) == ("user", "distributed", 1e-5)
    assert summary["epsilon_claims"]["everyone"] <= 8.0
    assert summary["test"]["ndcg@10"] >= 0.20
    assert summary["test"]["recall@20"] >= 0.26


def test_flwr_run_on_ray_ends_finished_completed(tmp_path):
    command = [sys.executable, "-m", "simulations.cli", "run", "synthetic", "--out", str(tmp_path / "a"), "--json"]
    sets = ["rounds=2", "engine=ray", "seed=none", "users_per_client=30", "model.text_encoder=none"]
    sets += ["privacy.epsilon=none", "policy.measure_every=2", "cohort.deadline=120"]
    command += [part for pair in sets for part in ("--set", pair)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["engine"], summary["stopped"], summary["client_updates"]) == ("ray", "finished", 40)
