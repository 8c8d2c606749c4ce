"""What the whole thing is worth on real behaviour, and what it promises meanwhile. Minutes each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shared.privacy.chain import read_ledger

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    def start(*arguments: str, name: str = "a") -> dict:
        command = [sys.executable, "-m", "simulations.cli", "run", "ml-100k", "--out", str(tmp_path / name), "--json"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return start


def test_without_privacy_recall_is_worth_having(run):
    summary = run("--set", "privacy.epsilon=none")
    assert summary["test_reading_train"]["ndcg@10"] >= 0.30
    assert summary["test_reading_train"]["recall@20"] >= 0.38


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_at_epsilon_8_against_everybody_everything_released_counted(run, seed):
    summary = run("--seed", str(seed))
    assert (summary["unit"], summary["trust"], summary["delta"]) == ("user", "distributed", 1e-5)
    assert summary["epsilon_claims"]["everyone"] <= 8.0
    assert summary["test_reading_train"]["ndcg@10"] >= 0.25
    assert summary["test_reading_train"]["recall@20"] >= 0.31


def test_943_clients_with_a_user_each_and_23_with_41_send_the_same_integers_under_masks(run, tmp_path):
    sums = {}
    for users in (1, 41):
        sets = ["rounds=1", "privacy.epsilon=none", "secure_aggregation=real", f"users_per_client={users}"]
        run(*[part for pair in sets for part in ("--set", pair)], name=str(users))
        events = [line.event for line in read_ledger(tmp_path / str(users) / "ledger.jsonl")]
        results = {event["release"]: event for event in events if event["type"] == "result"}
        assert not any(event["aborted"] for event in results.values())
        sums[users] = [results[kind]["sum"] for kind in ("statistics", "profile", "update", "measurement")]
    assert sums[1] == sums[41]


def test_masks_change_nothing_but_the_time(run, tmp_path):
    sets = ["rounds=2", "policy.measure_every=1"]
    for mode in ("real", "ideal"):
        run(*[part for pair in (*sets, f"secure_aggregation={mode}") for part in ("--set", pair)], name=mode)
    models = [(tmp_path / mode / "model.safetensors").read_bytes() for mode in ("real", "ideal")]
    assert models[0] == models[1]


def test_flwr_run_on_ray_ends_finished_completed(tmp_path):
    command = [sys.executable, "-m", "simulations.cli", "run", "synthetic", "--out", str(tmp_path / "a"), "--json"]
    sets = ["rounds=2", "engine=ray", "seed=none", "users_per_client=30", "model.text_encoder=none"]
    sets += ["privacy.epsilon=none", "policy.measure_every=2", "cohort.deadline=120"]
    command += [part for pair in sets for part in ("--set", pair)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["engine"], summary["stopped"], summary["client_updates"]) == ("ray", "finished", 40)
