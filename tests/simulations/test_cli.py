"""``fedrecall-sim`` as a person and a script meet it: output, exit codes, sentences."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shared.errors import FetchError
from simulations import cli
from simulations.screen import privacy_sentence

TINY = ["rounds=2", "model.text_encoder=none", "policy.k=10", "privacy.delta=1e-3", "model.rank=4"]
TINY += ["secure_aggregation=ideal"]
PRESETS = ("large", "ml-100k", "online-retail", "synthetic")
SETS = [part for pair in TINY for part in ("--set", pair)]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Call the command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("FEDRECALL_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedrecall-sim", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as leave:
            code = int(leave.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def finished(command, tiny_data, tmp_path):
    code, out, _ = command("run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "a"), "--json", *SETS)
    assert code == 0
    return tmp_path / "a", json.loads(out)


def test_json_is_the_summary_and_nothing_else(finished):
    folder, summary = finished
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["stopped"] == "finished"


def test_a_person_sees_quality_privacy_and_where_the_report_is(command, tiny_data, tmp_path):
    code, out, err = command("run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "a"), *SETS)
    assert code == 0
    assert "popularity" in out
    assert "adjacency zero-out, trust distributed, delta 0.001" in " ".join(out.split())
    assert f"Report: {tmp_path / 'a' / 'report.html'}" in out
    assert "Promise: epsilon 8 per user" in err
    assert "Against everybody, the server included, if it sees sums only and at most" in err
    assert "If everybody else belongs to the server: epsilon" in err


def test_nothing_is_promised_that_is_refused(command, tiny_data, tmp_path):
    arguments = ["run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "a"), *SETS]
    code, _, err = command(*arguments, "--set", "privacy.epsilon=1e9")
    assert code == 2
    assert "privacy.epsilon 1000000000.0 must lie between" in err
    assert "Promise" not in err


def test_a_bound_is_never_printed_below_itself_and_no_claim_is_called_none(finished):
    summary = finished[1] | {"epsilon": 4.0001, "epsilon_if_others_collude": 850.01}
    summary["epsilon_claims"] = {"everyone": None, "recipients": 4.0001, "recipients_amplified": 1.2301, "server": None}
    said = privacy_sentence(summary)
    assert said.startswith("epsilon 4.01 per user")
    assert "against everyone none, recipients 4.01, server none; 1.24 for recipients who see neither" in said
    assert "851 if everybody else colludes" in said


def test_no_privacy_is_loud(command, tiny_data, tmp_path):
    arguments = ["run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "a"), *SETS]
    code, out, err = command(*arguments, "--set", "privacy.epsilon=none")
    assert code == 0
    assert "NO DIFFERENTIAL PRIVACY" in out
    assert "NO DIFFERENTIAL PRIVACY" in err


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "secure_aggregation=ideal",
            "sums are not masked in this simulation (secure_aggregation = ideal; --set secure_",
        ),
        ("secure_aggregation=real", "all releases counted; vectors are masked, so the server learns sums alone."),
        ("privacy.trust=local", "trust local, delta 0.001), all releases counted."),
    ],
)
def test_the_promise_says_what_is_masked_and_how_to_switch(command, tiny_data, tmp_path, setting, sentence):
    arguments = ["run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "a"), *SETS]
    code, out, err = command(*arguments, "--set", "users_per_client=6", "--set", setting)
    assert code == 0
    assert sentence in " ".join(err.split())
    assert ("sums not masked in this simulation" in " ".join(out.split())) == (setting == "secure_aggregation=ideal")


def test_a_used_up_budget_is_one_sentence_exit_code_0_and_recommending_goes_on(command, tiny_data, tmp_path):
    folder = tmp_path / "a"
    arguments = ["run", "synthetic", "--data", str(tiny_data), "--out", str(folder), *SETS, "--set", "rounds=4"]
    code, out, _ = command(*arguments, "--set", "privacy.participations=2", "--set", "privacy.epsilon=50")
    assert code == 0
    said = " ".join(out.split())
    assert "The privacy budget is used up: after 2 of 4 rounds too few clients have a participation left" in said
    assert "the model of round 2 (best private estimate) and its policy, now frozen, are kept" in said
    code, out, _ = command("recommend", str(folder), "--user", "u3", "--count", "3", "--json")
    assert code == 0
    assert len(json.loads(out)["recommendations"]) == 3


def test_a_run_with_budget_left_does_not_speak_of_one_that_is_used_up(finished, command, tiny_data, tmp_path):
    _, out, _ = command("run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "b"), *SETS)
    assert "used up" not in out


def test_quiet_says_nothing_on_the_way(command, tiny_data, tmp_path):
    _, out, err = command("run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "a"), "--quiet", *SETS)
    assert err == ""
    assert "this run" in out


def test_recommend_shows_titles_scores_and_reasons(command, finished):
    folder, _ = finished
    code, out, _ = command("recommend", str(folder), "--user", "u3", "--count", "3")
    assert code == 0
    assert "because you bought" in out or "because you viewed" in out
    code, out, _ = command("recommend", str(folder), "--user", "u3", "--count", "3", "--json")
    answer = json.loads(out)
    assert len(answer["recommendations"]) == 3
    for item in answer["recommendations"]:
        assert item["score"] == pytest.approx(sum(item["parts"].values()), abs=2e-3)


def test_the_exposure_price_is_part_of_the_score_that_orders_the_list(command, tiny_data, tmp_path):
    folder = str(tmp_path / "a")
    sets = [*SETS, "--set", "policy.exposure_price=2", "--set", "policy.controller=static"]
    command("run", "synthetic", "--data", str(tiny_data), "--out", folder, "--quiet", *sets)
    answer = json.loads(command("recommend", folder, "--user", "u3", "--json")[1])
    scores = [item["score"] for item in answer["recommendations"]]
    assert scores == sorted(scores, reverse=True)
    assert any(item["parts"]["exposure price"] < 0 for item in answer["recommendations"])


def test_a_run_on_own_data_carries_the_folders_name(finished, tiny_data):
    assert finished[1]["preset"] == tiny_data.name
    assert any("read off all users of this folder" in line for line in finished[1]["not_covered"])


def test_prepare_refuses_what_the_server_would_refuse(command, tiny_data, tmp_path):
    home = tmp_path / "home"
    arguments = [
        "prepare",
        "synthetic",
        "--data",
        str(tiny_data),
        "--out",
        str(home),
        *SETS,
        "--set",
        "cohort.size=999",
    ]
    code, _, err = command(*arguments)
    assert code == 2
    assert "cohort.size = 999" in err
    assert not home.exists()


def test_an_unknown_user_gets_near_ones(command, finished):
    code, _, err = command("recommend", str(finished[0]), "--user", "u99")
    assert code == 2
    assert "--user u99: no such user among 24; for example u9" in err


def test_compare_lays_runs_side_by_side(command, finished):
    code, out, _ = command("compare", str(finished[0]), str(finished[0]), "--json")
    assert code == 0
    assert len(json.loads(out)["runs"]) == 2


def test_presets_name_what_they_need(command):
    code, out, _ = command("presets")
    assert code == 0
    for name in PRESETS:
        assert name in out
    assert set(json.loads(command("presets", "--json")[1])) == set(PRESETS)


def test_prepare_writes_stores_and_the_next_command(command, tiny_data, tmp_path):
    home = tmp_path / "home"
    code, out, _ = command(
        "prepare", "synthetic", "--data", str(tiny_data), "--out", str(home), "--clients", "5", *SETS
    )
    assert code == 0
    assert len(list((home / "clients").iterdir())) == 5
    assert "flwr run . local" in out
    code, _, err = command("prepare", "synthetic", "--data", str(tiny_data), "--out", str(home), *SETS)
    assert code == 2
    assert "not empty" in err


def test_tensorboard_logs_are_written_on_request(command, tiny_data, tmp_path):
    folder = tmp_path / "a"
    code, _, _ = command("run", "synthetic", "--data", str(tiny_data), "--out", str(folder), "--tensorboard", *SETS)
    assert code == 0
    assert list((folder / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["run", "nothing"],
            "'nothing' is neither a preset (large, ml-100k, online-retail, synthetic) nor a TOML file",
        ),
        (["run", "missing.toml"], "missing.toml: cannot be read"),
        (["run", "synthetic", "--set", "roundss=3"], "unknown key roundss; did you mean rounds?"),
        (["run", "synthetic", "--set", "rounds"], "--set rounds: expected key=value"),
        (["run", "synthetic", "--set", "rounds=0"], "rounds = 0: input should be greater than or equal to 1"),
        (["run", "synthetic", "--set", "engine=ray"], "cannot be seeded"),
        (["run", "synthetic", "--wandb"], "not installed"),
        (["run", "synthetic", "--seed", "-1"], "seed = -1: must be 0 or larger"),
        (["run", "synthetic", "--set", "preset=../evil"], "preset = '../evil'"),
        (["resume", "nowhere"], "nowhere: no run here"),
        (["compare", "nowhere"], "nowhere"),
        (["recommend", "nowhere", "--user", "1"], "nowhere: no run here"),
        (["baselines", "synthetic", "--split", "xyz"], "data.split = 'xyz'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(command, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments)
    assert code == 2, err
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err


def test_no_network_and_no_cache_says_where_the_file_would_go(command, monkeypatch, tmp_path):
    def offline(*_args, **_kwargs):
        raise FetchError("ml-100k: no network and not in the cache; put the file there or pass --from FOLDER")

    monkeypatch.setattr("simulations.datasets.load.fetch_ml100k", offline)
    code, _, err = command("run", "ml-100k", "--out", str(tmp_path / "a"))
    assert code == 2
    assert "--from FOLDER" in err
    assert not (tmp_path / "a").exists()


def test_ctrl_c_keeps_what_was_finished_and_says_how_to_go_on(command, tiny_data, tmp_path, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("server.coordinator.train", interrupt)
    code, _, err = command("run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "a"), *SETS)
    assert code == 130
    assert "fedrecall-sim resume" in err
    monkeypatch.undo()
    monkeypatch.setenv("FEDRECALL_CACHE", str(tmp_path / "cache"))
    assert command("resume", str(tmp_path / "a"), "--quiet")[0] == 0


def test_nobody_answering_ends_with_exit_code_5(command, tiny_data, tmp_path, monkeypatch):
    from shared.protocol import declined_record

    monkeypatch.setattr("simulations.engine.answer_all", lambda _host, asked: dict.fromkeys(asked, declined_record()))
    arguments = ["run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "a"), *SETS, "--set", "rounds=9"]
    code, out, err = command(*arguments, "--set", "model.encoder=mean")
    assert code == 5
    assert "too few clients answered in three rounds in a row" in err
    assert "no quorum after 3 of 9 rounds" in " ".join(out.split())


def test_nobody_answering_in_round_0_ends_encoder_linear_with_exit_code_5(command, tiny_data, tmp_path, monkeypatch):
    from shared.protocol import declined_record

    monkeypatch.setattr("simulations.engine.answer_all", lambda _host, asked: dict.fromkeys(asked, declined_record()))
    code, out, err = command("run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "a"), *SETS)
    assert code == 5
    assert "too few clients answered in round 0" in err
    assert "no contexts after 0 of" in " ".join(out.split())


def test_help_is_quick_and_loads_nothing_heavy():
    script = (
        "import sys; sys.argv = ['fedrecall-sim', '--help']\n"
        "from simulations.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'opacus', 'transformers', 'flwr', 'sklearn', 'ray'} & set(sys.modules)\n"
        "sys.exit(f'loads {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "recommend" in done.stdout
