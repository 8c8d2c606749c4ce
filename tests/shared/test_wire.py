"""Messages put together from Flower's objects; hostile ones are refused (more in the tests of both ends)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from shared.errors import ProtocolError
from shared.wire import message_of

RECORD = RecordDict({"v": ArrayRecord({"v": Array(np.zeros(1000))})})


@pytest.fixture
def taken_apart():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    message = Message(RECORD, dst_node_id=2, message_type="query.x")
    return message.object_id, {name: each.deflate() for name, each in get_all_nested_objects(message).items()}


def test_what_was_taken_apart_comes_together_again(taken_apart):
    root, objects = taken_apart
    assert message_of(root, objects, 10_000).content == RECORD


def test_an_array_that_names_one_chunk_a_million_times_grows_no_memory(taken_apart):
    root, objects = taken_apart
    (name,) = (name for name, raw in objects.items() if raw.startswith(b"Array "))
    head, body = objects[name].split(b"\0", 1)
    body = json.dumps({**json.loads(body), "arraychunk_ids": [0] * 1_000_000}).encode()
    objects[name] = b" ".join([*head.split(b" ")[:-1], str(len(body)).encode()]) + b"\0" + body
    with pytest.raises(ProtocolError, match="at most 10000 are taken"):
        message_of(root, objects, 10_000)


def test_a_part_that_is_missing_and_an_object_that_is_no_message_are_refused(taken_apart):
    root, objects = taken_apart
    (array,) = (name for name, raw in objects.items() if raw.startswith(b"Array "))
    with pytest.raises(ProtocolError, match="no message"):
        message_of(array, objects, 10_000)
    del objects[array]
    with pytest.raises(ProtocolError, match="malformed message"):
        message_of(root, objects, 10_000)
