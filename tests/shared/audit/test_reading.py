from __future__ import annotations

import json
import os
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.audit import logs, reading
from shared.audit.evidence import Evidence
from shared.audit.logs import Room, weight
from shared.audit.reading import read_evidence
from shared.errors import DataError, LedgerError
from shared.privacy.ledger import create_ledger, public_hex

KEY = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)


@pytest.fixture
def run(written, tmp_path):
    return written(tmp_path / "run")


def a_ledger(path, events=(), first=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger = create_ledger(path, KEY, first or {"type": "opened"})
    ledger.append(events, head=0)
    ledger.close()
    return path


def checks(evidence):
    return [finding.check for finding in evidence.reading]


# --- what is found where


def test_a_runs_folder_holds_both_sides_and_what_it_tells_people(run):
    evidence = read_evidence(run)
    assert evidence.reading == ()
    assert evidence.server.file == "ledger.jsonl"
    assert evidence.server.broken is None
    assert (len(evidence.server.charges), len(evidence.server.sums), len(evidence.server.ends)) == (4, 4, 1)
    [client] = evidence.clients
    assert (client.file, len(client.payments), len(client.results), len(client.pins)) == ("clients.jsonl", 40, 40, 1)
    assert evidence.printed.content["kind"] == "simulation"
    assert (evidence.attack, evidence.attack_file, evidence.keys) == (None, "attack.json", {})


def test_the_servers_hash_of_an_intent_is_the_one_that_clients_name(run):
    evidence = read_evidence(run)
    assert {one.server for one in evidence.clients[0].payments} == {one.hash for one in evidence.server.charges}


def test_a_servers_ledger_alone_is_judged_without_clients(run):
    evidence = read_evidence(run / "ledger.jsonl")
    assert evidence.server.file == str(run / "ledger.jsonl")
    assert (evidence.clients, evidence.printed) == ((), None)


def test_a_clients_ledger_alone_is_told_by_its_first_line(run):
    evidence = read_evidence(run / "clients.jsonl")
    assert evidence.server is None
    assert len(evidence.clients) == 1


def test_the_ledgers_of_workers_are_found_in_the_runs_folder(run):
    home = run / "home" / "clients" / "w1"
    home.mkdir(parents=True)
    (run / "clients.jsonl").rename(home / "ledger.jsonl")
    assert [log.file for log in read_evidence(run).clients] == ["home/clients/w1/ledger.jsonl"]


def test_client_ledgers_are_taken_from_a_folder_and_the_folders_in_it(run, tmp_path):
    given = tmp_path / "given"
    a_ledger(given / "a.jsonl", [{"type": "decline", "client": "a", "clause": "x"}])
    a_ledger(given / "sub" / "b.jsonl", [{"type": "decline", "client": "b", "clause": "x"}])
    a_ledger(given / "sub" / "deeper" / "c.jsonl")
    files = [log.file for log in read_evidence(run, client_ledgers=given).clients]
    assert files == ["clients.jsonl", str(given / "a.jsonl"), str(given / "sub" / "b.jsonl")]


def test_what_is_no_clients_ledger_is_passed_over_and_said(run):
    (run / "rounds.jsonl").write_text('{"round": 1}\n')
    told = []
    evidence = read_evidence(run, client_ledgers=run, tell=told.append)
    assert len(evidence.clients) == 1
    assert evidence.reading == ()
    assert [sentence.rpartition("/")[2] for sentence in told] == [
        "ledger.jsonl: no client's ledger, passed over",
        "rounds.jsonl: no client's ledger, passed over",
    ]


def test_a_copy_of_a_ledger_counts_once_and_another_past_does_not(run, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    raw = (run / "clients.jsonl").read_bytes()
    (given / "copy.jsonl").write_bytes(raw)
    assert len(read_evidence(run, client_ledgers=given).clients) == 1
    (given / "copy.jsonl").write_bytes(b"".join(raw.splitlines(keepends=True)[:-1]))
    assert len(read_evidence(run, client_ledgers=given).clients) == 2


@pytest.mark.parametrize(
    "text", ['server = "{0}"\n[clients]\n7 = "{1}"\n', '{{"server": "{0}", "clients": {{"7": "{1}"}}}}']
)
def test_keys_are_read_from_toml_and_json(run, tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text.format("ab" * 32, "cd" * 32))
    assert read_evidence(run, keys=path).keys == {"server": "ab" * 32, "7": "cd" * 32}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server = 3", "the key of 'server' must be 64 lower-case hexadecimal digits"),
        ('[clients]\n"a" = "AB"', "the key of 'a' must be"),
        ('[clients]\nserver = "00"', "expected server ="),
        ("clients = 3", "expected server ="),
        ('other = "00"', "expected server ="),
        ("[[[", "neither TOML nor JSON"),
        ("{", "neither TOML nor JSON"),
        ("{" * 50_000, "neither TOML nor JSON"),
        ("\x00", "neither TOML nor JSON"),
    ],
)
def test_keys_that_are_none_are_one_sentence_to_the_auditor(run, tmp_path, text, said):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        read_evidence(run, keys=path)
    assert "\n" not in str(caught.value)


