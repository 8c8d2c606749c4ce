"""Receipts: the server believes a signature, pins its key, and never takes a step back."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from server.receipts import checked_receipt, grouped, ungrouped, with_last_receipts
from shared.errors import ProtocolError
from shared.privacy.ledger import Receipt, create_ledger
from shared.proofs import parse_last, sign_task
from shared.protocol import receipt_part, sealed_record

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))


def receipts_of(path, key, *rounds):
    """Real receipts, one for each round, of a new ledger."""
    ledger = create_ledger(path, key, {"type": "opened"})
    out = [ledger.append([{"type": "result", "round": number}], head=number) for number in rounds]
    ledger.close()
    return out


@pytest.fixture
def one(tmp_path):
    return receipts_of(tmp_path / "one", KEY, 1, 2)


def answer(receipt):
    return sealed_record(np.zeros(3, np.int32), receipt_part(receipt))


def test_the_first_receipt_is_believed_and_the_next_one_must_be_newer(one):
    first, second = one
    assert checked_receipt(answer(first), None, 1) == first
    assert checked_receipt(answer(second), first, 2) == second


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tip": "ab" * 32}, "receipt"),
        ({"signature": "00" * 64}, "receipt"),
        ({"key": OTHER.public_key().public_bytes_raw().hex()}, "receipt"),
        ({"round": 1}, "receipt"),
        ({"key": "not hex"}, "receipt"),
        ({"seq": -1}, "receipt"),
    ],
)
def test_a_receipt_that_was_changed_is_refused(one, change, sentence):
    with pytest.raises(ProtocolError, match=sentence):
        checked_receipt(answer(replace(one[1], **change)), None, 2)


def test_a_receipt_of_another_round_is_refused(one):
    with pytest.raises(ProtocolError, match="a receipt of round 1, expected one of round 2"):
        checked_receipt(answer(one[0]), None, 2)


def test_the_same_receipt_twice_or_an_older_one_is_refused(one):
    for last in (one[1], replace(one[1], seq=one[1].seq + 5)):
        with pytest.raises(ProtocolError, match="but the one before was at line"):
            checked_receipt(answer(one[1]), last, 2)


def test_another_key_than_the_pinned_one_is_refused(one, tmp_path):
    (own,) = receipts_of(tmp_path / "two", OTHER, 2)
    with pytest.raises(ProtocolError, match="but this client's is"):
        checked_receipt(answer(replace(own, seq=99)), one[0], 2)


@pytest.mark.parametrize("record", [RecordDict(), RecordDict({"receipt": ConfigRecord({"seq": 3})})])
def test_an_answer_without_one_is_refused(record):
    with pytest.raises(ProtocolError):
        checked_receipt(record, None, 1)


def test_every_client_gets_its_own_last_receipt_and_clients_of_one_process_one_record(one):
    task = RecordDict({"task": ConfigRecord({"json": "{}"}), "arrays": ArrayRecord()})
    signed = sign_task(task, KEY, "0" * 64)
    tasks = with_last_receipts(signed, ["a", "b", "c", "d"], {"a": one[0], "b": one[0], "c": one[1], "x": one[1]})
    assert list(tasks) == ["a", "b", "c", "d"]
    assert tasks["a"] is tasks["b"]
    assert [parse_last(tasks[c]).seq for c in "acd"] == [one[0].seq, one[1].seq, 0]
    assert parse_last(tasks["a"]).tip == one[0].tip


names = st.text("abc", min_size=1, max_size=3)
receipts = st.builds(Receipt, st.sampled_from(["k1", "k2"]), st.integers(1, 3), st.just("t"), st.just(1), st.just("s"))


@given(st.dictionaries(names, receipts, max_size=8))
def test_groups_come_back_and_have_one_order(given_receipts):
    groups = grouped(given_receipts)
    assert ungrouped(groups) == given_receipts
    assert grouped(dict(reversed(list(given_receipts.items())))) == groups
    assert len(groups) == len(set(given_receipts.values()))


def test_a_group_names_the_receipt_and_its_clients(one):
    assert grouped({"b": one[0], "a": one[0]}) == [{**asdict(one[0]), "clients": ["a", "b"]}]
