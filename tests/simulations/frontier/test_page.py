from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from simulations.config import resolve
from simulations.frontier.page import Circumstances, command, markdown, page, table
from simulations.frontier.rows import BOTH, METRICS, TRAIN, TUNED, Claim, Outcome, collect
from simulations.frontier.runs import Question

MADE = Circumstances("2026-11-24", "a machine", 2, {"Python": "3.11", "numpy": "2.4"})


def outcome(name, epsilon, seed=0, *, trust="distributed", tuning="not covered", readings=(TRAIN, BOTH)):
    metrics = {reading: dict.fromkeys(METRICS, 0.3 + 0.01 * seed) for reading in readings}
    claim = Claim(epsilon and epsilon - 0.001, "user", "zero-out", trust, 1e-5, "PLD", "every release", tuning)
    return Outcome(name, epsilon, seed, metrics, claim if epsilon else Claim(None))


def rows(*more, readings=(TRAIN, BOTH)):
    ours = [outcome("fedrecall", epsilon, seed, readings=readings) for epsilon in (None, 8.0) for seed in (0, 1)]
    peers = [outcome("DP-EASE", 8.0, seed, trust="central") for seed in (0, 1)]
    return collect([*ours, *more, *peers, outcome("EASE", None)])


def written(*sets, more=(), readings=(TRAIN, BOTH), remarks=()):
    return page(rows(*more, readings=readings), resolve("ml-100k", sets=sets), "the command", remarks, MADE, "ml-100k")


def test_the_command_asks_the_same_question_again_and_names_no_folder_of_this_machine():
    question = Question("ml-100k", ("rounds=3", 'model.text_encoder="none"'), ("model.rank=8",), (None, 0.5), (0, 7))
    shown = command(question, from_folder=True)
    words = shlex.split(shown)
    assert words[:3] == ["fedrecall-sim", "frontier", "ml-100k"]
    assert words[words.index("--epsilons") + 1] == "none,0.5"
    assert words[words.index("--seeds") + 1] == "0,7"
    assert 'model.text_encoder="none"' in words
    assert words[words.index("--tuned") + 1] == "model.rank=8"
    assert words[-2:] == ["--from", "FOLDER"]
    exact = command(Question("ml-100k", (), (), (0.12345678,), (0,)), from_folder=False)
    assert "--epsilons 0.12345678 " in exact
    own = Question("ml-100k", (), (), (None,), (0,), data=Path("somewhere/secret"))
    assert "--data FOLDER" in command(own, from_folder=False)
    assert "secret" not in command(own, from_folder=False)


def test_every_number_stands_beside_its_claim():
    text = written()
    for word in ("user", "zero-out", "distributed", "central", "1e-5", "PLD", "every release", "not covered"):
        assert word in text
    assert re.search(r"\| EASE .*NO DIFFERENTIAL PRIVACY", text)
    assert re.search(r"\| fedrecall +\| 8 +\| 8\.00 ", text)  # 7.999 is rounded up


def test_the_noise_that_collusion_costs_is_said_where_it_is_paid():
    assert "1.11 times the noise" in written()
    assert "1.41 times the noise" in written("cohort.smallest=0.5", "privacy.collusion=0")
    assert "times the noise" not in written("privacy.trust=central")


def test_readings_are_tables_of_their_own_and_ours_decides_which_comes_first():
    both, lacking = written(), written(readings=(BOTH,))
    assert both.index("## Reading train rows only") < both.index("## Reading train and validation rows")
    assert lacking.index("## Reading train and validation rows") < lacking.index("## Reading train rows only")
    assert "—" in table(rows(readings=(BOTH,)), TRAIN)


def test_every_release_that_epsilon_is_spent_on_is_named():
    assert "updates, measurements, one-off statistics and profiles;" in written()
    assert "updates, measurements, one-off statistics;" in written("model.encoder=mean")


def test_tuned_rows_say_so():
    assert "does not cover that choice" not in written()
    tuned = outcome(TUNED, 8.0, tuning="not covered: chosen here")
    text = written(more=[tuned])
    assert "does not cover that choice" in text
    assert "not covered: chosen here" in text


def test_what_is_special_about_single_runs_is_on_the_page():
    assert "epsilon-8-seed-0 ended early" in written(remarks=["epsilon-8-seed-0 ended early."])


def test_seeds_versions_date_protocol_and_command_are_on_the_page():
    text = written()
    for word in ("the command", "seeds 0, 1", "2026-11-24", "numpy 2.4", "rs (random)", "../protocols.md", "used once"):
        assert word in text


@pytest.mark.parametrize("ending", ["png", "svg", "csv", "json"])
def test_the_page_points_at_its_files(ending):
    assert f"(ml-100k.{ending})" in written()


def test_every_line_of_a_table_has_as_many_cells():
    lines = markdown(["a", "b"], [["1|2", "x"], ["", "longer"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].startswith("| 1\\|2 |")