def test_a_keys_file_that_is_not_there_is_one_sentence(run, tmp_path):
    with pytest.raises(DataError, match="no readable file here"):
        read_evidence(run, keys=tmp_path / "none.toml")


def test_the_attack_is_read_unless_it_is_left_out(run):
    (run / "attack.json").write_text('{"format": 1}')
    assert read_evidence(run).attack == {"format": 1}
    left_out = read_evidence(run, empirical=False)
    assert (left_out.attack, left_out.empirical) == (None, False)


# --- what is wrong becomes a finding, and the rest is read


@pytest.mark.parametrize(
    ("spoil", "line", "why"),
    [
        (lambda lines: [*lines[:5], *lines[6:]], 6, "dropped or reordered"),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], 5, "dropped or reordered"),
        (lambda lines: [*lines[:4], lines[4].replace(b'"round":1', b'"round":2'), *lines[5:]], 5, "edited"),
        (lambda lines: [*lines[:-1], lines[-1][:-5]], 14, "cut off"),
        (lambda lines: [*lines[:6], b"\x00\xff\n", *lines[6:]], 7, "not a JSON line"),
        (lambda lines: [*lines[:6], b"[" * 100_000 + b"\n"], 7, "not a JSON line"),
        (lambda lines: [*lines[:6], b'{"event":{"type":"x"},"hash":"","prev":"","seq":[[]]}\n'], 7, "sequence number"),
    ],
)
def test_a_broken_ledger_is_read_to_the_line_where_it_breaks(run, spoil, line, why):
    path = run / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(spoil(lines)))
    server = read_evidence(run).server
    assert server.lines == line - 1
    assert why in server.broken
    assert str(run) not in server.broken
    assert server.run == "r"


def test_a_sequence_number_nested_without_end_is_no_traceback(run):
    path, deep = run / "ledger.jsonl", b"[" * 900 + b"]" * 900
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"event":{"type":"x"},"hash":"","prev":"","seq":%s}\n' % deep)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    try:
        assert read_evidence(run).server.broken
    finally:
        sys.setrecursionlimit(before)


def test_nan_is_no_line_of_a_ledger(run):
    path = run / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"sum_sigma":', b'"sum_sigma":NaN,"x":', 1))
    assert "JSON" in read_evidence(run).server.broken


def test_a_first_line_that_cannot_be_read_leaves_a_ledger_of_nobody(run):
    (run / "ledger.jsonl").write_bytes(b"nonsense\n")
    server = read_evidence(run).server
    assert (server.key, server.kind, server.plan, server.lines) == (None, None, None, 0)
    (run / "ledger.jsonl").write_bytes(b"")
    assert read_evidence(run).server.broken == "the file is empty"


def test_a_plan_that_promises_more_than_its_noise_keeps_is_unreadable_and_said(run, tmp_path):
    first = json.loads((run / "ledger.jsonl").read_bytes().splitlines()[0])["event"]
    path = a_ledger(tmp_path / "l.jsonl", first={**first, "plan": {**first["plan"], "epsilon": 1.0}})
    evidence = read_evidence(path)
    assert evidence.server.plan is None
    assert evidence.server.named["epsilon"] == 1.0
    [finding] = evidence.reading
    assert (finding.check, finding.clause, finding.outcome) == ("plan-unreadable", 1, "fail")
    assert "promises" in finding.values["why"]


def test_odd_entries_become_one_finding_a_kind_however_many_there_are(tmp_path):
    odd = [{"type": "decline"} for _ in range(30)] + [{"type": f"kind{number}"} for number in range(90)]
    evidence = read_evidence(a_ledger(tmp_path / "l.jsonl", odd))
    first, *rest = evidence.reading
    assert (first.check, first.values) == ("entry-malformed", {"type": "decline", "count": 30, "field": "client"})
    assert first.places[0].lines == (2, 3, 4, 5, 6)
    assert len(rest) == logs.MOST_ODD
    assert rest[-1].values == {"type": "...", "count": 90 - logs.MOST_ODD + 1}


