"""The messages of a session as Flower carries them: exactly what they are, or an error that repeats nothing of them."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.encoder.spec import EncoderSpec
from shared.errors import ProtocolError
from shared.privacy.calibration import make_plan
from shared.privacy.ledger import Receipt
from shared.privacy.plan import Target
from shared.proofs import parse_signature, read_stamp, sign_task, stamp
from shared.protocol import Header, StatisticsTask, parse_task, task_digest, task_record
from shared.sessions import (
    LARGEST_BLOB,
    STEP_TYPES,
    Invitation,
    blob,
    invitation_digest,
    invitation_record,
    parse_invitation,
    parse_masked,
    parts,
    session_of,
    step_answer,
)

SPEC = EncoderSpec(text_width=5, rank=2, buckets=7)
PLAN = make_plan(
    Target(
        kind="deployment",
        unit="user",
        trust="distributed",
        epsilon=8.0,
        delta=1e-3,
        population=6,
        smallest_cohort=4,
        collusion=0.0,
        rounds=3,
        update_participations=3,
        measurement_participations=2,
        shares={"update": 0.7, "measurement": 0.15, "statistics": 0.05, "profile": 0.1},
        update_dimension=SPEC.size,
        clip=0.5,
    )
)
HEADER = Header("run", 2, 1, PLAN, "c" * 64, SPEC)
INVITATION = Invitation("update", HEADER, "d" * 64)
SERVER = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
RECEIPT = Receipt("a" * 64, 7, "b" * 64, 2, "c" * 128)
NAME = bytes(range(32))


def an_invitation(change):
    said = json.loads(invitation_record(INVITATION)["invitation"]["json"])
    change(said)
    return RecordDict({"invitation": ConfigRecord({"json": json.dumps(said)})})


# --- invitations


@pytest.mark.parametrize("release", ["update", "measurement", "statistics"])
def test_an_invitation_arrives_as_it_was_sent(release, wire):
    sent = replace(INVITATION, release=release)
    record = wire.unpack(wire.pack(invitation_record(sent)))
    assert parse_invitation(record) == sent
    assert invitation_digest(record) == invitation_digest(invitation_record(sent))


def test_any_two_sessions_have_different_names():
    """Whatever differs in what is asked for, the signatures of one session are worth nothing in the other."""
    others = [
        replace(INVITATION, release="measurement"),
        replace(INVITATION, task="e" * 64),
        *(replace(INVITATION, header=replace(HEADER, **change)) for change in ({"round": 3}, {"attempt": 2})),
        *(replace(INVITATION, header=replace(HEADER, **change)) for change in ({"run": "r"}, {"catalogue": "e" * 64})),
        replace(INVITATION, header=replace(HEADER, plan=replace(PLAN, smallest_cohort=3))),
    ]
    names = {invitation_digest(invitation_record(each)) for each in [INVITATION, *others]}
    assert len(names) == 1 + len(others)


HOSTILE = {
    "no release": lambda said: said.pop("release"),
    "an unknown release": lambda said: said.update(release="weights"),
    "a list for a release": lambda said: said.update(release=["update"]),
    "no header": lambda said: said.pop("header"),
    "a header of nothing": lambda said: said.update(header=None),
    "a header with more": lambda said: said["header"].update(seed=1),
    "a plan that promises another thing": lambda said: said["header"]["plan"].update(epsilon=1.0),
    "a round below": lambda said: said["header"].update(round=-1),
    "a round in words": lambda said: said["header"].update(round="one"),
    "a huge round": lambda said: said["header"].update(round=10**30),
    "no task": lambda said: said.pop("task"),
    "a task in capitals": lambda said: said.update(task="D" * 64),
    "a short task": lambda said: said.update(task="d" * 63),
    "a task with a line after it": lambda said: said.update(task="d" * 64 + "\n"),
    "a task as a number": lambda said: said.update(task=7),
    "code": lambda said: said.update(code="import os"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_what_is_not_exactly_an_invitation_is_refused(how):
    with pytest.raises(ProtocolError):
        parse_invitation(an_invitation(HOSTILE[how]))


@pytest.mark.parametrize(
    "part",
    [
        None,
        ConfigRecord({}),
        ConfigRecord({"json": b"{}"}),
        ConfigRecord({"json": "{}", "more": 1}),
        ConfigRecord({"json": ["{}"]}),
        ConfigRecord({"json": ""}),
        ConfigRecord({"json": "[" * 100_000}),
        ConfigRecord({"json": "9" * 5000}),
        ConfigRecord({"json": "[]"}),
        ConfigRecord({"json": '"text"'}),
        ConfigRecord({"json": '{"release": NaN}'}),
        ConfigRecord({"json": " " * (1 << 20) + "{}"}),
        MetricRecord({"json": 1}),
        ArrayRecord({"json": Array(np.zeros(3, np.float32))}),
    ],
    ids=range(14),
)
def test_what_holds_no_invitation_is_refused(part):
    record = RecordDict({} if part is None else {"invitation": part})
    with pytest.raises(ProtocolError) as caught:
        parse_invitation(record)
    assert len(str(caught.value)) < 300
    if not (isinstance(part, ConfigRecord) and type(part.get("json")) is str):
        with pytest.raises(ProtocolError):
            invitation_digest(record)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_no_invitation_whatever_it_says_raises_anything_else(data):
    said = deepcopy(json.loads(invitation_record(INVITATION)["invitation"]["json"]))
    place = data.draw(st.sampled_from([said, said["header"], said["header"]["plan"], said["header"]["encoder"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(values)
    text = json.dumps(said)
    try:
        parsed = parse_invitation(RecordDict({"invitation": ConfigRecord({"json": text})}))
    except ProtocolError as error:
        assert len(str(error)) < 10_000  # noqa: PT017 - either is right
    else:
        assert invitation_record(parsed) is not None


# --- an invitation's signature and a task's


def test_a_signed_invitation_is_no_signed_task_and_no_signature_serves_another_session():
    record = invitation_record(INVITATION)
    digest = invitation_digest(record)
    signed = stamp(digest, SERVER, "5" * 64)
    assert read_stamp(signed, digest).ledger == "5" * 64
    with pytest.raises(ProtocolError, match="does not fit"):
        read_stamp(signed, invitation_digest(invitation_record(replace(INVITATION, release="statistics"))))
    # The server's key signs both alike; what is signed can never be read as the other.
    posing = RecordDict(
        {"task": ConfigRecord({"json": record["invitation"]["json"]}), "arrays": ArrayRecord(), "server": signed}
    )
    assert task_digest(posing) == digest
    assert parse_signature(posing).key
    with pytest.raises(ProtocolError, match="fields"):
        parse_task(posing)
    task = sign_task(task_record(StatisticsTask(HEADER)), SERVER, "5" * 64)
    with pytest.raises(ProtocolError):
        parse_invitation(RecordDict({"invitation": task["task"]}))


# --- parts


def test_parts_share_a_session_and_come_back_byte_for_byte(wire):
    record = wire.unpack(wire.pack(RecordDict(parts(NAME, roster=b"abc", graph=b""))))
    assert session_of(record) == NAME
    assert (blob(record, "roster"), blob(record, "graph")) == (b"abc", b"")


@pytest.mark.parametrize(
    "part",
    [
        None,
        ConfigRecord({}),
        ConfigRecord({"raw": "text"}),
        ConfigRecord({"raw": [b"abc"]}),
        ConfigRecord({"raw": 7}),
        ConfigRecord({"other": b"abc"}),
        ConfigRecord({"raw": b"abc", "more": b""}),
        ConfigRecord({"raw": b"abcd"}),
        MetricRecord({"raw": 1.0}),
        ArrayRecord({"raw": Array(np.zeros(1, np.uint8))}),
    ],
    ids=range(10),
)
def test_a_blob_is_bytes_alone_and_no_more_than_asked_for(part):
    record = RecordDict({} if part is None else {"answer": part})
    with pytest.raises(ProtocolError, match="answer: expected at most 3 bytes"):
        blob(record, "answer", 3)


def test_a_blob_has_a_limit_also_where_none_is_given():
    class Long(bytes):
        """As long as it says, without the memory."""

        def __len__(self):
            return LARGEST_BLOB + 1

    with pytest.raises(ProtocolError):
        blob(step_answer(Long()), "answer")
    with pytest.raises(ProtocolError):
        blob(step_answer(bytes(LARGEST_BLOB + 1)), "answer")


@pytest.mark.parametrize(
    "part",
    [
        None,
        ConfigRecord({"name": NAME[:31]}),
        ConfigRecord({"name": NAME + b"x"}),
        ConfigRecord({"name": NAME.hex()}),
        ConfigRecord({"name": NAME, "more": 1}),
        MetricRecord({"name": 1}),
    ],
    ids=range(6),
)
def test_a_session_has_one_name_of_32_bytes(part):
    record = RecordDict({} if part is None else {"session": part})
    with pytest.raises(ProtocolError, match="session: expected a name of 32 bytes"):
        session_of(record)


def test_every_step_has_a_route_of_its_own():
    assert len(set(STEP_TYPES.values())) == len(STEP_TYPES) == 4
    assert all(
        route.startswith("query.") and route.removeprefix("query.").isidentifier() for route in STEP_TYPES.values()
    )


# --- the masked vector


def a_masked(words):
    return RecordDict({"masked": ArrayRecord({"vector": Array(words)})})


def test_a_masked_vector_arrives_as_it_was_sent(wire):
    words = np.array([0, 1, 2**31, 2**32 - 1], np.uint32)
    got = parse_masked(wire.unpack(wire.pack(a_masked(words))), 4)
    assert got.dtype == np.uint32
    assert np.array_equal(got, words)


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        a_masked(np.zeros(4, np.int32)),
        a_masked(np.zeros(4, np.uint64)),
        a_masked(np.zeros(4, ">u4")),
        a_masked(np.zeros(3, np.uint32)),
        a_masked(np.zeros(5, np.uint32)),
        a_masked(np.zeros((4, 1), np.uint32)),
        RecordDict({"masked": ArrayRecord({"other": Array(np.zeros(4, np.uint32))})}),
        RecordDict({"sealed": ArrayRecord({"vector": Array(np.zeros(4, np.uint32))})}),
        RecordDict({"masked": ConfigRecord({"vector": b"x"})}),
    ],
    ids=range(10),
)
def test_what_is_no_masked_vector_of_the_right_length_is_refused(record):
    with pytest.raises(ProtocolError, match="masked vector"):
        parse_masked(record, 4)


def test_a_header_that_says_huge_allocates_nothing():
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<u4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(128)
    array = Array(dtype="uint32", shape=(1 << 40,), stype="numpy.ndarray", data=header)
    with pytest.raises(ProtocolError, match="masked vector"):
        parse_masked(RecordDict({"masked": ArrayRecord({"vector": array})}), 4)
