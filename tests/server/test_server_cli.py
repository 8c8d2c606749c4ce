"""``fedrecall-server`` as it is typed: what it prints, where it writes, what it answers with."""

from __future__ import annotations

import io
import json
import shutil
import stat
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace

import pytest

from server import cli, operator_client
from server.enrolling import invite
from server.house import House
from server.metrics import Vitals, facts_of
from server.operators import read_operators
from server.promise import plan_of
from shared import terminal
from shared.enrolment import read_pass, write_request
from shared.errors import RunError
from shared.privacy.accounting import ACCOUNTANT

ITEMS = "id,title,categories\n" + "".join(f"i{n},Item {n},{'a|b' if n % 2 else 'c'}\n" for n in range(30))


@pytest.fixture
def call(capsys, monkeypatch):
    """Type a command; its exit code and what it printed."""
    monkeypatch.delenv("FEDRECALL_TOKEN", raising=False)

    def typed(*words):
        monkeypatch.setattr("sys.argv", ["fedrecall-server", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return typed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A server of thirty items, made by its own command once, and what that said."""
    items, folder = (tmp_path_factory.mktemp("made") / name for name in ("items.csv", "house"))
    items.write_text(ITEMS)
    sets = ("--set", 'model.text_encoder="none"', "--set", "rounds=2", "--clients", "3")
    words = ("init", folder, "--address", "127.0.0.1:8443", "--items", items, *sets)
    done = subprocess.run([sys.executable, "-m", "server.cli", *words], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made[0], tmp_path / "house")


@pytest.fixture
def api(monkeypatch):
    """Stands in for the operator API: keeps what was asked, answers what a test says."""

    class Api:
        asked, answer = [], {}

        def ask(self, credential, method, path, body=None):
            self.asked.append((credential.token, method, path, body))
            return self.answer

    made = Api()
    made.asked = []
    monkeypatch.setattr(operator_client, "ask", made.ask)
    return made


def test_init_sets_up_a_server_with_its_catalogue_and_says_what_is_promised(made):
    folder, out = made
    assert "epsilon 8.00" in out
    assert f"fedrecall-server up {folder}" in out
    house = House(folder)
    plan = json.loads(house.plan.read_text())
    assert plan["plan"]["population"] == 3
    assert plan["parameters"]["update"] > 30
    assert (house.catalogue / "current.json").exists()
    assert read_operators(house) == ()


def test_no_file_that_others_can_read_holds_a_secret(folder):
    secret = {"keys", "secrets", "enrolment"}
    for path in folder.rglob("*"):
        if path.is_file() and (path.parent.name in secret or "key" in path.name):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_second_init_is_refused(folder, call):
    code, _, err = call("init", folder)
    assert code == terminal.USAGE
    assert "a server is here already" in err


def test_plan_writes_what_follows_and_checks_it(folder, call):
    assert call("plan", folder, "--check")[0] == 0
    house = House(folder)
    house.settings.write_text(house.settings.read_text().replace("rounds = 2", "rounds = 5"))
    for command in (("plan", folder, "--check"), ("up", folder)):
        code, _, err = call(*command)
        assert code == terminal.USAGE
        assert "plan.json: plan." in err
        assert "follows from fedrecall.toml" in err
    code, out, _ = call("plan", folder, "--json")
    assert code == 0
    says = json.loads(out)["says"]
    assert says == json.loads(house.plan.read_text())["says"]
    assert says[-1] == f"Trust distributed; accountant: {ACCOUNTANT}."
    assert call("plan", folder, "--check")[0] == 0


def test_an_operator_is_added_listed_and_removed(folder, call, tmp_path):
    code, out, _ = call("operator", "add", folder, "ann", "--role", "approve", "--json")
    assert code == 0
    assert len(json.loads(out)["token"]) >= 43
    code, out, _ = call("operator", "add", folder, "bob", "--role", "view", "--out", tmp_path / "bob.json")
    assert code == 0
    token = json.loads((tmp_path / "bob.json").read_text())["token"]
    assert token not in out
    rows = json.loads(call("operator", "list", folder, "--json")[1])
    assert [(row["name"], row["role"]) for row in rows] == [("ann", "approve"), ("bob", "view")]
    assert all("token" not in row for row in rows)
    assert call("operator", "remove", folder, "ann")[0] == 0
    assert call("operator", "remove", folder, "ann")[0] == terminal.USAGE


def test_a_file_is_not_written_over_and_no_operator_made_for_it(folder, call, tmp_path):
    there = tmp_path / "there"
    there.write_text("mine")
    code, _, err = call("operator", "add", folder, "ann", "--role", "view", "--out", there)
    assert code == terminal.USAGE
    assert "there is such a file already" in err
    assert there.read_text() == "mine"
    assert read_operators(House(folder)) == ()


def test_the_token_comes_from_the_variable_a_file_or_the_credential(folder, call, api, monkeypatch, tmp_path):
    token = tmp_path / "token"
    token.write_text("from a file\n")
    call("operator", "add", folder, "bob", "--role", "view", "--out", tmp_path / "bob.json")
    monkeypatch.setenv("FEDRECALL_TOKEN", "from the variable")
    assert call("pause", folder)[0] == 0
    assert call("pause", folder, "--token-file", token)[0] == 0
    assert call("pause", tmp_path / "bob.json")[0] == 0
    own = json.loads((tmp_path / "bob.json").read_text())["token"]
    assert [asked[0] for asked in api.asked] == ["from the variable", "from a file", own]
    monkeypatch.delenv("FEDRECALL_TOKEN")
    code, _, err = call("pause", folder)
    assert code == terminal.USAGE
    assert "FEDRECALL_TOKEN" in err


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        (("pause",), "/v1/pause", {}),
        (("unpause",), "/v1/unpause", {}),
        (("begin",), "/v1/begin", {}),
        (("freeze", "--why", "odd"), "/v1/orders", {"kind": "freeze", "why": "odd"}),
        (("thaw",), "/v1/orders", {"kind": "thaw", "why": ""}),
        (("approve", "--proposal", "1234abcd"), "/v1/orders", {"kind": "approve", "why": "", "proposal": "1234abcd"}),
        (("reject",), "/v1/orders", {"kind": "reject", "why": "", "proposal": None}),
        (("rollback", "DIR", "3"), "/v1/orders", {"kind": "rollback", "why": "", "version": 3}),
        (("enroll", "revoke", "DIR", "00ff"), "/v1/clients/00ff/revoke", {}),
        (("enroll", "withdraw", "DIR", "00ff"), "/v1/invitations/00ff/withdraw", {}),
    ],
)
def test_a_command_is_one_request(words, path, body, folder, call, api, monkeypatch):
    monkeypatch.setenv("FEDRECALL_TOKEN", "t")
    api.answer = {"expected": "version 3 comes back", "client": "00ff", "settled": False}
    words = [folder if word == "DIR" else word for word in (words if "DIR" in words else (words[0], "DIR", *words[1:]))]
    assert call(*words)[0] == 0
    assert api.asked == [("t", "POST", path, body)]


@pytest.mark.parametrize("name", ["../operators", "a/b", "a?b", "", "é"])
def test_a_name_that_would_be_another_path_is_refused(name, folder, call, api, monkeypatch):
    monkeypatch.setenv("FEDRECALL_TOKEN", "t")
    assert call("enroll", "revoke", folder, name)[0] == terminal.USAGE
    assert api.asked == []


def test_an_invitation_is_written_secretly_and_never_over_another(folder, call, api, monkeypatch, tmp_path, now):
    monkeypatch.setenv("FEDRECALL_TOKEN", "t")
    api.answer = asdict(invite(House(folder), "ann", 1, now))
    out = tmp_path / "invitation.json"
    code, said, _ = call("enroll", "invite", folder, "--out", out, "--days", 1)
    assert code == 0
    assert api.answer["code"] not in said
    assert read_pass(out).code == api.answer["code"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert api.asked[-1] == ("t", "POST", "/v1/invitations", {"days": 1})
    assert call("enroll", "invite", folder, "--out", out)[0] == terminal.USAGE
    assert len(api.asked) == 1


def test_a_request_is_checked_here_and_sent_whole(folder, call, api, monkeypatch, tmp_path, now, answer):
    monkeypatch.setenv("FEDRECALL_TOKEN", "t")
    request = answer(invite(House(folder), "ann", 1, now))
    write_request(request, tmp_path / "request.json")
    api.answer = {"client": request.identity[:16], "settled": True}
    assert call("enroll", "approve", folder, tmp_path / "request.json")[0] == 0
    assert api.asked == [("t", "POST", "/v1/clients", asdict(request))]
    (tmp_path / "request.json").write_text("{}")
    code, _, err = call("enroll", "approve", folder, tmp_path / "request.json")
    assert code == terminal.USAGE
    assert "expected exactly the fields" in err
    assert len(api.asked) == 1


def test_the_auditors_keys_are_toml(folder, call, api, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDRECALL_TOKEN", "t")
    api.answer = {"server": "ab" * 32, "clients": {"0123456789abcdef": "cd" * 32}}
    assert call("enroll", "keys", folder, "--out", tmp_path / "keys.toml")[0] == 0
    assert tomllib.loads((tmp_path / "keys.toml").read_text()) == api.answer


def test_health_is_an_exit_code(folder, call, monkeypatch):
    for status, code in ((200, 0), (503, cli.NOT_READY)):
        monkeypatch.setattr(operator_client, "call", lambda *_, status=status: (status, {}))
        assert call("health", folder)[0] == code

    def down(*_):
        raise RunError("no answer")

    monkeypatch.setattr(operator_client, "call", down)
    assert call("health", folder)[:2] == (cli.NOT_READY, "")


def test_status_is_told_before_the_first_round_and_after(folder, call, api, monkeypatch, now):
    monkeypatch.setenv("FEDRECALL_TOKEN", "t")
    vitals = Vitals({"superlink": True, "superexec": False}, {"superlink": 1}, None, "", "3 clients are missing")
    facts = facts_of(House(folder), vitals, 0, now)
    api.answer = facts.to_dict()
    out = call("status", folder)[1]
    assert "run none yet, round none yet: 3 clients are missing" in out
    assert "superexec DOWN" in out
    assert "privacy spent: nothing yet" in out
    assert json.loads(call("status", folder, "--json")[1]) == api.answer
    plan = plan_of(House(folder).config(), {"update": 3, "profile": 0})
    row = {"epsilon": {"everyone": 1.2501, "by_kind": {}}, "cohort": {"asked": 3}, "seconds": 2.0}
    api.answer = replace(
        facts, vitals=replace(vitals, run="run-1"), round=2, plan=plan, last=row, policy=2, proposal="ab"
    ).to_dict()
    out = call("status", folder)[1]
    assert "run run-1, round 2" in out
    assert "epsilon 1.26 against everyone" in out  # rounded up: it is an upper bound
    assert f"unit user, adjacency zero-out, trust distributed, delta {plan.delta:g}; accountant: {ACCOUNTANT}" in out
    assert f"covers: {api.answer['claim']['covers']}" in out
    assert "last cohort: 3 asked, 2.0 s" in out
    assert "proposal ab waits" in out


def test_a_server_that_is_told_to_pause_is_paused_once_its_round_is_closed(folder, call, api, monkeypatch, now):
    monkeypatch.setenv("FEDRECALL_TOKEN", "t")
    vitals = Vitals({"superlink": True}, {}, 3, "run-1", "")
    facts = replace(facts_of(House(folder), vitals, 0, now), paused=True)
    api.answer = facts.to_dict()
    assert "round none yet: paused once the round that runs is closed" in call("status", folder)[1]
    api.answer = replace(facts, vitals=replace(vitals, waiting="paused by an operator")).to_dict()
    assert "round none yet: paused by an operator" in call("status", folder)[1]


def test_a_certificate_is_renewed_and_shown(folder, call):
    before = House(folder).certificate.read_bytes()
    assert call("certificates", "renew", folder)[0] == 0
    assert House(folder).certificate.read_bytes() != before
    assert set(json.loads(call("certificates", "show", folder, "--json")[1])) == {"authority", "server"}


def test_a_new_authority_is_made_by_who_is_sure(folder, call, monkeypatch):
    house = House(folder)
    files = (house.ca, house.ca_key, house.certificate, house.certificate_key)
    before = [path.read_bytes() for path in files]
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert call("certificates", "authority", folder)[0] == terminal.INTERRUPTED
    assert [path.read_bytes() for path in files] == before
    assert call("certificates", "authority", folder, "--yes")[0] == terminal.OK
    assert not {path.read_bytes() for path in files} & set(before)
    assert call("certificates", "renew", folder)[0] == terminal.OK


def test_a_broken_list_of_items_makes_no_server(call, tmp_path):
    (tmp_path / "items.csv").write_text("id,title\n1,\n")
    code, _, err = call("init", tmp_path / "house", "--items", tmp_path / "items.csv")
    assert (code, "items.csv:2: title is empty" in err) == (terminal.USAGE, True)
    assert not (tmp_path / "house").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("status", "NOWHERE"),
        ("plan", "NOWHERE"),
        ("operator", "list", "NOWHERE"),
        ("init", "NOWHERE", "--set", "round=1"),
        ("init", "NOWHERE", "--bogus"),
        ("rollback", "NOWHERE", "0"),
    ],
)
def test_wrong_use_is_said_without_a_traceback(words, call, tmp_path):
    code, out, err = call(*(tmp_path / "nowhere" if word == "NOWHERE" else word for word in words))
    assert (code, out) == (terminal.USAGE, "")
    assert "Traceback" not in err
    assert not (tmp_path / "nowhere").exists()


def test_a_full_disk_is_a_sentence(call, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr("server.init.write_atomically", full)
    code, _, err = call("init", tmp_path / "house")
    assert code == terminal.USAGE
    assert err == f"fedrecall-server: {tmp_path / 'x'}: No space left on device\n"


def test_help_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'flwr', 'fastapi', 'uvicorn', 'sklearn', 'numpy', 'cryptography', 'pydantic'}"
    code = f"import sys, server.cli; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
