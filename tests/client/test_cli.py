"""``fedrecall-client`` as a person types it: every command, and every refusal one sentence with exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from client import cli
from client.consent import read_consent
from client.home_lock import alone
from client.own_log import log
from client.vault import open_vault
from client.vault_key import unlock
from shared.history import KINDS

SAID = "correct horse"


@pytest.fixture
def typed(device, monkeypatch, capsys):
    """``typed("record", "i1")``: exit code, what was printed, what was said of errors; about the device."""
    home, _ = device
    monkeypatch.setenv("FEDRECALL_DEVICE", str(home.folder))
    monkeypatch.setenv("FEDRECALL_PASSPHRASE", SAID)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["fedrecall-client", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    run.home = home
    return run


def said(typed, *words):
    code, out, err = typed(*words)
    assert (code, err) == (0, "")
    return out


def test_help_names_every_command_and_needs_nothing_heavy():
    script = (
        "import sys\nfrom client.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=True)
    assert not {"torch", "flwr", "numpy", "fastapi"} & set(done.stdout.splitlines()[-1].split())
    for command in "init enroll run record import recommend explain budget consent export forget status".split():  # noqa: SIM905
        assert f"  {command} " in done.stdout


def test_init_makes_a_device_that_only_its_owner_can_read(typed, tmp_path, monkeypatch):
    monkeypatch.setattr("client.vault_key.COST", 1 << 14)
    out = said(typed, "init", tmp_path / "new", "--port", "0", "--no-keyring")
    assert "kept by your passphrase" in out
    files = list((tmp_path / "new").iterdir())
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    code, _, err = typed("init", tmp_path / "new", "--port", "0")
    assert code == 2
    assert "not empty" in err


def test_events_are_recorded_imported_counted_exported_and_forgotten(typed, tmp_path):
    assert said(typed, "record", "i1", "--kind", "rating", "--rating", "0.9") == "recorded: rating of i1\n"
    (tmp_path / "more.csv").write_text("item,kind,time\ni2,view,1000000000\ni4,purchase,1000000001\n")
    assert json.loads(said(typed, "import", tmp_path / "more.csv", "--json")) == {"stored": 2, "total": 15}
    assert "15 events" in said(typed, "export", "--out", tmp_path / "all.json")
    assert (tmp_path / "all.json").stat().st_mode & 0o077 == 0
    exported = json.loads((tmp_path / "all.json").read_text())
    assert {event["item"] for event in exported["events"]} >= {"i1", "i2", "i4"}
    out = said(typed, "forget", "i1", "i2", "--yes")
    assert out.startswith("forgot 2 events; 13 stay\n")
    assert "found 0" in out
    done = json.loads(said(typed, "forget", "--everything", "--yes", "--json"))["forgotten"]
    assert (done["events"], done["left"]) == (13, 0)
    with open_vault(typed.home.vault, unlock(typed.home, lambda: SAID)) as vault:
        assert vault.count() == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["record", "i1", "--kind", "glance"], ", ".join(KINDS)),
        (["import", "nowhere.csv"], "nowhere.csv"),
        (["forget", "--yes"], "exactly one of"),
        (["forget", "i1", "--everything", "--yes"], "exactly one of"),
        (["forget", "--before", "yesterday", "--yes"], "2026-01-31"),
        (["consent", "set", "epsilon_lifetime"], "KEY=VALUE"),
        (["consent", "set", "epsilon_lifetime=-1"], "epsilon_lifetime"),
        (["consent", "set", "epsilon_lifetme=1"], "epsilon_lifetime"),
        (["explain", "i1"], "No catalogue"),
        (["enroll", "nowhere.json", "--out", "request.json"], "nowhere.json"),
        (["open"], "api_port is 0"),
        (["status", "--home", "/nowhere"], "no device here"),
        (["run", "--passphrase-file", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_is_one_sentence(words, why, typed):
    code, out, err = typed(*words)
    assert code == 2
    assert out == ""
    assert err.startswith("fedrecall-client: ")
    assert err.count("\n") == 1
    assert why in err


def test_a_wrong_passphrase_is_one_sentence(typed, monkeypatch):
    monkeypatch.setenv("FEDRECALL_PASSPHRASE", "wrong")
    code, _, err = typed("record", "i1")
    assert (code, "passphrase is wrong" in err) == (2, True)
    monkeypatch.delenv("FEDRECALL_PASSPHRASE")
    code, _, err = typed("record", "i1")
    assert (code, "--passphrase-file" in err) == (2, True)


def test_no_device_is_named(typed, monkeypatch):
    monkeypatch.delenv("FEDRECALL_DEVICE")
    code, _, err = typed("status")
    assert (code, "--home HOME" in err) == (2, True)


def test_forgetting_is_asked_about_first(typed, monkeypatch):
    monkeypatch.setattr("typer.confirm", lambda _question: False)
    assert typed("forget", "--everything")[0] == 130
    with open_vault(typed.home.vault, unlock(typed.home, lambda: SAID)) as vault:
        assert vault.count() == 12


def test_consent_is_shown_changed_and_switched(typed):
    assert said(typed, "consent", "set", "smallest_cohort=20", 'unit=["user"]').splitlines() == [
        "smallest_cohort = 20",
        'unit = ["user"]',
    ]
    assert json.loads(said(typed, "consent", "show", "--json"))["smallest_cohort"] == 20
    assert "# " in said(typed, "consent", "show")
    said(typed, "consent", "off")
    assert not read_consent(typed.home.consent).enabled
    assert "takes part in nothing" in said(typed, "status")
    said(typed, "consent", "on")
    assert read_consent(typed.home.consent).enabled


def test_a_device_of_another_account_is_let_alone(typed, monkeypatch):
    owner = os.geteuid()
    monkeypatch.setattr("shared.owner.os.geteuid", lambda: owner + 1)
    code, out, err = typed("record", "i1")
    assert (code, out) == (2, "")
    assert f"{typed.home.folder}: belongs to account {owner}; run this as that account" in err


def test_budget_and_status_need_no_passphrase_and_show_no_behaviour(typed, monkeypatch):
    monkeypatch.delenv("FEDRECALL_PASSPHRASE")
    spent = said(typed, "budget")
    assert "lifetime: epsilon 0.00 of at most 1000 (delta " in spent
    assert "accountant: zCDP" in spent
    assert json.loads(said(typed, "budget", "--json"))["caps"][0]["epsilon"] == 0
    told = said(typed, "status")
    assert "the agent does not run" in told
    assert spent in told
    assert "i3" not in told
    with alone(typed.home):
        assert json.loads(said(typed, "status", "--json"))["running"] is True


def test_what_a_server_wrote_moves_no_cursor_of_a_terminal(typed):
    log(typed.home, "declined", why="clause \x1b[2J\u202eof a server")
    assert "clause  [2J of a server" in said(typed, "status")


def test_an_items_title_moves_no_cursor_either(typed, monkeypatch):
    title = "Jug \x1b[2J\u202e"
    offer = SimpleNamespace(id="i1\x1b[H", title=title, source="you")
    monkeypatch.setattr("client.device.Device.recommend", lambda *_: SimpleNamespace(offers=(offer,), why=title))
    monkeypatch.setattr("client.device.Device.explain", lambda *_: SimpleNamespace(title=title, sentences=(title,)))
    for words in (("recommend",), ("explain", "i1")):
        out = said(typed, *words)
        assert "Jug" in out
        assert out.replace("\n", "").isprintable()


def test_without_a_model_a_list_says_so(typed):
    answer = json.loads(said(typed, "recommend", "--json"))
    assert answer["offers"] == []
    assert "catalogue" in said(typed, "recommend").lower()


def test_the_key_is_changed_while_no_agent_runs(typed, monkeypatch):
    monkeypatch.setattr("client.vault_key.COST", 1 << 14)
    monkeypatch.setenv("FEDRECALL_NEW_PASSPHRASE", "another horse")
    with alone(typed.home):
        assert typed("rotate-key")[0] == 2
    said(typed, "rotate-key")
    assert typed("record", "i1")[0] == 2
    monkeypatch.setenv("FEDRECALL_PASSPHRASE", "another horse")
    said(typed, "record", "i1")


def test_once_ends_and_says_when_the_server_was_not_there(typed):
    code, _, err = typed("run", "--once", "0.2")
    assert code == 1
    assert "the server was not reached" in err


def test_the_page_is_only_shown_while_an_agent_holds_the_port(typed):
    text = typed.home.settings.read_text().replace("api_port = 0", "api_port = 8765")
    typed.home.settings.write_text(text)
    assert typed("open")[0] == 2
    with alone(typed.home):
        assert said(typed, "open") == f"http://127.0.0.1:8765/#token={typed.home.token.read_text()}\n"