def test_a_servers_ledger_among_the_clients_is_refused(run):
    (run / "clients.jsonl").write_bytes((run / "ledger.jsonl").read_bytes())
    evidence = read_evidence(run)
    assert evidence.clients == ()
    assert [(one.check, one.outcome) for one in evidence.reading] == [("file-refused", "fail")]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"3"])
@pytest.mark.parametrize(
    ("name", "check"), [("summary.json", "summary-unreadable"), ("attack.json", "attack-unreadable")]
)
def test_what_a_run_tells_people_in_no_json_is_a_finding(run, name, check, content):
    (run / name).write_bytes(content)
    evidence = read_evidence(run)
    assert checks(evidence) == [check]
    assert "\n" not in evidence.reading[0].values["why"]


# --- files that no audit opens


@pytest.fixture(params=["folder", "pipe", "loop", "nothing", "device"])
def no_file(request, tmp_path):
    path = tmp_path / "strange.jsonl"
    if request.param == "folder":
        path.mkdir()
    elif request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "loop":
        path.symlink_to(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    return path


def test_a_path_that_is_no_plain_file_is_refused_before_it_is_opened(no_file):
    with pytest.raises(LedgerError) as caught:
        read_evidence(no_file)
    assert "\n" not in str(caught.value)


def test_a_strange_file_beside_a_good_ledger_is_a_finding(run, no_file):
    for name in ("clients.jsonl", "summary.json"):
        (run / name).unlink()
        if no_file.exists() or no_file.is_symlink():
            (run / name).symlink_to(no_file)
    evidence = read_evidence(run)
    there = no_file.exists() or no_file.is_symlink()
    assert checks(evidence) == (["file-refused", "summary-unreadable"] if there else [])
    assert evidence.server.broken is None


def test_a_file_of_a_gigabyte_is_refused_before_it_is_read(run):
    os.truncate(run / "ledger.jsonl", 1 << 30)
    with pytest.raises(LedgerError, match="1,073,741,824 bytes, more than the 536,870,912 that an audit reads"):
        read_evidence(run)
    with pytest.raises(LedgerError):
        read_evidence(run / "ledger.jsonl")


def test_a_large_file_beside_a_good_ledger_is_a_finding(run):
    os.truncate(run / "clients.jsonl", 1 << 30)
    os.truncate(run / "summary.json", 1 << 30)
    assert checks(read_evidence(run)) == ["file-refused", "summary-unreadable"]


def test_a_line_made_to_fill_memory_is_not_parsed(run, monkeypatch):
    monkeypatch.setattr(logs, "MOST_VALUES", 50_000)
    path = run / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"event":{"type":"x","y":[' + b"[],[]," * 50_000 + b"[]]}}\n")
    assert read_evidence(run).server.broken == "a line of more than 50,000 values"


def test_reading_stops_where_memory_would_run_out(run, monkeypatch):
    monkeypatch.setattr(reading, "Room", lambda: Room(left=30_000))
    evidence = read_evidence(run)
    assert 0 < evidence.clients[0].lines < 82
    assert "MiB of memory: audit fewer ledgers" in evidence.clients[0].broken


def test_the_room_that_is_charged_is_at_least_what_a_ledger_takes(run):
    room = Room()
    before = room.left
    evidence = read_evidence(run)
    for one in evidence.clients[0].payments:
        room.take(one, "here")
    texts = {value for one in evidence.clients[0].payments for value in (one.client, one.server, one.task, one.day)}
    objects = sum(map(sys.getsizeof, evidence.clients[0].payments))
    assert before - room.left >= objects + sum(map(sys.getsizeof, texts))
    assert weight({"a": [1, "b"]}) >= sum(map(sys.getsizeof, ({}, "a", [1, 2], 1, "b")))


def test_progress_is_told_about_once_a_second(run, monkeypatch):
    monkeypatch.setattr(logs, "_EVERY", 10)
    monkeypatch.setattr(logs, "PACE", 0.0)
    told = []
    read_evidence(run, tell=told.append)
    assert told[0].startswith("ledger.jsonl: 10 lines verified, ")
    assert told[-1].startswith("clients.jsonl: 80 lines verified, ")


@pytest.mark.parametrize("name", ["none", "run/ledger.jsonl", "empty"])
def test_a_folder_of_client_ledgers_that_is_none_is_one_sentence(run, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="--client-ledgers takes"):
        read_evidence(run, client_ledgers=tmp_path / name)


def test_the_key_is_the_one_of_the_first_line(tmp_path):
    evidence = read_evidence(a_ledger(tmp_path / "l.jsonl"))
    assert isinstance(evidence, Evidence)
    assert evidence.clients[0].key == public_hex(KEY)
