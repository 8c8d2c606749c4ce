"""The runs behind a frontier: made once, reused, gone on with, and refused where a folder holds something else."""

from __future__ import annotations

import ast
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import tomli_w

from shared.errors import ConfigError, PlanError, RunError
from simulations.frontier import peers as peers_module
from simulations.frontier import runs
from simulations.frontier.rows import BOTH, METRICS, TRAIN, TUNED, Claim, Outcome, collect
from simulations.frontier.runs import Question, answer, digest, outcome_of
from simulations.world import load_world

SETS = ("privacy.delta=1e-3", "model.text_encoder=none", "rounds=3")
SUMMARY = {
    "test": dict.fromkeys(METRICS, 0.3),
    "epsilon": 8.0,
    "unit": "user",
    "adjacency": "zero-out",
    "trust": "distributed",
    "delta": 1e-3,
    "accountant": "PLD",
    "covers": "everything",
    "covers_tuning": False,
    "stopped": "finished",
    "rounds_done": 3,
    "rounds": 3,
}


def asked(*sets, tuned=(), epsilons=(None, 8.0), seeds=(0, 1)):
    return Question("synthetic", (*SETS, *sets), tuned, epsilons, seeds)


@pytest.fixture
def made(monkeypatch):
    """Stand-ins for runs and peers that leave what real ones leave; returns what was run."""
    done = []

    def end(config, folder):
        epsilon = None if config.privacy.epsilon == "none" else config.privacy.epsilon
        summary = SUMMARY | {"seed": config.seed, "epsilon": epsilon}
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "report.html").write_text("")
        return summary

    def new_run(config, folder, *, cache, source, screen):
        done.append(folder.name)
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(tomli_w.dumps(config.model_dump(mode="json")))
        if done.count("stop"):
            raise KeyboardInterrupt
        return end(config, folder)

    def resume_run(folder, *, cache, source, screen):
        done.append(f"resumed {folder.name}")
        number = int(folder.name[-1])
        return end(runs.resolve("synthetic", sets=["privacy.epsilon=8"], seed=number), folder)

    monkeypatch.setattr(runs, "new_run", new_run)
    monkeypatch.setattr(runs, "resume_run", resume_run)
    monkeypatch.setattr(runs, "peers", lambda *_, **__: [])
    return done


@pytest.fixture
def ask(tmp_path, silent):
    def go(question, folder=tmp_path / "out"):
        return answer(question, folder, cache=tmp_path, source=None, screens=lambda _: nullcontext(silent))

    return go


def test_every_epsilon_and_seed_is_run_once_and_its_row_is_their_mean(made, ask):
    found = ask(asked())
    assert made == ["epsilon-none-seed-0", "epsilon-none-seed-1", "epsilon-8-seed-0", "epsilon-8-seed-1"]
    assert [(row.epsilon, row.seeds) for row in collect(found.outcomes)] == [(None, (0, 1)), (8.0, (0, 1))]
    assert found.remarks == ()


def test_what_is_finished_is_reused_and_more_is_added(made, ask):
    first = ask(asked())
    made.clear()
    assert ask(asked()) == first
    assert made == []
    assert len(ask(asked(epsilons=(None, 8.0, 2.0), seeds=(0, 1))).outcomes) == 6
    assert made == ["epsilon-2-seed-0", "epsilon-2-seed-1"]


def test_an_interrupted_frontier_goes_on(made, ask):
    made.append("stop")
    with pytest.raises(KeyboardInterrupt):
        ask(asked(epsilons=(8.0,)))
    made.clear()
    ask(asked(epsilons=(8.0,)))
    assert made == ["resumed epsilon-8-seed-0", "epsilon-8-seed-1"]


def test_the_variant_that_was_tuned_here_runs_beside_the_first_and_says_so(made, ask):
    found = ask(asked(tuned=("model.rank=8",), epsilons=(8.0,), seeds=(0,)))
    assert made == ["epsilon-8-seed-0", "tuned-epsilon-8-seed-0"]
    assert [outcome.name for outcome in found.outcomes] == ["fedrecall", TUNED]
    assert "this data set" in found.outcomes[1].claim.tuning


