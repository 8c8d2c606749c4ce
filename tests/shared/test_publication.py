"""A publication arrives as it was signed, or not at all; nothing in it is taken on trust."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.encoder.spec import EncoderSpec
from shared.errors import ProtocolError
from shared.policy.recall_policy import RecallPolicy
from shared.privacy.ledger import public_hex
from shared.proofs import stamp
from shared.protocol import is_declined
from shared.publication import (
    Publication,
    PublishedModel,
    _digest,
    is_publication,
    is_received,
    parse_publication,
    publication_record,
    received_record,
)
from shared.recall.item_rules import NO_RULES

SPEC = EncoderSpec(text_width=5, rank=2, buckets=7)
SERVER = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
KEY = public_hex(SERVER)
TIP = "5" * 64
POLICY = RecallPolicy(
    version=3,
    similarity={"text": "dot", "lexical": "cosine", "category": "cosine"},
    weights={"text": 5.0, "lexical": 1.0, "category": 2.0, "popularity": 1.0},
    features=("text", "lexical"),
    depth=30,
    local_iterations=1,
    exposure_price=0.0,
    diversity=0.0,
    exploration=0.0,
    k=10,
    explore_from=0,
    frozen=False,
)
MODEL = PublishedModel(
    SPEC, np.arange(SPEC.size, dtype=np.float32), np.zeros(7, np.float32), "c" * 64, POLICY, NO_RULES
)
ISSUE = Publication(4, "run-1", 2, "a" * 64, "b" * 64, b"bytes of a change", ("i1",), ("i2", "i3"), b"\x01" * 64, MODEL)


def signed(publication=ISSUE, key=SERVER):
    return publication_record(publication, key, TIP)


def altered(change, key=SERVER):
    """A publication whose text was changed, signed anew by a server that does not check."""
    record = signed()
    said = json.loads(record.config_records["publication"]["json"])
    change(said)
    record = RecordDict({**record, "publication": ConfigRecord({"json": json.dumps(said)})})
    return RecordDict({**record, "server": stamp(_digest(record), key, TIP)})


def test_it_arrives_as_it_was_given_out():
    got = parse_publication(signed(), KEY)
    assert replace(got, model=None) == replace(ISSUE, model=None)
    assert np.array_equal(got.model.parameters, MODEL.parameters)
    assert (got.model.policy, got.model.trained, got.model.spec) == (POLICY, "c" * 64, SPEC)


def test_before_the_first_round_there_is_a_catalogue_and_no_model():
    first = replace(ISSUE, model=None, base="", run="", round=0)
    assert parse_publication(signed(first), KEY) == first


def test_one_of_another_server_is_refused():
    other = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
    with pytest.raises(ProtocolError, match="signed by"):
        parse_publication(signed(key=other), KEY)


@pytest.mark.parametrize("name", ["change", "parameters", "prior"])
def test_arrays_that_were_changed_on_the_way_are_refused(name):
    record = signed()
    arrays = dict(record.array_records["arrays"])
    values = arrays[name].numpy().copy()
    values[0] += 1
    record = RecordDict({**record, "arrays": ArrayRecord({**arrays, name: Array(values)})})
    with pytest.raises(ProtocolError, match="signature"):
        parse_publication(record, KEY)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda said: said.update(number=-1), "number"),
        (lambda said: said.update(number=True), "number"),
        (lambda said: said.update(number="5"), "number"),
        (lambda said: said.update(round=1 << 60), "round"),
        (lambda said: said.update(run="r" * 201), "run"),
        (lambda said: said.update(catalogue="../../etc"), "catalogue"),
        (lambda said: said.update(base="B" * 64), "base"),
        (lambda said: said.update(change="0" * 64), "change"),
        (lambda said: said.update(unavailable=["x" * 201]), "unavailable"),
        (lambda said: said.update(trending=[1]), "trending"),
        (lambda said: said.update(trending={"i1": 1}), "trending"),
        (lambda said: said.update(registration="00"), "registration"),
        (lambda said: said.update(code="import os"), "fields"),
        (lambda said: said.pop("unavailable"), "fields"),
        (lambda said: said["model"].update(trained="x"), "trained"),
        (lambda said: said["model"].update(module="os"), "fields"),
        (lambda said: said["model"]["spec"].update(rank=1 << 40), "encoder"),
        (lambda said: said["model"]["spec"].update(rank=3), "parameters"),
        (lambda said: said["model"]["policy"].update(k=-1), "k"),
    ],
)
def test_a_refusal_names_the_field(change, named):
    with pytest.raises(ProtocolError, match=named):
        parse_publication(altered(change), KEY)


def test_a_model_with_a_number_that_is_not_finite_is_refused():
    broken = replace(MODEL, parameters=np.full(SPEC.size, np.nan, np.float32))
    with pytest.raises(ProtocolError, match="finite"):
        parse_publication(signed(replace(ISSUE, model=broken)), KEY)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["publication", "server", "arrays"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_a_parser_raises_protocol_errors_and_nothing_else(part, value):
    record = signed()
    text = ConfigRecord({"json": json.dumps(value)})
    record = RecordDict({**record, part: text})
    if part == "publication":
        record = RecordDict({**record, "server": stamp(_digest(record), SERVER, TIP)})
    with pytest.raises(ProtocolError):
        parse_publication(record, KEY)


def test_there_are_two_answers_and_they_are_constants():
    assert is_received(received_record())
    assert not is_declined(received_record())
    assert received_record() == received_record()


def test_a_message_is_known_by_its_part():
    assert is_publication(signed())
    assert not is_publication(received_record())
