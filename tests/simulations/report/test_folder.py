"""Reading a run folder: what is missing is missing, what is broken is named with its file and line."""

from __future__ import annotations

import json

import pytest

from shared.errors import RunError
from simulations.report.folder import dig, number, read_run


def test_a_broken_line_is_named_with_its_file_and_line(run_folder):
    folder = run_folder(rounds=4)
    lines = (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2][:40]
    (folder / "rounds.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(RunError, match=r"rounds\.jsonl:3: not JSON"):
        read_run(folder)


@pytest.mark.parametrize("line", ["[1]", '{"round": "3"}', '{"round": true}', "{}"])
def test_a_line_that_is_no_round_is_named_too(run_folder, line):
    folder = run_folder(rounds=2)
    with (folder / "rounds.jsonl").open("a", encoding="utf-8") as out:
        out.write(line + "\n")
    with pytest.raises(RunError, match=r"rounds\.jsonl:3: not a round record"):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.toml", "seed = = 1", r"config\.toml: .*line 1"),
        ("summary.json", '{\n"a": 1,\n}', r"summary\.json:3: not JSON"),
        ("summary.json", "[]", r"summary\.json: holds a list"),
        ("examples.json", "{}", r"examples\.json: must be a JSON list"),
    ],
)
def test_other_broken_files_are_named(run_folder, name, content, said):
    folder = run_folder(rounds=1)
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=said):
        read_run(folder)


def test_bytes_that_are_no_text_are_named(run_folder):
    folder = run_folder(rounds=1)
    (folder / "rounds.jsonl").write_bytes(b'{"round": 1}\n\xff')
    with pytest.raises(RunError, match=r"rounds\.jsonl is not UTF-8 text \(byte 13\)"):
        read_run(folder)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"holds no run: there is no config\.toml"):
        read_run(tmp_path)


def test_missing_rounds_stay_missing_and_of_a_retried_round_the_later_line_stands(run_folder):
    folder = run_folder(rounds=10, each=lambda r: None if 3 <= r["round"] <= 5 else r)
    with (folder / "rounds.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps({"round": 7, "reason": "tried again"}) + "\n\n")
    rounds = read_run(folder).rounds
    assert [record["round"] for record in rounds] == [1, 2, 6, 7, 8, 9, 10]
    assert rounds[3]["reason"] == "tried again"


def test_a_folder_with_a_configuration_alone_is_a_run_that_has_not_begun(run_folder):
    folder = run_folder(summary=False, examples=False)
    (folder / "rounds.jsonl").unlink()
    run = read_run(folder)
    assert (run.rounds, run.summary, run.examples) == ((), None, None)


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf"), [1]])
def test_only_finite_numbers_are_numbers(value):
    assert number(value) is None


def test_digging_stops_where_there_is_no_mapping():
    assert dig({"a": {"b": 1}}, "a", "b") == 1
    assert dig({"a": 1}, "a", "b") is None
    assert dig(None, "a") is None