def test_other_settings_in_the_same_folder_are_refused_before_anything_runs(made, ask):
    ask(asked(seeds=(1,)))
    made.clear()
    with pytest.raises(RunError, match="rounds = 3, this frontier asks for 4"):
        ask(asked("rounds=4", seeds=(0, 1)))
    assert made == []


def test_a_folder_with_something_else_in_it_is_refused(made, ask, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").write_text("")
    with pytest.raises(RunError, match=r"holiday\.jpg"):
        ask(asked(), tmp_path / "other")
    with pytest.raises(RunError, match="is a file"):
        ask(asked(), tmp_path / "other" / "holiday.jpg")
    assert made == []


def test_a_folder_with_the_drafts_of_a_killed_process_goes_on(made, ask, tmp_path):
    ask(asked(epsilons=(8.0,), seeds=(0,)))
    (tmp_path / "out" / ".peers-seed-0.json.77.new").write_text("{")
    (tmp_path / "out" / ".epsilon-8-seed-0.code.77.new").write_text("")
    ask(asked(epsilons=(8.0,), seeds=(0,)))
    assert made == ["epsilon-8-seed-0"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (asked("privacy.epsilon=4"), "--epsilons"),
        (asked(tuned=("seed=4",)), "--seeds"),
        (asked("engine=ray"), "inprocess"),
        (asked("nope=1"), "unknown key nope"),
    ],
)
def test_questions_that_make_no_sense_are_refused(made, ask, question, message):
    with pytest.raises(ConfigError, match=message):
        ask(question)
    assert made == []


def test_data_that_private_peers_are_not_fitted_to_are_refused_before_the_first_run(made, ask):
    with pytest.raises(ConfigError, match="fedrecall-sim sweep has no such peers"):
        ask(Question("large", (), (), (None,), (0,)))
    assert made == []


def test_an_epsilon_out_of_bounds_is_refused_before_the_first_run(made, ask):
    with pytest.raises(PlanError, match="1000"):
        ask(asked(epsilons=(8.0, 1000.0)))
    assert made == []


def test_seeds_that_were_run_apart_come_together(made, ask):
    apart = [ask(asked(epsilons=(8.0,), seeds=(seed,))) for seed in (0, 1)]
    made.clear()
    together = ask(asked(epsilons=(8.0,)))
    assert made == []
    assert together.outcomes == apart[0].outcomes + apart[1].outcomes
    assert together.remarks == ()


def test_code_that_changed_since_a_run_is_remarked_on(made, ask, monkeypatch):
    ask(asked(epsilons=(8.0,), seeds=(0,)))
    monkeypatch.setattr(runs, "digest", lambda _: "other")
    found = ask(asked(epsilons=(8.0,)))
    assert found.remarks == ("epsilon-8-seed-0 was made by an earlier state of the code.",)


def test_a_run_that_went_on_under_other_code_is_remarked_on(made, ask, monkeypatch):
    made.append("stop")
    with pytest.raises(KeyboardInterrupt):
        ask(asked(epsilons=(8.0,), seeds=(0,)))
    made.clear()
    monkeypatch.setattr(runs, "digest", lambda _: "other")
    found = ask(asked(epsilons=(8.0,)))
    assert made == ["resumed epsilon-8-seed-0", "epsilon-8-seed-1"]
    assert found.remarks == ("epsilon-8-seed-0 was made by an earlier state of the code.",)


def test_a_run_that_ended_early_is_remarked_on(made, ask, monkeypatch):
    monkeypatch.setitem(SUMMARY, "stopped", "budget exhausted")
    monkeypatch.setitem(SUMMARY, "rounds_done", 2)
    found = ask(asked(epsilons=(8.0,), seeds=(0,)))
    assert found.remarks == ("epsilon-8-seed-0 ended early (budget exhausted, after 2 of 3 rounds).",)


