"""What a message holds, from the objects that Flower moves it in; hostile ones are refused, and grow no memory.

Flower's own parser trusts its peer: it raises whatever comes, and puts an array together from pieces that may be named
a million times over. Both sides of this package therefore come through here: in ``shared/``, private names of
Flower are imported in this file alone, and ``tests/shared/test_wire.py`` holds what is leaned on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_object_children_ids_from_object_content,
    get_object_type_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from shared.errors import ProtocolError
from shared.parcels import PART, opened

# What Flower's parsers raise on hostile objects.
HOSTILE: Final[tuple[type[Exception], ...]] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    DecodeError,
)


def pack(record: RecordDict) -> bytes:
    """A record as bytes, between two processes of one side."""
    return bytes(recorddict_to_proto(record).SerializeToString())


def unpack(raw: bytes) -> RecordDict:
    """The inverse of :func:`pack`.

    Raises:
        ProtocolError: these are not its bytes.
    """
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(raw))
    except HOSTILE as error:
        raise ProtocolError("not a record") from error


def worth_pulling(tree: ObjectTree) -> ObjectTree:
    """The tree without the shells of a parcel: of message, record and the one part in it, the part says everything."""
    [record] = tree.children if len(tree.children) == 1 else [tree]
    [part] = record.children if len(record.children) == 1 else [tree]
    return tree if part.children else part


def content_of(root: str, objects: Mapping[str, bytes], largest: int) -> RecordDict:
    """What a message holds.

    Args:
        root: id of the object that is the whole message, or of a parcel's one part.
        objects: object id -> bytes.
        largest: bytes that its arrays may have, put together.

    Raises:
        ProtocolError: the objects are no message with a content, or would grow beyond ``largest``.
    """
    if is_part(objects.get(root, b"")):
        return opened(RecordDict({PART: _config(objects[root])}))
    message = message_of(root, objects, largest)
    if not message.has_content():
        raise ProtocolError("a message without content")
    return opened(message.content)


def is_part(content: bytes) -> bool:
    """Whether an object can be a parcel's one part."""
    return content.startswith(b"ConfigRecord ")


def message_of(root: str, objects: Mapping[str, bytes], largest: int) -> Message:
    """The message whose objects these are.

    Args:
        root: id of the object that is the whole message.
        objects: object id -> bytes.
        largest: bytes that its arrays may have, put together.

    Raises:
        ProtocolError: they are no message, or would grow beyond ``largest``.
    """
    try:
        _check_size(objects, largest)
        message = inflate_object_from_contents(root, dict(objects))
    except HOSTILE as error:
        raise ProtocolError(f"malformed message: {type(error).__name__}: {error}"[:300]) from error
    if not isinstance(message, Message):
        raise ProtocolError("an object that is no message")
    return message


def _config(content: bytes) -> ConfigRecord:
    try:
        return ConfigRecord.inflate(content)
    except HOSTILE as error:
        raise ProtocolError(f"malformed parcel: {type(error).__name__}: {error}"[:300]) from error


def _check_size(objects: Mapping[str, bytes], largest: int) -> None:
    """An array names its chunks by number, and may name one a million times over."""
    total = 0
    for content in objects.values():
        if get_object_type_from_object_content(content) == "Array":
            children = get_object_children_ids_from_object_content(content)
            indices = json.loads(content[content.index(b"\0") + 1 :])["arraychunk_ids"]
            total += sum(len(objects[children[index]]) for index in indices)
    if total > largest:
        raise ProtocolError(f"arrays of {total} bytes, at most {largest} are taken")
