"""The auditor's command: its exit codes, its sentences, and that it needs neither torch nor flwr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared.audit import cli

ROOT = Path(__file__).parents[3]
BLOCKED = ("torch", "flwr", "opacus", "transformers", "ray", "simulations", "client", "server")


@pytest.fixture
def folder(written, tmp_path):
    return written(tmp_path / "run")


@pytest.fixture
def run(monkeypatch, capsys):
    """Arguments -> (exit code, standard output, standard error)."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedrecall-audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return ended.value.code, shown.out, shown.err

    return command


def test_verify_says_its_verdict_first_and_ends_with_its_exit_code(run, folder):
    code, out, _ = run("verify", folder, "--keys", folder / "keys.toml", "--no-empirical")
    assert code == 0
    assert out.startswith("pass: The evidence supports the claim of this simulation")
    assert out.rstrip().endswith(f"fedrecall-audit verify {folder} --keys {folder}/keys.toml --no-empirical")
    assert "\n9. " not in out
    code, out, _ = run("verify", folder)
    assert code == 4
    assert out.startswith("cannot tell: ")
    assert "\n9. " in out


def test_verify_names_the_lines_of_what_fails(run, folder):
    ledger = folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:4] + lines[5:]))
    code, out, _ = run("verify", folder)
    assert code == 3
    assert "ledger.jsonl:5" in out


def test_one_clause_alone_has_its_own_exit_code(run, folder):
    code, out, _ = run("verify", folder, "--clause", 5)
    assert code == 0
    assert "\n5. " in out
    assert "\n4. " not in out
    assert run("verify", folder, "--clause", 9)[0] == 4
    assert run("verify", folder, "--clause", 5, "--clause", 9)[0] == 4


def test_chinese_is_spoken_on_request(run, folder):
    code, out, _ = run("verify", folder, "--language", "zh")
    assert code == 4
    assert out.startswith("无法判断: ")
    code, _, err = run("verify", folder, "--language", "fr")
    assert code == 2
    assert "must be en or zh" in err


def test_json_is_json_and_nothing_else(run, folder):
    code, out, err = run("verify", folder, "--json")
    assert code == 4
    assert json.loads(out)["outcome"] == "cannot tell"
    assert err == ""


def test_out_writes_the_page_and_the_json(run, folder, tmp_path):
    run("verify", folder, "--out", tmp_path / "audit")
    assert (tmp_path / "audit" / "audit.html").stat().st_size > 10_000
    assert json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "nowhere"),
        ("verify",),
        ("verify", ".", "--clause", "13"),
        ("verify", ".", "--unknown"),
        ("explain", "ledger.jsonl"),
        ("explain", "ledger.jsonl:0"),
        ("explain", "ledger.jsonl:x"),
        ("explain", "nowhere.jsonl:1"),
        ("diff", "nowhere", "nowhere"),
        ("nothing",),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err
    assert "Traceback" not in err


def test_a_ledgers_words_never_command_a_terminal(run, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(
        json.dumps({"event": {"type": "end", "stopped": "\x1b[2J"}, "hash": "", "prev": "", "seq": 1}) + "\n"
    )
    code, out, _ = run("explain", f"{ledger}:1")
    assert code == 0
    assert "\x1b" not in out
    assert "Not proven: " in out


def test_explain_says_an_entry_and_whether_the_chain_holds_up_to_it(run, folder):
    code, out, _ = run("explain", f"{folder}/ledger.jsonl:2")
    assert code == 0
    assert "the server asks 10 clients for the statistics release of round 0" in out
    assert "The chain holds from line 1 to line 2." in out
    assert json.loads(run("explain", f"{folder}/ledger.jsonl:2", "--json")[1])["type"] == "intent"
    code, _, err = run("explain", f"{folder}/ledger.jsonl:99")
    assert code == 2
    assert "has no line 99" in err


def test_diff_names_what_differs(run, folder, written, planned, tmp_path):
    other = written(tmp_path / "other", planned(epsilon=4.0))
    code, out, _ = run("diff", folder, other, "--no-empirical")
    assert code == 0
    assert "plan.epsilon: 8 | 4" in out
    assert "No difference" in run("diff", folder, folder)[1]
    assert {"what": "plan.epsilon", "a": 8.0, "b": 4.0} in json.loads(run("diff", folder, other, "--json")[1])


def test_the_audit_runs_where_neither_torch_nor_flwr_can_be_imported(folder, tmp_path):
    program = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError(f"an auditor's laptop has no {{name}}")
sys.meta_path.insert(0, Blocker())
sys.argv = ["fedrecall-audit", "verify", {str(folder)!r}, "--out", {str(tmp_path / "audit")!r}]
from shared.audit.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert (tmp_path / "audit" / "audit.html").exists()
