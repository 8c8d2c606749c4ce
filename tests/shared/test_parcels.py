"""Messages put together: what comes out is what went in, and bytes that no server or device made do no harm."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.parcels import LARGEST, PART, is_parcel, opened, parcel

names = st.text("abc_.", min_size=1, max_size=5)
values = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=9),
    st.binary(max_size=9),
    st.booleans(),
    st.lists(st.integers(0, 9), max_size=3),
)
configs = st.dictionaries(names, values, max_size=3).map(ConfigRecord)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
dtypes = st.sampled_from(["float32", "int32", "uint8", "bool"])
arrays = st.dictionaries(names, st.builds(lambda s, d: Array(np.ones(s, d)), shapes, dtypes), max_size=3)
records = st.dictionaries(names, st.one_of(configs, arrays.map(ArrayRecord)), max_size=4).map(RecordDict)


def raw(content):
    return RecordDict({PART: ConfigRecord({"raw": content})})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the wire holds nothing
@given(record=records)
def test_what_comes_out_is_what_went_in(record, wire):
    sent = parcel(record)
    assert is_parcel(sent)
    received = opened(wire.unpack(wire.pack(sent)))
    assert received == record
    assert list(received) == list(record)


def test_its_length_does_not_depend_on_what_numbers_a_vector_holds(wire):
    sizes = {
        len(wire.pack(parcel(RecordDict({"sealed": ArrayRecord({"v": Array(np.full(50, value, np.int32))})}))))
        for value in (0, 7, -(2**31))
    }
    assert len(sizes) == 1


def test_large_messages_and_records_that_a_parcel_does_not_hold_stay_as_they_are():
    large = RecordDict({"a": ConfigRecord({"raw": bytes(LARGEST)})})
    assert parcel(large) is large
    metrics = RecordDict({"m": MetricRecord({"loss": 1.0})})
    assert parcel(metrics) is metrics
    assert opened(metrics) is metrics


@given(content=st.binary(max_size=80))
def test_no_bytes_do_anything_but_open_or_be_refused(content):
    with contextlib.suppress(ProtocolError):
        assert isinstance(opened(raw(content)), RecordDict)


def said(header, content=b""):
    text = json.dumps(header).encode()
    return raw(len(text).to_bytes(4, "big") + text + content)


HOSTILE = {
    "not bytes": raw("text"),
    "too large": raw(bytes(LARGEST + 5)),
    "no header": raw((2**31).to_bytes(4, "big")),
    "a deep header": raw((100_000).to_bytes(4, "big") + b"[" * 100_000),
    "no such part": RecordDict({PART: ArrayRecord({})}),
    "a longer part": said([["a", "config", {"raw": {"bytes": 9}}]], b"12345678"),
    "a negative part": said([["a", "config", {"raw": {"bytes": -1}}]]),
    "a part of no length": said([["a", "config", {"raw": {"bytes": True}}]]),
    "bytes left over": said([["a", "config", {}]], b"1"),
    "two of one name": said([["a", "config", {}], ["a", "config", {}]]),
    "an unknown kind": said([["a", "pickle", {}]]),
    "a value that is none": said([["a", "config", {"x": None}]]),
    "an array of no shape": said([["a", "arrays", {"x": ["float32", "12", 0]}]]),
    "an array of a shape that is none": said([["a", "arrays", {"x": ["float32", [1.5], 0]}]]),
    "an array of no dtype": said([["a", "arrays", {"x": [3, [1], 0]}]]),
    "a header that is no list": said({"a": 1}),
}


@pytest.mark.parametrize("record", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_parcel_is_refused(record):
    with pytest.raises(ProtocolError, match="parcel"):
        opened(record)