def test_a_run_that_asked_a_sample_is_remarked_on(made, ask, monkeypatch):
    monkeypatch.setitem(SUMMARY, "asked", "of 5 of 200 users")
    found = ask(asked(epsilons=(8.0,), seeds=(0,)))
    assert found.remarks == (
        "epsilon-8-seed-0 was measured on items of 5 of 200 users; what stands beside it likewise.",
    )


def test_a_summary_becomes_its_claim_and_both_readings():
    outcome = outcome_of("fedrecall", 8.0, 0, SUMMARY | {"test_reading_train": dict.fromkeys(METRICS, 0.2)})
    assert outcome.metrics == {BOTH: dict.fromkeys(METRICS, 0.3), TRAIN: dict.fromkeys(METRICS, 0.2)}
    assert outcome.claim == Claim(8.0, "user", "zero-out", "distributed", 1e-3, "PLD", "everything", "not covered")
    assert outcome_of("fedrecall", None, 0, SUMMARY | {"epsilon": None}).claim == Claim(None)
    assert outcome_of("fedrecall", 8.0, 0, SUMMARY | {"covers_tuning": True}).claim.tuning == "covered"


def test_a_digest_depends_on_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_ROOT", tmp_path)
    (tmp_path / "a.py").write_text("1")
    before = digest(("a.py",))
    assert before == digest(("a.py",))
    (tmp_path / "a.py").write_text("2")
    assert digest(("a.py",)) != before


def test_a_digest_leaves_out_what_audits_runs_because_no_run_imports_it(tmp_path, monkeypatch):
    read = [runs._ROOT / part for part in runs.RUNS]
    files = [file for part in read for file in (part.rglob("*.py") if part.is_dir() else [part])]
    audit = runs._ROOT / runs._UNUSED
    assert [f for f in files if "shared.audit" in f.read_text() and not f.is_relative_to(audit)] == []
    monkeypatch.setattr(runs, "_ROOT", tmp_path)
    (tmp_path / "shared" / "audit").mkdir(parents=True)
    (tmp_path / "shared" / "a.py").write_text("1")
    before = digest(("shared",))
    (tmp_path / "shared" / "audit" / "b.py").write_text("1")
    assert digest(("shared",)) == before


def test_a_digest_of_runs_holds_all_that_a_run_imports_but_what_changes_no_number_of_it():
    besides = ("baselines", "download", "examples", "fetch", "report")
    held = (*runs.RUNS, *(f"simulations/{name}" for name in besides))
    assert sorted(path for path in imported("simulations.run", {}) if not path.startswith(held)) == []


def imported(module, found):
    """Path -> module of what a module of the simulations imports, and of what that imports."""
    stem = runs._ROOT / module.replace(".", "/")
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        name = path.relative_to(runs._ROOT).as_posix()
        if not path.exists() or name in found:
            continue
        found[name] = module
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("simulations"):
                for one in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    imported(one, found)
    return found


def test_every_file_that_a_digest_names_exists():
    assert [part for part in (*runs.RUNS, *runs.PEERS) if not (runs._ROOT / part).exists()] == []


# --- peers


@pytest.fixture
def fitted(monkeypatch):
    """Counts what is fitted."""
    asked_for, real = [], peers_module.run_baselines
    monkeypatch.setattr(
        peers_module, "run_baselines", lambda *a, **k: asked_for.append((k["seed"], k["names"])) or real(*a, **k)
    )
    return asked_for


def beside(tiny, folder, *sets, epsilons=(None, 8.0), seeds=(0, 1), code="x") -> list[Outcome]:
    return peers_module.peers(tiny(*sets), epsilons, seeds, folder, code, cache=folder, source=None, say=lambda _: None)


