from __future__ import annotations

import json
import math

import pytest

from client.behaviour import Behaviour
from client.forgetting import forget
from client.home import Home
from client.importing import export, read_events
from client.vault import open_vault
from shared.errors import DataError
from shared.keys import own_key
from shared.privacy.ledger import create_ledger

KEY = bytes(range(32))


def written(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


def test_csv_is_read_in_any_order_of_columns(tmp_path):
    path = written(
        tmp_path / "e.csv", 'time,kind,item,rating\n1.5,view,"a, b",\n\n2,rating,ü,0.5\n', encoding="utf-8-sig"
    )
    first, second = read_events(path)
    assert repr(first) == repr(Behaviour("a, b", "view", 1.5, 0.0, math.nan))
    assert second == Behaviour("ü", "rating", 2.0, 0.0, 0.5)


def test_json_lines_are_read(tmp_path):
    lines = [
        {"item": "a", "kind": "dwell", "time": 1, "dwell": 0.5, "rating": None},
        {"kind": "view", "item": "b", "time": 2.5},
    ]
    path = written(tmp_path / "e.jsonl", "\n\n".join(map(json.dumps, lines)))
    assert [(one.item, one.kind, one.time, one.dwell) for one in read_events(path)] == [
        ("a", "dwell", 1.0, 0.5),
        ("b", "view", 2.5, 0.0),
    ]


HEAD = "item,kind,time,dwell,rating\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r":1: columns none; expected item, kind, time"),
        ("item,kind\n", r":1: columns item, kind; expected"),
        ("item,kind,time,time\n", r":1: columns"),
        ("item,kind,time,colour\n", r":1: columns"),
        (HEAD + "a,view,1,,\nb,view,2\n", r":3: 3 cells under 5 columns"),
        (HEAD + "a,view,1,,\nb,like,2,,\n", r":3: event: kind 'like'"),
        (HEAD + "a,view,soon,,\n", r":2: time 'soon'; expected a number"),
        (HEAD + "a,view,,,\n", r":2: event: time nan"),
        (HEAD + ",view,1,,\n", r":2: event: item ''"),
        (HEAD + "a,view,1,2,\n", r":2: event: dwell 2"),
        (HEAD + "a,view,1,,x\n", r":2: rating 'x'"),
        (HEAD + '"' + "a" * 200_000 + '",view,1,,\n', r": not CSV"),
    ],
)
def test_an_error_in_csv_names_file_and_line(tmp_path, text, says):
    with pytest.raises(DataError, match=r"e\.csv.*" + says):
        read_events(written(tmp_path / "e.csv", text))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected an object"),
        ('{"item": "a", "kind": "view"}', "columns item, kind"),
        ('{"item": "a", "kind": "view", "time": true}', "time True; expected a number"),
        ('{"item": "a", "kind": "view", "time": [1]}', "time"),
        ('{"item": "a", "kind": "view", "time": 1' + "0" * 400 + "}", "time"),
        ('{"item": 7, "kind": "view", "time": 1}', "item 7"),
        ('{"item": "a", "kind": ["view"], "time": 1}', "kind"),
    ],
)
def test_an_error_in_json_names_file_and_line(tmp_path, line, says):
    good = '{"item": "a", "kind": "view", "time": 1}\n'
    with pytest.raises(DataError, match=r"e\.jsonl:2: .*" + says):
        read_events(written(tmp_path / "e.jsonl", good + line))


def test_other_files_are_a_sentence(tmp_path):
    with pytest.raises(DataError, match=r"ends in \.csv or \.jsonl, or an export's \.json"):
        read_events(tmp_path / "e.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_events(tmp_path / "none.csv")
    (tmp_path / "e.csv").write_bytes(b"item,kind,time\n\xff,view,1\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_events(tmp_path / "e.csv")


def test_everything_about_the_person_comes_out_as_json_and_goes_in_again(tmp_path):
    events = [Behaviour("a", "view", 1.0), Behaviour("b", "rating", 2.0, 0.0, 0.5)]
    ledger = create_ledger(tmp_path / "ledger.jsonl", own_key(tmp_path / "key.pem"), {"type": "opened"})
    ledger.append([{"type": "decline", "client": "device", "clause": "test"}])
    ledger.close()
    home = Home(tmp_path)
    written(home.consent, "enabled = false\n")
    with open_vault(home.vault, KEY) as vault:
        vault.record([*events, Behaviour("c", "view", 3.0)])
    receipt = forget(home, KEY, ["c"], now=4.0)
    with open_vault(home.vault, KEY) as vault:
        learned = json.dumps({"z": [0.5], "events": 2}).encode()
        home.adapted.write_bytes(vault.seal("adapted", learned, vault.epoch()))
        document = json.loads(json.dumps(export(vault, home), allow_nan=False))
    assert document["format"] == "fedrecall-export-2"
    assert document["learned"] == {"z": [0.5], "events": 2}
    assert [one["key"] for one in document["forgotten"]] == [receipt.key]
    assert [line["type"] for line in document["ledger"]] == ["opened", "decline"]
    assert document["consent"] == {"enabled": False}
    backup = written(tmp_path / "e.json", json.dumps(document, indent=1))
    assert list(map(repr, read_events(backup))) == list(map(repr, events))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", r"e\.json: not an export"),
        ("[1]", r"e\.json: not an export"),
        ('{"format": "fedrecall-export-1", "events": []}', "expected fedrecall-export-2"),
        ('{"format": "fedrecall-export-2", "events": {}}', "a list of events"),
        ('{"format": "fedrecall-export-2", "events": [1]}', r"e\.json:1: expected an object"),
        (
            '{"format": "fedrecall-export-2", "events": [{"item": "a", "kind": "like", "time": 1}]}',
            r"e\.json:1: event: kind",
        ),
    ],
)
def test_an_export_that_is_none_is_refused_by_name(tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        read_events(written(tmp_path / "e.json", text))


def test_a_device_without_ledger_and_consent_exports_its_events(tmp_path):
    home = Home(tmp_path)
    with open_vault(home.vault, KEY) as vault:
        document = export(vault, home)
        empty = {"events": [], "learned": None, "ledger": [], "consent": None, "forgotten": []}
        assert document == empty | {"format": "fedrecall-export-2"}
        written(home.consent, "enabled =")
        with pytest.raises(DataError, match="cannot be read"):
            export(vault, home)


def test_what_was_learned_before_something_was_forgotten_is_not_exported(tmp_path):
    home = Home(tmp_path)
    with open_vault(home.vault, KEY) as vault:
        home.adapted.write_bytes(vault.seal("adapted", b"{}", vault.epoch()))
        assert export(vault, home)["learned"] == {}
        vault.forget()
        assert export(vault, home)["learned"] is None


def test_a_ledger_that_is_being_written_is_exported_without_its_half_line(tmp_path):
    home = Home(tmp_path)
    ledger = create_ledger(home.ledger, own_key(home.ledger_key), {"type": "opened"})
    ledger.close()
    with home.ledger.open("ab") as file:
        file.write(b'{"seq": 2, "ev')
    with open_vault(home.vault, KEY) as vault:
        assert [line["type"] for line in export(vault, home)["ledger"]] == ["opened"]
