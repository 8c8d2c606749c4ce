from __future__ import annotations

import json
import time
from threading import Thread

import pytest

from client.behaviour import Behaviour
from client.forgetting import _receipts, check_receipt, forget, names, receipts
from client.home import Home
from client.vault import Vault, open_vault
from shared.errors import DataError
from shared.keys import own_key
from shared.privacy.ledger import create_ledger, public_hex, read_ledger

KEY = bytes(range(32))


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    with open_vault(home.vault, KEY) as vault:
        vault.record([Behaviour(item, "view", float(time)) for time in range(10) for item in ("keep", "drop")])
        home.adapted.write_bytes(vault.seal("adapted", b"learned", vault.epoch()))
    ledger = create_ledger(home.ledger, own_key(home.ledger_key), {"type": "opened"})
    ledger.append([{"type": "decline", "client": "device", "clause": "test"}], head=1)
    ledger.close()
    return home


def signer(home) -> str:
    return public_hex(own_key(home.ledger_key))


def test_the_receipt_says_what_was_done_and_names_no_item(home):
    receipt = forget(home, KEY, ["drop"], now=1e9)
    assert (receipt.number, receipt.time, receipt.before) == (1, 1e9, None)
    assert (receipt.forgotten.events, receipt.forgotten.left, receipt.forgotten.found) == (10, 10, 0)
    (path,) = home.forgotten.iterdir()
    assert check_receipt(path, signer(home)) == receipt
    assert "drop" not in path.read_text()
    with open_vault(home.vault, KEY) as vault:
        assert {one.item for one in vault.events()} == {"keep"}
        assert names(receipt, "drop", vault.secret())
        assert not names(receipt, "keep", vault.secret())
    assert not names(receipt, "drop", bytes(32))


def test_a_receipt_of_everything_is_about_any_item(home):
    receipt = forget(home, KEY, now=1.0)
    assert receipt.items is None
    assert names(receipt, "whatever", bytes(32))
    assert receipt.forgotten.left == 0


def test_what_was_learned_goes_and_the_ledger_stays(home):
    before = home.ledger.read_bytes()
    forget(home, KEY, before=5.0, now=1.0)
    assert not home.adapted.exists()
    assert home.ledger.read_bytes() == before
    assert [line.event["type"] for line in read_ledger(home.ledger)] == ["opened", "decline", "head"]


def test_receipts_are_numbered_and_listed(home):
    forget(home, KEY, ["drop"], now=1.0)
    forget(home, KEY, before=5.0, now=2.0)
    forget(home, KEY, now=3.0)
    (home.forgotten / "notes.json").write_text("mine")
    listed = receipts(home)
    assert [one.number for one in listed] == [1, 2, 3]
    assert [one.forgotten.events for one in listed] == [10, 5, 5]
    assert [one.before for one in listed] == [None, 5.0, None]


def test_two_that_forget_at_once_leave_two_receipts(home, monkeypatch):
    def slowly(home):
        found = _receipts(home)
        time.sleep(0.05)  # between looking for the last number and writing the next
        return found

    monkeypatch.setattr("client.forgetting._receipts", slowly)
    threads = [Thread(target=forget, args=(home, KEY, [name]), kwargs={"now": 1.0}) for name in ("keep", "drop", "x")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.number for one in receipts(home)] == [1, 2, 3]


def test_what_could_not_be_signed_is_not_forgotten(home):
    home.ledger_key.write_text("no key")
    with pytest.raises(DataError, match="not an unencrypted PEM"):
        forget(home, KEY, now=1.0)
    with open_vault(home.vault, KEY) as vault:
        assert vault.count() == 20


def test_a_device_that_never_forgot_has_no_receipts(home):
    assert receipts(home) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said | {"number": 2},
        lambda said: said | {"items": None},
        lambda said: said | {"forgotten": said["forgotten"] | {"found": 1}},
        lambda said: said | {"forgotten": {}},
        lambda said: said | {"extra": 1},
        lambda said: said | {"format": "fedrecall-forgotten-0"},
        lambda said: said | {"signature": "zz"},
        lambda said: said | {"signature": said["signature"][:-2] + "00"},
        lambda _: {},
        lambda _: [],
    ],
)
def test_a_receipt_that_was_changed_is_refused(home, change):
    forget(home, KEY, ["drop"], now=1.0)
    (path,) = home.forgotten.iterdir()
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match="000001"):
        check_receipt(path, signer(home))


def test_another_client_s_receipt_is_refused(home, tmp_path):
    forget(home, KEY, now=1.0)
    (path,) = home.forgotten.iterdir()
    with pytest.raises(DataError, match="not signed by"):
        check_receipt(path, public_hex(own_key(tmp_path / "other.pem")))
    with pytest.raises(DataError, match="not a receipt"):
        check_receipt(path, "no key")
    with pytest.raises(DataError, match="cannot be read"):
        check_receipt(path.with_name("none.json"), signer(home))


def test_without_proof_there_is_no_receipt(home, monkeypatch):
    monkeypatch.setattr(Vault, "_tidy", lambda _: None)
    with pytest.raises(DataError, match="not erased"):
        forget(home, KEY, ["drop"], now=1.0)
    assert not home.forgotten.exists()
    monkeypatch.undo()
    assert forget(home, KEY, ["drop"], now=1.0).number == 1
