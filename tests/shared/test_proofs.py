"""Signatures and receipts: nothing that was not signed is believed, and nothing is believed of another message."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import proofs
from shared.errors import ProtocolError
from shared.privacy.chain import GENESIS, sign_head
from shared.privacy.ledger import public_hex, verify_receipt
from shared.proofs import (
    LastReceipt,
    ServerStamp,
    addressed,
    parse_last,
    parse_receipt,
    parse_signature,
    read_stamp,
    same_task,
    sign_task,
    stamp,
)
from shared.protocol import declined_record, receipt_part, sealed_record

SERVER = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
CLIENT = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
TIP = "5" * 64
RECEIPT = sign_head(CLIENT, 12, "6" * 64, 3)


def a_task(text='{"a": 1}', values=(1.0, 2.0)):
    arrays = ArrayRecord({"prior": Array(np.array(values, np.float32))})
    return RecordDict({"task": ConfigRecord({"json": text}), "arrays": arrays})


def an_answer(**changes):
    record = sealed_record(np.arange(3, dtype=np.int32), receipt_part(RECEIPT))
    for name, value in changes.items():
        if value is ...:
            del record["receipt"][name]
        else:
            record["receipt"][name] = value
    return record


# --- the server's signature


def test_a_signed_task_names_its_server_and_the_tip_of_its_ledger():
    signed = sign_task(a_task(), SERVER, TIP)
    assert parse_signature(signed) == ServerStamp(public_hex(SERVER), TIP)
    assert parse_signature(addressed(signed, RECEIPT)) == ServerStamp(public_hex(SERVER), TIP)


def test_signing_and_addressing_share_what_is_everybodys():
    record = a_task()
    signed = sign_task(record, SERVER, TIP)
    one, two = addressed(signed, None), addressed(signed, RECEIPT)
    for name in ("task", "arrays", "server"):
        assert one[name] is two[name] is signed[name]
    assert all(signed[name] is record[name] for name in record)
    assert "receipt" not in signed


def test_messages_are_one_task_when_they_share_it():
    signed = sign_task(a_task(), SERVER, TIP)
    assert same_task(addressed(signed, None), addressed(signed, RECEIPT))
    assert same_task(signed, signed)
    assert not same_task(signed, sign_task(a_task(), SERVER, TIP))
    # Of other messages nobody knows what they share.
    empty = ConfigRecord()
    assert not same_task(RecordDict({"x": empty}), RecordDict({"x": empty}))
    assert same_task(one := RecordDict({"x": empty}), one)


TAMPERED = {
    "another text": lambda r: r["task"].update({"json": '{"a": 2}'}),
    "another array": lambda r: r["arrays"].update({"prior": Array(np.array([1.0, 2.5], np.float32))}),
    "one more array": lambda r: r["arrays"].update({"more": Array(np.zeros(1, np.float32))}),
    "another tip": lambda r: r["server"].update({"ledger": "7" * 64}),
    "another key": lambda r: r["server"].update({"key": public_hex(CLIENT)}),
    "another signature": lambda r: r["server"].update({"signature": "0" * 128}),
    "no point of the curve": lambda r: r["server"].update({"key": "f" * 64}),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_task_that_was_touched_is_not_the_servers(how):
    signed = sign_task(a_task(), SERVER, TIP)
    TAMPERED[how](signed)
    with pytest.raises(ProtocolError, match=r"server\.signature: does not fit the task, the ledger's tip and the key"):
        parse_signature(signed)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"key": ...}, "server: expected exactly key, ledger, signature"),
        ({"more": 1}, "server: expected exactly key, ledger, signature"),
        ({"key": "A" * 64}, r"server\.key: expected lower-case hex digits"),
        ({"key": "0" * 63}, r"server\.key"),
        ({"ledger": 5}, r"server\.ledger"),
        ({"ledger": "0" * 10**6}, r"server\.ledger"),
        ({"signature": b"0" * 128}, r"server\.signature"),
        ({"signature": "0" * 128 + "\n"}, r"server\.signature"),
    ],
)
def test_a_stamp_of_another_form_is_refused_by_its_field_and_never_repeated(change, sentence):
    signed = sign_task(a_task(), SERVER, TIP)
    for name, value in change.items():
        if value is ...:
            del signed["server"][name]
        else:
            signed["server"][name] = value
    with pytest.raises(ProtocolError, match=sentence) as error:
        parse_signature(signed)
    assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        a_task(),
        RecordDict({"server": stamp("0" * 64, SERVER, TIP)}),
        RecordDict({"task": ConfigRecord({"json": "\ud800"}), "arrays": ArrayRecord(), "server": ConfigRecord()}),
        RecordDict({"task": ArrayRecord(), "arrays": ConfigRecord(), "server": ConfigRecord()}),
        RecordDict({**a_task(), "server": ArrayRecord()}),
    ],
    ids=range(6),
)
def test_what_is_not_signed_at_all_is_refused(record):
    with pytest.raises(ProtocolError, match="server"):
        parse_signature(record)


def test_a_stamp_is_of_one_digest_only():
    part = stamp("1" * 64, SERVER, TIP)
    assert read_stamp(part, "1" * 64).ledger == TIP
    with pytest.raises(ProtocolError, match="does not fit"):
        read_stamp(part, "2" * 64)


@pytest.mark.parametrize("round_", [0, TIP, f"{TIP}:{TIP}"])
def test_a_signature_on_a_task_is_never_a_head_nor_a_head_a_task(round_):
    """The server signs heads and tasks with one key: what is signed for one must not pass for the other."""
    part = stamp(TIP, SERVER, TIP)
    head = sign_head(SERVER, 1, TIP, round_)  # of any round, also one that no number is
    assert not verify_receipt(replace(head, signature=part["signature"]))
    with pytest.raises(ProtocolError, match="does not fit"):
        read_stamp(ConfigRecord({"key": head.key, "ledger": TIP, "signature": head.signature}), TIP)


# --- the client's receipt


def test_a_receipt_arrives_as_it_was_signed():
    assert parse_receipt(an_answer()) == RECEIPT
    assert verify_receipt(RECEIPT)


@pytest.mark.parametrize("change", [{"tip": "7" * 64}, {"round": 4}, {"key": "a" * 64}, {"signature": "0" * 128}])
def test_a_receipt_that_was_touched_is_refused(change):
    with pytest.raises(ProtocolError, match=r"receipt\.signature: does not fit"):
        parse_receipt(an_answer(**change))
    assert not verify_receipt(replace(RECEIPT, **change))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seq": ...}, "receipt: expected exactly the fields of a receipt"),
        ({"clients": ["1"]}, "receipt: expected exactly the fields of a receipt"),
        ({"seq": 0}, r"receipt\.seq: expected a whole number of at least 1"),
        ({"seq": -(2**62)}, r"receipt\.seq"),
        ({"seq": 2**62}, r"receipt\.seq"),
        ({"seq": 1.0}, r"receipt\.seq"),
        ({"seq": True}, r"receipt\.seq"),
        ({"round": -1}, r"receipt\.round: expected a whole number of at least 0"),
        ({"round": "1"}, r"receipt\.round"),
        ({"tip": ""}, r"receipt\.tip: expected lower-case hex digits"),
        ({"tip": "G" * 64}, r"receipt\.tip"),
        ({"key": 7}, r"receipt\.key"),
        ({"key": "x" * 10**6}, r"receipt\.key"),
        ({"signature": "0" * 127}, r"receipt\.signature"),
    ],
)
def test_a_receipt_of_another_form_is_refused_by_its_field(change, sentence):
    with pytest.raises(ProtocolError, match=sentence) as error:
        parse_receipt(an_answer(**change))
    assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    "record", [RecordDict(), declined_record(), RecordDict({"receipt": ArrayRecord()})], ids=range(3)
)
def test_an_answer_without_a_receipt_is_refused(record):
    with pytest.raises(ProtocolError, match="receipt: missing"):
        parse_receipt(record)


@pytest.fixture
def looked_at(monkeypatch):
    """The receipts whose signature was looked at."""
    proofs._receipt.cache_clear()
    seen = []
    monkeypatch.setattr(proofs, "verify_receipt", lambda receipt: seen.append(receipt) or verify_receipt(receipt))
    return seen


def test_the_signature_of_a_receipt_that_many_clients_share_is_looked_at_once(looked_at):
    assert [parse_receipt(an_answer()) for _ in range(5)] == [RECEIPT] * 5
    assert looked_at == [RECEIPT]


@pytest.mark.parametrize("change", [{"tip": "7" * 64}, {"round": 4}, {"key": "a" * 64}, {"signature": "0" * 128}])
def test_a_receipt_that_was_touched_is_refused_every_time_also_beside_one_that_holds(change, looked_at):
    for _ in range(2):
        assert parse_receipt(an_answer()) == RECEIPT
        with pytest.raises(ProtocolError, match="does not fit"):
            parse_receipt(an_answer(**change))
    assert looked_at == [RECEIPT, replace(RECEIPT, **change), replace(RECEIPT, **change)]


def test_a_number_that_only_equals_the_one_of_a_receipt_that_holds_is_refused(looked_at):
    one = sign_head(CLIENT, 1, "6" * 64, 1)
    assert parse_receipt(an_answer(**asdict(one))) == one
    for change in ({"seq": True}, {"seq": 1.0}, {"round": True}, {"round": 1.0}):
        with pytest.raises(ProtocolError, match="a whole number"):
            parse_receipt(an_answer(**asdict(one) | change))
    assert looked_at == [one]


def test_no_key_at_all_is_no_crash():
    for key in ("", "zz", "0" * 62):
        assert not verify_receipt(replace(RECEIPT, key=key))
    for signature in ("", "zz", "0" * 10):
        assert not verify_receipt(replace(RECEIPT, signature=signature))


# --- the last receipt, sent back


@pytest.mark.parametrize("last", [None, RECEIPT])
def test_a_client_hears_what_it_answered_last(last):
    sent = addressed(sign_task(a_task(), SERVER, TIP), last)
    assert parse_last(sent) == (LastReceipt(0, "") if last is None else LastReceipt(RECEIPT.seq, RECEIPT.tip))


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({}, "expected exactly seq and tip"),
        ({"seq": 1}, "expected exactly seq and tip"),
        (asdict(RECEIPT), "expected exactly seq and tip"),
        ({"seq": -1, "tip": ""}, r"receipt\.seq"),
        ({"seq": 2**60, "tip": TIP}, r"receipt\.seq"),
        ({"seq": True, "tip": TIP}, r"receipt\.seq"),
        ({"seq": "1", "tip": TIP}, r"receipt\.seq"),
        ({"seq": 0, "tip": TIP}, r"receipt\.tip"),
        ({"seq": 1, "tip": ""}, r"receipt\.tip"),
        ({"seq": 1, "tip": GENESIS[:-1]}, r"receipt\.tip"),
        ({"seq": 1, "tip": b"0" * 64}, r"receipt\.tip"),
        ({"seq": 1, "tip": "0" * 10**6}, r"receipt\.tip"),
    ],
)
def test_a_last_receipt_that_could_be_none_is_refused(part, sentence):
    with pytest.raises(ProtocolError, match=sentence) as error:
        parse_last(RecordDict({"receipt": ConfigRecord(part)}))
    assert len(str(error.value)) < 120


def test_a_task_that_does_not_say_what_came_last_is_refused():
    for record in (sign_task(a_task(), SERVER, TIP), RecordDict({"receipt": ArrayRecord()})):
        with pytest.raises(ProtocolError, match="receipt: missing"):
            parse_last(record)


values = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.text(max_size=130),
    st.binary(max_size=70),
    st.lists(st.integers(-9, 9), max_size=3),
    st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)
names = st.sampled_from(["key", "seq", "tip", "round", "signature", "ledger", "json"])


@settings(max_examples=400, deadline=None)
@given(
    parts=st.dictionaries(st.sampled_from(["server", "receipt", "task"]), st.dictionaries(names, values), max_size=3)
)
def test_parsers_raise_protocol_errors_and_nothing_else(parts):
    record = RecordDict({name: ConfigRecord(part) for name, part in parts.items()})
    for parse in (parse_signature, parse_last, parse_receipt):
        with contextlib.suppress(ProtocolError):
            parse(record)