def test_peers_are_fitted_once_a_seed_and_those_without_chance_once(tiny, tmp_path, fitted):
    found = beside(tiny, tmp_path)
    assert {(one.name, one.epsilon, one.seed) for one in found} == {
        *((name, 8.0, seed) for name in ("DP-EASE", "TF-IDF + private popularity") for seed in (0, 1)),
        *((name, None, seed) for name in ("EASE", "iALS", "popularity") for seed in (0, 1)),
    }
    assert [("ease" in names, "dp_ease" in names) for _, names in fitted] == [(True, True), (False, True)]
    assert beside(tiny, tmp_path) == found
    assert len(fitted) == 2


def test_each_reading_of_a_peer_is_what_the_baselines_say(tiny, tmp_path, monkeypatch):
    said = {"ease": 0.1, "ials": 0.2, "popularity": 0.3, "dp_ease@8": 0.4, "tfidf_private_popularity@8": 0.5}
    results = {}
    for key, value in said.items():
        name, at, epsilon = key.partition("@")
        results[key] = dict.fromkeys(METRICS, value)
        results[f"{name}+valid{at}{epsilon}"] = dict.fromkeys(METRICS, value + 0.05)
    monkeypatch.setattr(peers_module, "run_baselines", lambda *_, **__: results)
    found = {one.name: one.metrics for one in beside(tiny, tmp_path, seeds=(0,))}
    assert found["EASE"] == {TRAIN: dict.fromkeys(METRICS, 0.1), BOTH: dict.fromkeys(METRICS, 0.1 + 0.05)}
    assert found["DP-EASE"] == {TRAIN: dict.fromkeys(METRICS, 0.4), BOTH: dict.fromkeys(METRICS, 0.4 + 0.05)}


@pytest.mark.parametrize("change", [{"code": "y"}, {"epsilons": (4.0,)}])
def test_another_question_is_answered_anew(tiny, tmp_path, fitted, change):
    beside(tiny, tmp_path, seeds=(0,))
    beside(tiny, tmp_path, seeds=(0,), **change)
    assert len(fitted) == 2


def test_peers_are_judged_by_the_people_whom_the_run_of_their_seed_asks(tiny, tmp_path, monkeypatch):
    given, real = [], peers_module.run_baselines
    monkeypatch.setattr(
        peers_module,
        "run_baselines",
        lambda data, split, **k: (
            given.append((set(data.user[split.test].tolist()), k["names"])) or real(data, split, **k)
        ),
    )
    few, everybody = "evaluation.users=5", set(range(24))
    beside(tiny, tmp_path, few)
    asked_by_seed = [set(load_world(tiny(few, seed=n), tmp_path, None, print).asked.tolist()) for n in (0, 1)]
    assert asked_by_seed[0] != asked_by_seed[1]
    assert [people for people, _ in given] == asked_by_seed
    assert all("ease" in names for _, names in given)  # the same data, but other people
    beside(tiny, tmp_path)  # another question
    assert [people for people, _ in given[2:]] == [everybody] * 2


def test_a_broken_file_is_made_again(tiny, tmp_path, fitted):
    found = beside(tiny, tmp_path, seeds=(0,))
    for text in ("{", "[]", '{"question": 1}'):
        (tmp_path / "peers-seed-0.json").write_text(text)
        assert beside(tiny, tmp_path, seeds=(0,)) == found
    assert len(fitted) == 4


def test_private_peers_print_their_claim_and_never_more_than_was_asked(tiny, tmp_path):
    for one in beside(tiny, tmp_path, epsilons=(None, 8.0, 0.5), seeds=(0,)):
        assert set(one.metrics) == {TRAIN, BOTH}
        if one.epsilon is None:
            assert one.claim == Claim(None)
        else:
            assert 0.99 * one.epsilon < one.claim.epsilon <= one.epsilon
            assert (one.claim.unit, one.claim.trust, one.claim.delta) == ("user", "central", 1e-3)
            assert one.claim.tuning.startswith("not covered")


def test_nothing_but_files_of_a_frontier_is_written(made, ask, tmp_path):
    ask(asked(epsilons=(8.0,), seeds=(0,)))
    assert sorted(path.name for path in Path(tmp_path / "out").iterdir()) == [
        "epsilon-8-seed-0",
        "epsilon-8-seed-0.code",
    ]
