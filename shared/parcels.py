"""A message of many small parts, sent as one.

Flower keeps every part of a message as an object of its own and moves each by a call of its own, some ten for a small
task. A round has five messages a client, each way; put together, a message is one part, and a round less than half as
many calls. Large messages stay apart: Flower cuts arrays into pieces, and a connection that breaks loses one piece.

::

    4 bytes, big-endian: length of the header
    header: JSON [[name, "config", {key: value or {"bytes": length}}], [name, "arrays", {key: [dtype, shape, length]}]]
    all bytes, in the order of the header
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from shared.errors import ProtocolError

PART: Final = "parcel"
LARGEST: Final = 1 << 20  # bytes of a message that is put together
_STYPE: Final = "numpy.ndarray"  # how Flower names arrays in NumPy's own format


def parcel(record: RecordDict) -> RecordDict:
    """A record as one part; as it is where it is large, or holds what a parcel cannot."""
    header: list[tuple[str, str, dict[str, Any]]] = []
    content: list[bytes] = []
    for name, part in record.items():
        if isinstance(part, ConfigRecord):
            header.append((name, "config", {key: _plain(value, content) for key, value in part.items()}))
        elif isinstance(part, ArrayRecord) and all(array.stype == _STYPE for array in part.values()):
            content += [array.data for array in part.values()]
            said = {key: [array.dtype, list(array.shape), len(array.data)] for key, array in part.items()}
            header.append((name, "arrays", said))
        else:
            return record
    text = json.dumps(header).encode()
    if sum(map(len, content)) + len(text) > LARGEST:
        return record
    return RecordDict({PART: ConfigRecord({"raw": b"".join([len(text).to_bytes(4, "big"), text, *content])})})


def is_parcel(record: RecordDict) -> bool:
    """Whether a record is one part that holds others."""
    return list(record) == [PART]


def opened(record: RecordDict) -> RecordDict:
    """What is in a parcel; a record that is none, as it is.

    Raises:
        ProtocolError: a parcel that cannot be read.
    """
    if not is_parcel(record):
        return record
    try:
        return _read(record.config_records[PART]["raw"])
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"parcel: malformed ({type(error).__name__})") from error


def _read(raw: object) -> RecordDict:
    if type(raw) is not bytes or len(raw) > LARGEST + 4:
        raise ProtocolError(f"parcel: expected at most {LARGEST} bytes")
    end = 4 + int.from_bytes(raw[:4], "big")
    if end > len(raw):
        raise ProtocolError("parcel: the header is cut off")
    return _unpacked(json.loads(raw[4:end]), memoryview(raw)[end:])


def _plain(value: object, content: list[bytes]) -> object:
    if not isinstance(value, bytes):
        return value
    content.append(value)
    return {"bytes": len(value)}


def _array(take: Callable[[object], bytes], dtype: object, shape: object, length: object) -> Array:
    if type(dtype) is not str or not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise ProtocolError("parcel: an array of no dtype or shape")
    return Array(dtype=dtype, shape=tuple(shape), stype=_STYPE, data=take(length))


def _unpacked(header: list[Any], content: memoryview) -> RecordDict:
    at = 0
    parts: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {}

    def take(length: object) -> bytes:
        nonlocal at
        if type(length) is not int or not 0 <= length <= len(content) - at:
            raise ProtocolError("parcel: a part is longer than what is there")
        at += length
        return bytes(content[at - length : at])

    for name, kind, said in header:
        if name in parts or kind not in {"config", "arrays"}:
            raise ProtocolError("parcel: two parts of one name, or a part of an unknown kind")
        if kind == "config":
            values = {key: take(value["bytes"]) if isinstance(value, dict) else value for key, value in said.items()}
            parts[name] = ConfigRecord(values)
        else:
            parts[name] = ArrayRecord({key: _array(take, *value) for key, value in said.items()})
    if at != len(content):
        raise ProtocolError("parcel: more bytes than parts")
    return RecordDict(parts)
