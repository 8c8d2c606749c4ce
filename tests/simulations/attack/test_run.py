"""``fedrecall-sim attack``: from a run's folder to ``attack.json``."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from shared.errors import RunError
from shared.privacy.calibration import plan_from_dict
from shared.privacy.ledger import read_ledger
from simulations.attack.run import outcomes, write_attack
from simulations.attack.subject import read_subject


@pytest.fixture(scope="module")
def made(tiny_data, tmp_path_factory):
    """A finished run."""
    from simulations.config import resolve
    from simulations.run import Screen, new_run

    folder = tmp_path_factory.mktemp("attacked") / "run"
    fixed = ["rounds=3", "model.text_encoder=none", "model.rank=4", "policy.measure_every=2", "privacy.delta=1e-3"]
    fixed += ["policy.k=10", "policy.depth=20", "secure_aggregation=ideal"]
    config = resolve("synthetic", sets=fixed, seed=1, data=tiny_data)
    screen = Screen(say=lambda _sentence: None, tell=lambda _row, _total: None)
    new_run(config, folder, cache=folder.parent / "cache", source=None, screen=screen)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def command(capsys, monkeypatch):
    from simulations.cli import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedrecall-sim", *map(str, arguments)])
        with pytest.raises(SystemExit) as leave:
            main()
        captured = capsys.readouterr()
        return leave.value.code or 0, captured.out, captured.err

    return call


def test_the_file_holds_every_part_and_is_of_this_run_and_plan(command, folder):
    code, out, _ = command("attack", folder, "--canaries", 100, "--json")
    assert code == 0
    content = json.loads((folder / "attack.json").read_text())
    assert json.loads(out) == content
    plan = plan_from_dict(next(read_ledger(folder / "ledger.jsonl")).event["plan"])
    assert content["format"] == 1
    assert (content["run"], content["plan"]) == ("run", plan.digest())
    assert (content["seed"], content["made"]["canaries"]) == (0, 100)
    assert outcomes(content) == {"canaries": "pass", "replay": "pass", "white_box": "pass", "imia": "pass"}
    assert {one["view"] for one in content["canaries"]["bounds"]} == {"all rounds", "final model"}


def test_the_same_seed_finds_the_same(command, folder):
    found = []
    for _ in range(2):
        command("attack", folder, "--canaries", 100, "--seed", 4, "--quiet")
        content = json.loads((folder / "attack.json").read_text())
        del content["made"]["seconds"]
        found.append(content)
    assert found[0] == found[1]


def test_a_person_reads_bounds_with_their_power_and_estimates_apart(command, folder):
    code, out, err = command("attack", folder, "--canaries", 100)
    assert code == 0
    assert "could show" in out
    assert "no bound" in out
    assert "Record and replay: pass" in out
    assert "Interaction membership: pass" in out
    assert f"Written: {folder / 'attack.json'}" in out
    assert "record and replay: update, a hostile model" in err


def test_what_cannot_be_attacked_is_one_sentence(command, folder, tmp_path):
    nothing = tmp_path / "nothing"
    code, _, err = command("attack", nothing)
    assert code == 2
    assert f"{nothing}: no run here (config.toml is missing); start one with" in err
    code, _, err = command("attack", folder, "--canaries", 3, "--quiet")
    assert code == 2
    assert "canaries = 3: must lie between" in err
    assert not (folder / "attack.json").exists()
    (folder / "ledger.jsonl").write_text("{}\n")
    code, _, err = command("attack", folder)
    assert code == 2
    assert "no plan to attack" in err
    assert "Traceback" not in err


def test_the_plan_that_is_attacked_is_the_ledgers_and_other_data_are_told(folder, tiny_data, tmp_path):
    moved = shutil.copytree(tiny_data, tmp_path / "moved")
    subject = read_subject(folder, data=moved, cache=tmp_path, source=None, say=lambda _sentence: None)
    assert subject.remark == ""
    assert subject.job.plan == plan_from_dict(next(read_ledger(folder / "ledger.jsonl")).event["plan"])
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace("epsilon = 8.0", "epsilon = 4.0"))
    subject = read_subject(folder, data=None, cache=tmp_path, source=None, say=lambda _sentence: None)
    assert subject.job.plan.epsilon == 8.0
    assert "another plan than the ledger's" in subject.remark


def test_a_run_without_a_checkpoint_is_attacked_where_it_would_begin(folder, tmp_path):
    (folder / "checkpoint.safetensors").unlink()
    subject = read_subject(folder, data=None, cache=tmp_path, source=None, say=lambda _sentence: None)
    assert subject.state.round == -1


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_attack({"format": 1}, tmp_path / "file")
