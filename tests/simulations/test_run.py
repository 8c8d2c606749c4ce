"""A simulated run: what it leaves behind, that it repeats itself, and that nothing interrupts it for good."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import server.coordinator
from server.checkpoint import load_state
from server.ending import better
from server.evaluation import estimate_of
from server.job import CLIPS
from server.posterior import given_out
from shared.errors import ConfigError, DataError, FedrecallError, LedgerError, PlanError, RunError
from shared.policy.recall_policy import policy_from_dict, policy_to_dict
from shared.policy.replay import replay
from shared.policy.sight import Seen
from shared.privacy.ledger import read_ledger
from simulations.cold import cold_run
from simulations.model import read_model
from simulations.run import CHECKPOINT, Screen, new_run, resume_run
from simulations.serve import recommend_from

REPEATED = ("model.safetensors", "ledger.jsonl", "clients.jsonl", "checkpoint.safetensors")


class Killed(BaseException):
    """Stands for kill -9: nothing in the code catches it."""


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def run(tmp_path, tiny, cache, silent):
    def start(name, *sets, seed=1, screen=silent):
        return new_run(tiny(*sets, seed=seed), tmp_path / name, cache=cache, source=None, screen=screen)

    return start


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in REPEATED}


def rows(folder: Path) -> list[dict]:
    """Rows without what a clock says."""
    out = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in out]


def published_of(folder: Path, parameters: np.ndarray) -> np.ndarray:
    """What people are given of trained parameters; what the one-off releases said stays the same in all rounds."""
    encoder = read_model(folder / "model.safetensors").encoder
    return given_out(encoder, replace(load_state(folder / CHECKPOINT), parameters=parameters))


def test_a_run_leaves_everything_that_its_users_need(run, tmp_path):
    summary = run("a")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"config.toml", "rounds.jsonl", "ledger.jsonl", "model.safetensors", "summary.json", "report.html"} <= names
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == summary
    wanted = "preset split seed unit trust adjacency delta participations epsilon epsilon_claims epsilon_by_kind"
    wanted += " epsilon_if_others_collude covers_tuning test valid wall_seconds client_updates peak_rss_mb"
    assert set(wanted.split()) | {"secure_aggregation"} <= set(summary)
    assert {"recall@10", "ndcg@10", "coverage@10", "gini@10"} <= set(summary["test"])
    assert [row["round"] for row in rows(tmp_path / "a")] == [1, 2, 3]
    assert summary["client_updates"] == 3 * 24


def test_the_claim_is_what_was_asked_for_and_covers_every_kind_of_release(run):
    summary = run("a", "privacy.epsilon=4")
    assert 3.99 < summary["epsilon"] <= 4.0
    assert set(summary["epsilon_by_kind"]) == {"update", "measurement", "statistics", "profile"}
    assert all(0 < part < 4.0 for part in summary["epsilon_by_kind"].values())
    assert summary["epsilon_if_others_collude"] > summary["epsilon"]


def test_estimates_and_oracle_values_never_share_a_name_space(run, tmp_path):
    run("a")
    measured = [row for row in rows(tmp_path / "a") if row["estimate"]]
    assert [row["round"] for row in measured] == [2, 3]
    for row in measured:
        given = [value for value in row["estimate"].values() if value is not None]
        assert all({"value", "low", "high"} <= set(value) for value in given)
        assert all(isinstance(value, float) for value in row["oracle"].values())


def test_without_noise_the_estimate_is_the_oracle(run, tmp_path):
    run("a", "privacy.epsilon=none")
    for row in rows(tmp_path / "a"):
        told = {name: value for name, value in (row["estimate"] or {}).items() if value is not None}
        assert told.keys() >= {"recall@10", "ndcg@10"} or row["round"] == 1
        for name, estimate in told.items():
            assert estimate["value"] == pytest.approx(row["oracle"][name], abs=1e-3), name


def test_no_differential_privacy_is_said_and_claims_nothing(run):
    summary = run("a", "privacy.epsilon=none")
    assert summary["epsilon"] is None
    assert set(summary["epsilon_claims"].values()) == {None}
    assert summary["covers"].startswith("Nothing")


def test_a_seed_repeats_a_run_to_the_byte_and_another_seed_does_not(run, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(f"{name}/run", seed=seed)
    assert digests(tmp_path / "a" / "run") == digests(tmp_path / "b" / "run")
    assert rows(tmp_path / "a" / "run") == rows(tmp_path / "b" / "run")
    assert digests(tmp_path / "a" / "run") != digests(tmp_path / "c" / "run")


def _interrupt_at(monkeypatch, sync: int) -> None:
    """Die at the n-th sync to disk, counted over the whole process: before the bytes are known to be there."""
    real, count = os.fsync, [0]

    def fsync(handle):
        count[0] += 1
        if count[0] == sync:
            raise Killed
        return real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


def test_an_interrupt_while_waiting_for_a_person_to_read_is_resumed(run, tmp_path, cache, silent):
    def stop(row, _total):
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("cut/run", screen=Screen(silent.say, stop))
    run("whole/run")
    resume_run(tmp_path / "cut" / "run", cache=cache, source=None, screen=silent)
    assert digests(tmp_path / "cut" / "run") == digests(tmp_path / "whole" / "run")


def test_a_renamed_folder_is_resumed_under_the_name_its_ledgers_know(run, tmp_path, cache, silent, monkeypatch):
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 20)
        with pytest.raises(Killed):
            run("cut/run")
    (tmp_path / "cut" / "run").rename(tmp_path / "moved")
    run("whole/run")
    resume_run(tmp_path / "moved", cache=cache, source=None, screen=silent)
    assert digests(tmp_path / "moved") == digests(tmp_path / "whole" / "run")


@pytest.mark.parametrize(("trust", "source"), [("central", "seeded"), ("distributed", "clients")])
def test_the_ledger_says_who_drew_the_noise_and_from_where(run, tmp_path, trust, source):
    run("a", f"privacy.trust={trust}")
    intents = [line.event for line in read_ledger(tmp_path / "a" / "ledger.jsonl") if line.event["type"] == "intent"]
    assert {event["noise_source"] for event in intents} == {source}


def test_without_a_seed_a_retried_round_is_a_new_intent_and_a_new_charge(run, tmp_path, cache, silent, monkeypatch):
    folder = tmp_path / "cut"
    stopped = []

    def stop(row, _total):
        stopped.append(row)
        _interrupt_at(monkeypatch, 3)  # in the next round, after the intents

    with pytest.raises(Killed):
        run("cut", "seed=none", seed=None, screen=Screen(silent.say, stop))
    monkeypatch.undo()
    summary = resume_run(folder, cache=cache, source=None, screen=silent)
    intents = [line.event for line in read_ledger(folder / "ledger.jsonl") if line.event["type"] == "intent"]
    second = [event["attempt"] for event in intents if event["round"] == 2 and event["release"] == "update"]
    assert second == [1, 2]
    # K participations are paid for; the round that was tried twice leaves none for the last one.
    assert summary["stopped"] == "budget exhausted"
    assert summary["epsilon"] <= 8.0
    assert summary["rounds_done"] == 2


def test_participations_used_up_end_the_run_cleanly(run):
    summary = run("a", "privacy.participations=2")
    assert (summary["stopped"], summary["rounds_done"]) == ("budget exhausted", 2)
    assert 0 < summary["epsilon"] <= 8.0
    assert summary["test"]["recall@10"] > 0


def test_the_budgets_last_round_is_measured_whatever_the_schedule_says(run, tmp_path):
    summary = run("a", "privacy.participations=1", "privacy.epsilon=none")
    assert [bool(row["estimate"]) for row in rows(tmp_path / "a")] == [True]  # measured is every second one
    assert rows(tmp_path / "a")[0]["decision"] == "hold"  # nobody would run a policy that it moved to
    assert summary["model"]["estimate"]["value"] == pytest.approx(
        rows(tmp_path / "a")[0]["oracle"]["recall@10"], abs=1e-3
    )


def test_a_budget_lost_before_the_first_round_ended_is_an_end_too(run, tmp_path, cache, silent, monkeypatch):
    """Without a seed, one participation each, and a kill after everybody was asked: paid, and lost."""

    def die(*_arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("server.coordinator.mean_update", die)
        with pytest.raises(Killed):
            run("a", "seed=none", "privacy.participations=1", seed=None)
    summary = resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)
    assert (summary["stopped"], summary["rounds_done"], summary["model"]["round"]) == ("budget exhausted", 0, 0)
    assert summary["client_updates"] == 0
    assert summary["epsilon_by_kind"]["update"] > 0
    assert (tmp_path / "a" / "report.html").exists()


def _killed_in_round_0(run, monkeypatch, at):
    """Without a seed, a run that dies at a step of the coordinator."""

    def die(*_arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"server.coordinator.{at}", die)
        with pytest.raises(Killed):
            run("a", "seed=none", seed=None)


def _intents(folder: Path) -> list[tuple[int, str]]:
    events = [line.event for line in read_ledger(folder / "ledger.jsonl")]
    return [(event["round"], event["release"]) for event in events if event["type"] == "intent"]


@pytest.mark.parametrize(
    ("at", "paid"), [("read_statistics", ["statistics"]), ("with_contexts", ["statistics", "profile"])]
)
def test_a_one_off_release_that_was_lost_ends_the_run_before_any_update_is_paid_for(
    run, tmp_path, cache, silent, monkeypatch, at, paid
):
    _killed_in_round_0(run, monkeypatch, at)
    summary = resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)
    assert (summary["stopped"], summary["rounds_done"], summary["model"]["round"]) == ("no contexts", 0, 0)
    assert _intents(tmp_path / "a") == [(0, kind) for kind in paid]


def test_statistics_that_came_are_kept_when_the_run_dies_before_profiles_are_asked_for(
    run, tmp_path, cache, silent, monkeypatch
):
    _killed_in_round_0(run, monkeypatch, "profile_exchange")
    kept = load_state(tmp_path / "a" / CHECKPOINT)
    assert (kept.round, kept.prior.any()) == (-1, True)
    summary = resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)
    assert summary["stopped"] == "finished"
    assert _intents(tmp_path / "a")[:3] == [(0, "statistics"), (0, "profile"), (1, "update")]


def _stopped_by_a_person(silent):
    def stop(_row, _total):
        raise KeyboardInterrupt

    return Screen(silent.say, stop)


def test_a_run_is_not_resumed_under_another_plan(run, tmp_path, cache, silent, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run("a", screen=_stopped_by_a_person(silent))
    monkeypatch.setitem(CLIPS, "linear", 0.7)
    with pytest.raises(RunError, match="a: data, text model or code are not those that this run began with"):
        resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)


def test_a_run_of_cold_is_not_resumed_with_the_items_that_it_held_out(tiny, tmp_path, cache, silent):
    with pytest.raises(KeyboardInterrupt):
        cold_run(tiny(), tmp_path / "a", cache=cache, source=None, screen=_stopped_by_a_person(silent))
    lines = (tmp_path / "a" / "ledger.jsonl").read_bytes()
    with pytest.raises(RunError, match="or it is a run of fedrecall-sim cold, which is not resumed"):
        resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)
    assert (tmp_path / "a" / "ledger.jsonl").read_bytes() == lines


@pytest.fixture
def exhausted(run, tmp_path, monkeypatch):
    """A run that may last 5 rounds, has the budget for 3, and whose first round seems far better than the others."""
    recalls, real = iter([0.9, 0.2, 0.3]), server.coordinator.estimate

    def rigged(*arguments):
        measured = real(*arguments)
        return replace(measured, estimates={**measured.estimates, "recall@10": estimate_of(next(recalls), 0.01)})

    monkeypatch.setattr("server.coordinator.estimate", rigged)
    sets = ["rounds=5", "privacy.participations=3", "policy.measure_every=1"]
    return run("a", *sets), tmp_path / "a"


def test_a_used_up_budget_gives_out_the_best_model_by_private_estimate(exhausted):
    summary, folder = exhausted
    assert (summary["stopped"], summary["rounds_done"]) == ("budget exhausted", 3)
    assert summary["model"]["round"] == 1
    assert summary["model"]["chosen"] == "best private estimate"
    assert summary["model"]["estimate"] == {"value": 0.9, "half_width": 0.01}
    given, best, last = (
        load_file(folder / f"{name}.safetensors")["parameters"] for name in ("model", "best", "checkpoint")
    )
    assert np.array_equal(given, published_of(folder, best))
    assert not np.array_equal(given, published_of(folder, last))


def test_a_used_up_budget_freezes_the_policy_and_the_ledger_says_how_it_ended(exhausted):
    summary, folder = exhausted
    assert summary["policy"]["frozen"] is True
    *_, end, head = read_ledger(folder / "ledger.jsonl")
    assert end.event["type"] == "end"
    assert (end.event["stopped"], end.event["model"]) == ("budget exhausted", summary["model"])
    assert end.event["policy"] == summary["policy"]
    assert (head.event["type"], head.event["round"]) == ("head", 3)


def test_a_used_up_budget_counts_all_that_was_spent_not_what_the_model_kept_cost(exhausted):
    summary, folder = exhausted
    assert summary["client_updates"] == 3 * 24
    assert summary["epsilon"] == pytest.approx(rows(folder)[-1]["epsilon"]["everyone"])
    assert 0 < summary["epsilon"] <= 8.0


def test_clients_go_on_recommending_with_the_model_that_was_given_out(exhausted, cache):
    _, folder = exhausted
    ask = lambda: recommend_from(folder, "u3", 5, cache=cache, source=None, say=lambda _sentence: None)  # noqa: E731 - once
    shown = ask()
    assert len(shown["recommendations"]) == 5
    (folder / "checkpoint.safetensors").unlink()  # the last model has no say in it
    assert ask() == shown


def test_a_finished_run_gives_out_its_last_model_and_freezes_its_policy(run, tmp_path):
    summary = run("a")
    assert (summary["model"]["round"], summary["model"]["chosen"]) == (3, "last")
    assert summary["policy"]["frozen"] is True
    given, last = (load_file(tmp_path / "a" / f"{n}.safetensors")["parameters"] for n in ("model", "checkpoint"))
    assert np.array_equal(given, published_of(tmp_path / "a", last))


def test_nobody_is_asked_for_a_round_that_too_few_could_answer(run, tmp_path):
    summary = run("a", "privacy.participations=1", "cohort.size=16")
    assert (summary["stopped"], summary["rounds_done"]) == ("budget exhausted", 1)
    asked = [e.event for e in read_ledger(tmp_path / "a" / "ledger.jsonl") if e.event["type"] == "intent"]
    assert [event["round"] for event in asked if event["release"] == "update"] == [1]


def test_runs_of_any_k_can_be_compared_at_20(run):
    summary = run("a")
    assert {"recall@20", "coverage@20", "gini@20", "ndcg@10", "recall@10"} <= set(summary["test"])
    assert {"tail_share@20", "novelty@20", "ild@20"} <= set(summary["test"])


def test_time_counts_every_process_of_a_run(run, tmp_path, cache, silent):
    def stop(row, _total):
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("cut", screen=Screen(silent.say, stop))
    summary = resume_run(tmp_path / "cut", cache=cache, source=None, screen=silent)
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "cut" / "rounds.jsonl").read_text().splitlines()]
    assert len(seconds) == 3
    assert summary["wall_seconds"] >= sum(seconds)
    assert summary["client_updates_per_second"] == pytest.approx(72 / sum(seconds), abs=0.1)


def test_cohorts_of_a_part_spread_participations_evenly(run, tmp_path):
    summary = run("a", "cohort.size=8", "rounds=6")
    assert summary["participations"] == 2
    asked: dict[str, int] = {}
    for line in read_ledger(tmp_path / "a" / "ledger.jsonl"):
        if line.event["type"] == "intent" and line.event["release"] == "update":
            for client in line.event["cohort"]:
                asked[client] = asked.get(client, 0) + 1
    assert set(asked.values()) == {2}
    assert len(asked) == 24


@pytest.mark.parametrize("trust", ["local", "central", "distributed"])
def test_every_trust_runs_and_claims_against_whom_it_can(run, trust):
    summary = run("a", f"privacy.trust={trust}", "users_per_client=6")
    claims = summary["epsilon_claims"]
    assert claims["recipients"] <= 8.0
    assert (claims["server"] is None) == (trust == "central")
    assert (claims["everyone"] is None) == (trust == "central")
    assert summary["clients"] == 4


def test_unit_interaction_runs_under_local_trust(run):
    summary = run("a", "privacy.unit=interaction", "privacy.trust=local")
    assert (summary["unit"], summary["trust"]) == ("interaction", "local")
    assert summary["epsilon"] <= 8.0


@pytest.mark.parametrize("setting", ["training.loss=bpr", "training.loss=squared", "policy.local_iterations=2"])
@pytest.mark.parametrize("optimizer", ["fedavg", "fedadagrad"])
def test_losses_iterations_and_optimizers_run(run, setting, optimizer):
    assert run("a", setting, f"training.server_optimizer={optimizer}")["stopped"] == "finished"


def test_a_frozen_policy_never_moves(run, tmp_path):
    run("a", "policy.freeze=true", "rounds=4")
    decisions = [row["decision"] for row in rows(tmp_path / "a") if row["estimate"]]
    assert decisions[0] == "frozen"
    assert {row["policy"]["version"] for row in rows(tmp_path / "a")} == {1}


def test_silos_and_devices_send_the_same_integers_before_noise(run, tmp_path):
    """943 clients of one user or 2 of 472: without noise the model must not know (here 24 and 2)."""
    run("one/run", "privacy.epsilon=none")
    run("many/run", "privacy.epsilon=none", "users_per_client=12")
    sums = [
        [e.event["sum"] for e in read_ledger(tmp_path / name / "run" / "ledger.jsonl") if e.event["type"] == "result"]
        for name in ("one", "many")
    ]
    assert sums[0] == sums[1]


def test_the_ledgers_verify_and_every_client_pays_before_it_answers(run, tmp_path):
    run("a")
    seen: set[tuple[str, int, str]] = set()
    for line in read_ledger(tmp_path / "a" / "clients.jsonl"):
        event = line.event
        if event["type"] == "intent":
            assert event["noise_source"] == "seeded"
            seen.add((event["client"], event["round"], event["release"]))
        if event["type"] == "result":
            assert (event["client"], event["round"], event["release"]) in seen
    assert len(seen) == 24 * (1 + 1 + 3 + 2)


def test_what_is_kept_is_replayed_from_the_ledgers_decisions_alone(exhausted):
    _, folder = exhausted
    best = None
    for line in read_ledger(folder / "ledger.jsonl"):
        if line.event["type"] == "decision":
            seen = line.event["sight"] and line.event["sight"]["recall"]
            policy = policy_from_dict(line.event["before"])
            best = better(best, line.event["round"], policy, None if seen is None else Seen(**seen))
        if line.event["type"] == "end":
            assert line.event["model"]["round"] == best.round
            assert line.event["policy"] == policy_to_dict(best.policy) | {"frozen": True}


def test_every_result_holds_the_clients_receipts_and_they_fit_their_ledger(run, tmp_path):
    run("a", "cohort.size=16", "rounds=4")
    clients = {line.number: line for line in read_ledger(tmp_path / "a" / "clients.jsonl")}
    last: dict[str, int] = {}
    results = [e.event for e in read_ledger(tmp_path / "a" / "ledger.jsonl") if e.event["type"] == "result"]
    for event in results:
        names = [client for group in event["receipts"] for client in group["clients"]]
        assert len(names) == len(set(names)) == event["survivors"]
        for group in event["receipts"]:
            head = clients[group["seq"]].event
            assert (head["type"], head["signature"], head["round"]) == ("head", group["signature"], event["round"])
            assert clients[group["seq"] - 1].hash == group["tip"]
            for client in group["clients"]:
                assert group["seq"] > last.get(client, 0)
                last[client] = group["seq"]
    assert len(results) == 1 + 1 + 4 + 2
    assert {client: receipt.seq for client, receipt in load_state(tmp_path / "a" / CHECKPOINT).receipts.items()} == last


def test_every_clients_intent_names_the_servers_intent_before_it(run, tmp_path):
    run("a")
    lines = {line.hash: line.event for line in read_ledger(tmp_path / "a" / "ledger.jsonl")}
    for line in read_ledger(tmp_path / "a" / "clients.jsonl"):
        if line.event["type"] == "intent":
            asked = lines[line.event["server"]]
            assert asked["type"] == "intent"
            assert line.event["client"] in asked["cohort"]
            for name in ("round", "attempt", "release", "task", "rho"):
                assert asked[name] == line.event[name]


def test_clients_whose_ledger_came_from_a_backup_pay_nothing_twice(run, tmp_path, cache, silent):
    """Without a seed: the clients' disk is restored to how it was after round 1, the server's is not."""
    clients, backup = tmp_path / "a" / "clients.jsonl", tmp_path / "backup"

    def stop(row, _total):
        if row["round"] == 1:
            backup.write_bytes(clients.read_bytes())
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("a", "seed=none", "rounds=9", seed=None, screen=Screen(silent.say, stop))
    clients.write_bytes(backup.read_bytes())
    summary = resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)
    assert (summary["stopped"], summary["rounds_done"]) == ("no quorum", 5)
    after = [line.event for line in read_ledger(clients)][len(backup.read_bytes().splitlines()) :]
    assert {event["type"] for event in after} == {"decline"}
    assert all("receipt" in event["clause"] for event in after)


@pytest.mark.parametrize("controller", ["rules", "dual", "shadow"])
def test_every_decision_is_replayed_from_the_ledger_alone(run, tmp_path, controller):
    sets = ["privacy.epsilon=none", "policy.recall_target=0.9", "policy.coverage_target=1", "policy.measure_every=1"]
    run("a", "rounds=5", f"policy.controller={controller}", *sets)
    events = [line.event for line in read_ledger(tmp_path / "a" / "ledger.jsonl")]
    assert replay(events) == []
    decisions = [event for event in events if event["type"] == "decision"]
    assert "move" in {event["decision"] for event in decisions}
    assert decisions[-1]["reason"].startswith("the last round")
    decisions[0]["sight"]["recall"]["value"] = 1.0
    assert replay(events)


class TestBadInput:
    def test_a_folder_in_use_is_refused_and_untouched(self, run, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "notes.txt").write_text("mine")
        with pytest.raises(RunError, match=r"not empty; choose another --out"):
            run("a")
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes.txt"]

    def test_a_read_only_place_is_one_sentence(self, run, monkeypatch):
        def refuse(*_args, **_kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(RunError, match=r"cannot be written \(Permission denied\)"):
            run("a")

    @pytest.mark.parametrize(
        ("only", "sync"), [("", 17), ("", 18), ("", 21), *(("clients.jsonl", sync) for sync in (2, 3, 6, 9))]
    )
    def test_a_full_disk_stops_the_run_keeps_what_was_finished_and_resumes(
        self, run, tmp_path, cache, silent, monkeypatch, only, sync
    ):
        """A client whose ledger cannot be written declines; here that would be everybody, for the rest of the run."""
        real, count = os.fsync, [0]

        def full(handle):
            mine = not only or Path(f"/proc/self/fd/{handle}").readlink().name == only
            count[0] += mine
            if mine and count[0] >= sync:
                raise OSError(28, "No space left on device")
            return real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(RunError, match=r"No space left on device.*fedrecall-sim resume"):
                run("a/run")
        run("whole/run")
        resume_run(tmp_path / "a" / "run", cache=cache, source=None, screen=silent)
        assert digests(tmp_path / "a" / "run") == digests(tmp_path / "whole" / "run")

    @pytest.mark.parametrize(
        ("setting", "error", "sentence"),
        [
            ("privacy.epsilon=0", PlanError, r"epsilon 0.0 must lie between"),
            ("privacy.epsilon=-3", PlanError, r"epsilon -3.0 must lie between"),
            ("privacy.epsilon=1e9", PlanError, r"epsilon 1000000000.0 must lie between"),
            ("privacy.delta=0.5", PlanError, r"delta 0.5 must be below 1/users"),
            ("cohort.size=25", ConfigError, r"cohort.size = 25.*24 clients"),
            ("cohort.size=0", ConfigError, r"cohort.size = 0"),
            ("privacy.unit=interaction", PlanError, r"'interaction' needs privacy.trust 'local'"),
            ("data.split=loo2", ConfigError, r"data.split = 'loo2'"),
            ("privacy.epsilom=3", ConfigError, r"unknown key privacy.epsilom; did you mean privacy.epsilon\?"),
        ],
    )
    def test_impossible_settings_are_refused_before_anything_is_written(self, run, tmp_path, setting, error, sentence):
        with pytest.raises(error, match=sentence):
            run("a", setting)
        assert not (tmp_path / "a").exists()

    def test_resuming_nothing_or_something_finished_is_one_sentence(self, run, tmp_path, cache, silent):
        with pytest.raises(RunError, match="no run here"):
            resume_run(tmp_path / "nowhere", cache=cache, source=None, screen=silent)
        run("a")
        with pytest.raises(RunError, match="has ended already"):
            resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    def test_two_processes_on_one_run_are_refused(self, run, tmp_path, cache, silent):
        def meanwhile(_row, _total):
            resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

        with pytest.raises(RunError, match="another process works on this run"):
            run("a", screen=Screen(silent.say, meanwhile))

    def test_a_folder_that_cannot_be_written_is_not_resumed(self, run, tmp_path, cache, silent):
        run("a")
        (tmp_path / "a" / ".lock").unlink()
        (tmp_path / "a" / ".lock").mkdir()  # stands for a read-only folder, which root could write to
        with pytest.raises(RunError, match="cannot be written"):
            resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    @pytest.mark.parametrize("name", ["ledger.jsonl", "clients.jsonl"])
    def test_a_lost_ledger_is_not_made_anew(self, run, tmp_path, cache, silent, monkeypatch, name):
        with monkeypatch.context() as patch:
            _interrupt_at(patch, 30)
            with pytest.raises(Killed):
                run("a")
        (tmp_path / "a" / name).unlink()
        with pytest.raises(RunError, match=rf"{name}: missing, but the checkpoint counts \d+ lines"):
            resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    @pytest.mark.parametrize("seed", [1, None])
    @pytest.mark.parametrize("name", ["ledger.jsonl", "clients.jsonl"])
    @pytest.mark.parametrize(("line", "sentence"), [(3, r":3: the line was edited"), (1, r":1: the line was edited")])
    def test_an_edited_ledger_is_not_continued_and_the_line_is_named(
        self, run, tmp_path, cache, silent, monkeypatch, name, line, sentence, seed
    ):
        with monkeypatch.context() as patch:
            _interrupt_at(patch, 30)
            with pytest.raises(Killed):
                run("a", *([] if seed else ["seed=none"]), seed=seed)
        lines = (tmp_path / "a" / name).read_bytes().splitlines(keepends=True)
        lines[line - 1] = lines[line - 1].replace(b'"type":"', b'"type":"x')
        (tmp_path / "a" / name).write_bytes(b"".join(lines))
        with pytest.raises(LedgerError, match=rf"{name}{sentence}"):
            resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    @pytest.mark.parametrize("seed", [1, None])
    def test_a_ledger_cut_short_of_its_checkpoint_is_not_continued(
        self, run, tmp_path, cache, silent, monkeypatch, seed
    ):
        with monkeypatch.context() as patch:
            _interrupt_at(patch, 30)
            with pytest.raises(Killed):
                run("a", *([] if seed else ["seed=none"]), seed=seed)
        path = tmp_path / "a" / "ledger.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
        with pytest.raises(FedrecallError, match=r"ledger.jsonl: holds 3 lines, the checkpoint was made at \d+: lines"):
            resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    def test_a_server_ledger_without_its_end_is_named_by_line(self, run, tmp_path, cache, silent, monkeypatch):
        """Half a line in the middle: nothing that a crash leaves behind, so nothing that is cut off in silence."""
        with monkeypatch.context() as patch:
            _interrupt_at(patch, 30)
            with pytest.raises(Killed):
                run("a")
        path = tmp_path / "a" / "ledger.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        lines[3] = lines[3][:40] + b"\n"
        path.write_bytes(b"".join(lines))
        with pytest.raises(LedgerError, match=r"ledger.jsonl:4: not a JSON line"):
            resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    def test_two_real_processes_on_one_run_are_refused(self, run, tmp_path, cache, silent, monkeypatch):
        with monkeypatch.context() as patch:
            _interrupt_at(patch, 30)
            with pytest.raises(Killed):
                run("a")
        script = (
            "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
        )
        command = [sys.executable, "-c", script + "; sys.stdin.read()", str(tmp_path / "a" / ".lock")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(RunError, match="another process works on this run"):
                resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)
            other.stdin.close()
        resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    @pytest.mark.parametrize("name", ["ledger.jsonl", "clients.jsonl"])
    def test_a_ledger_that_another_process_writes_is_not_touched(self, run, tmp_path, cache, silent, monkeypatch, name):
        with monkeypatch.context() as patch:
            _interrupt_at(patch, 30)
            with pytest.raises(Killed):
                run("a")
        with (tmp_path / "a" / name).open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(LedgerError, match=rf"{name}: in use by another process"):
                resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    def test_a_broken_row_is_named_with_its_line(self, run, tmp_path, cache, silent, monkeypatch):
        with monkeypatch.context() as patch:
            _interrupt_at(patch, 30)
            with pytest.raises(Killed):
                run("a")
        (tmp_path / "a" / "rounds.jsonl").write_text("not a row\n")
        with pytest.raises(RunError, match=r"rounds.jsonl:1: not a row of a round"):
            resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    def test_a_changed_configuration_does_not_continue_a_run(self, run, tmp_path, cache, silent, monkeypatch):
        with monkeypatch.context() as patch:
            _interrupt_at(patch, 20)
            with pytest.raises(Killed):
                run("a")
        config = tmp_path / "a" / "config.toml"
        config.write_text(config.read_text().replace("negatives = 8", "negatives = 9"))
        with pytest.raises(RunError, match=r"config.toml: changed since the run began"):
            resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    def test_a_broken_checkpoint_is_named(self, run, tmp_path, cache, silent, monkeypatch):
        with monkeypatch.context() as patch:
            _interrupt_at(patch, 20)
            with pytest.raises(Killed):
                run("a")
        (tmp_path / "a" / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
        with pytest.raises(RunError, match="no readable checkpoint"):
            resume_run(tmp_path / "a", cache=cache, source=None, screen=silent)

    def test_people_without_enough_history_for_the_split(self, tmp_path, tiny, cache, silent):
        folder = tmp_path / "short"
        folder.mkdir()
        (folder / "items.csv").write_text("id,title,text\na,A,one\nb,B,two\n")
        (folder / "interactions.csv").write_text("user,item,time\nu,a,1\nv,b,2\n")
        config = tiny(f'data.name="{folder}"')
        with pytest.raises((ConfigError, DataError), match="enough history"):
            new_run(config, tmp_path / "a", cache=cache, source=None, screen=silent)


@pytest.mark.slow
def test_a_run_killed_for_real_is_resumed_by_the_command(tmp_path, tiny_data):
    sets = ["rounds=60", "model.text_encoder=none", "policy.k=10", "privacy.delta=1e-3"]
    command = [sys.executable, "-m", "simulations.cli"]
    run = [*command, "run", "synthetic", "--data", str(tiny_data), "--seed", "1", "--quiet"]
    run += [part for pair in sets for part in ("--set", pair)]
    subprocess.run([*run, "--out", str(tmp_path / "whole" / "run")], check=True, capture_output=True)
    cut = tmp_path / "cut" / "run"
    process = subprocess.Popen([*run, "--out", str(cut)])
    while not (cut / "rounds.jsonl").exists() or len((cut / "rounds.jsonl").read_bytes().splitlines()) < 5:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "resume", str(cut), "--quiet"], check=True, capture_output=True)
    assert digests(cut) == digests(tmp_path / "whole" / "run")


@pytest.mark.parametrize(
    ("encoder", "parts"), [("linear", {"context", "target"}), ("mean", {"identity", "bias", "behaviour"})]
)
def test_the_model_file_has_what_a_device_needs(encoder, parts, run, tmp_path):
    run("a", f"model.encoder={encoder}")
    model = load_file(tmp_path / "a" / "model.safetensors")
    assert {"items", "projection", "prior"} | parts <= set(model)
    assert model["items"].shape == (40, 4)
    assert all(np.isfinite(part).all() for part in model.values())


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("privacy.epsilon=1e9", "privacy.epsilon 1000000000.0"),
        ("privacy.unit=interaction", "needs privacy.trust 'local'"),
        ("privacy.measurement_share=0", "measurement_share is 0"),
    ],
)
def test_a_promise_that_nothing_could_keep_is_refused_before_any_data_is_read(
    setting, sentence, tiny, silent, tmp_path, monkeypatch
):
    config = tiny(setting)
    monkeypatch.setattr("simulations.run.load_world", None)
    with pytest.raises(PlanError, match=sentence):
        new_run(config, tmp_path / "run", cache=tmp_path / "cache", source=None, screen=silent)
    assert not (tmp_path / "run").exists()


def test_a_second_accountant_reads_the_clients_ledgers_and_agrees(tiny, silent, tmp_path):
    summary = new_run(tiny(), tmp_path / "run", cache=tmp_path / "cache", source=None, screen=silent)
    other = summary["second_accountant"]
    assert other["prv"] == pytest.approx(summary["epsilon"], rel=0.02)
    assert other["rdp"] >= summary["epsilon"]


def test_without_privacy_there_is_nothing_to_witness(tiny, silent, tmp_path):
    sets = tiny("privacy.epsilon=none")
    summary = new_run(sets, tmp_path / "run", cache=tmp_path / "cache", source=None, screen=silent)
    assert summary["second_accountant"] is None
