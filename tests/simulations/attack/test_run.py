"""``fedrecall-sim attack``: from a run's folder to ``attack.json``."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from shared.errors import RunError
from shared.privacy.calibration import plan_from_dict
from shared.privacy.ledger import read_ledger
from simulations.attack.run import attack, check_writable, lines, outcomes, write_attack
from simulations.attack.subject import read_subject


@pytest.fixture(scope="module")
def made(tiny_data, tmp_path_factory):
    """A finished run."""
    from simulations.config import resolve
    from simulations.run import Screen, new_run

    folder = tmp_path_factory.mktemp("attacked") / "run"
    fixed = ["rounds=3", "model.text_encoder=none", "model.rank=4", "policy.measure_every=2", "privacy.delta=1e-3"]
    fixed += ["policy.k=10", "policy.depth=20", "secure_aggregation=ideal"]
    fixed += ["privacy.trending_share=0.1", "trending.every=2"]
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
    assert "Claimed: epsilon 8 at delta 0.001; 100 canaries" in out
    assert "each bound has its confidence by itself; all of them together 80% at least" in out
    assert "steinke-2023 assumes: Fair, independent coins" in out
    assert "mahloujifar-2024 assumes: Fair, independent coins" in out
    assert "intervals at 95%, guesses taken as independent" in out
    assert "more than so many users could show, so this cannot fail" in out
    assert "honest noise fails with probability 1e-06, all together" in out
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


def test_a_run_that_is_not_finished_is_attacked_and_said_to_be_unfinished(folder, tmp_path):
    (folder / "report.html").unlink()
    subject = read_subject(folder, data=None, cache=tmp_path, source=None, say=lambda _sentence: None)
    assert subject.remark.startswith("the run is not finished: attacked is all that its plan allows")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_attack({"format": 1}, tmp_path / "file")


def test_a_folder_that_cannot_be_written_is_told_before_the_work(command, folder, monkeypatch):
    (folder / "attack.json").mkdir()
    code, _, err = command("attack", folder)
    assert code == 2
    assert err.startswith(f"fedrecall-sim: {folder / 'attack.json'}: cannot be written (a folder); make room")
    (folder / "attack.json").rmdir()
    monkeypatch.setattr("simulations.attack.run.os.access", lambda *_given: False)
    with pytest.raises(RunError, match=r"cannot be written \(read-only\)"):
        check_writable(folder)
    assert not (folder / "attack.json").exists()


def test_an_interrupted_attack_leaves_nothing(command, folder, monkeypatch):
    def interrupted(*_given, **_named):
        raise KeyboardInterrupt

    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr("simulations.attack.run.replay_check", interrupted)
    code, _, err = command("attack", folder, "--canaries", 60, "--quiet")
    assert (code, err) == (130, "fedrecall-sim: interrupted\n")
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    "sets",
    [
        ["privacy.epsilon=none"],
        ["privacy.trust=central"],
        ["privacy.trust=local", "privacy.unit=interaction"],
        ["privacy.trust=local", "users_per_client=4", "policy.local_iterations=2"],
        ["privacy.statistics_share=0", "model.encoder=mean"],
    ],
    ids=" ".join,
)
def test_a_run_of_every_trust_and_unit_can_be_attacked(subject, sets):
    found = attack(subject(*sets), canaries=60, seed=0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    parts = outcomes(found)
    assert parts.pop("canaries") == ("cannot tell" if "privacy.epsilon=none" in sets else "pass")
    assert set(parts.values()) == {"pass"}


def test_the_number_of_canaries_is_the_one_that_was_used(subject):
    told = []
    found = attack(subject("model.rank=2"), canaries=99_999, seed=0, tell=told.append)
    used = found["made"]["canaries"]
    assert {one["canaries"] for one in found["canaries"]["bounds"]} == {used}
    assert used < 1000
    assert f"canaries: {used}, not 99999: an update has no more numbers, and more would hide one another" in told
    assert lines(found)[0].endswith(f"{used} canaries, {found['made']['seconds']:.0f} s.")


def test_bounds_that_could_not_have_refuted_the_claim_say_so_and_a_remark_stands_on_top(subject):
    found = attack(subject(), canaries=60, seed=0) | {"remark": "another plan"}
    assert lines(found)[0] == "another plan"
    for bound in found["canaries"]["bounds"]:
        bound["power_cap"] = 7.9
    said = "Lower bounds against the claim: pass; none could have shown as much as is claimed, so this cannot fail."
    assert said in lines(found)
    found["canaries"]["bounds"][0]["power_cap"] = 8.1
    assert "Lower bounds against the claim: pass." in lines(found)
