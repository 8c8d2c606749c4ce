"""Flower's grid with messages put together: nobody on either side notices."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from server.parcelling import ParcelGrid
from shared.parcels import PART, is_parcel, opened, parcel


class Echo(Grid):
    """Answers what it is told to, and keeps what was sent."""

    run = property(lambda _self: "the run")

    def __init__(self, answer):
        self.answer, self.sent = answer, []
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

    def set_run(self, run):
        self.sent.append(run)

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def get_node_ids(self):
        return [3]

    def push_messages(self, messages):
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{number}"
            self.sent.append(message)
        return [message.metadata.message_id for message in self.sent]

    def pull_messages(self, message_ids):
        return [Message(self.answer, reply_to=m) for m in self.sent if m.metadata.message_id in message_ids]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))


@pytest.fixture
def record():
    return RecordDict({"a": ConfigRecord({"raw": b"x"}), "v": ArrayRecord({"v": Array(np.arange(3))})})


def sent_by(grid, record):
    return grid.create_message(record, "query.x", 3, "1", ttl=5.0)


@pytest.mark.parametrize("both_at_once", [False, True])
def test_messages_leave_as_one_part_and_answers_arrive_as_they_were(record, both_at_once):
    inner = Echo(parcel(record))
    grid = ParcelGrid(inner)
    message = sent_by(grid, record)
    if both_at_once:
        replies = grid.send_and_receive([message], timeout=1.0)
    else:
        replies = grid.pull_messages(grid.push_messages([message]))
    assert [is_parcel(message.content) for message in inner.sent] == [True]
    assert opened(inner.sent[0].content) == record
    assert [reply.content for reply in replies] == [record]
    assert (inner.sent[0].metadata.ttl, inner.sent[0].metadata.group_id) == (5.0, "1")
    assert list(grid.get_node_ids()) == [3]
    assert grid.run == "the run"


def test_an_answer_that_is_no_parcel_or_a_broken_one_is_left_as_it_is(record):
    for answer in (record, RecordDict({PART: ConfigRecord({"raw": b"broken"})})):
        grid = ParcelGrid(Echo(answer))
        replies = list(grid.pull_messages(grid.push_messages([sent_by(grid, record)])))
        assert [reply.content for reply in replies] == [answer]
