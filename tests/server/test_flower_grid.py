"""Flower's grid, made fit: an answer is whole or is looked at again, and what makes no sense harms nobody."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.common.serde import message_to_proto
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.task_identity import TaskIdentity

from server import flower_grid
from server.flower_grid import KEPT, PACE, STOCK, FlowerGrid
from shared.parcels import PART, is_parcel, opened, parcel
from shared.protocol import declined_record, is_declined

RECORD = RecordDict({"a": ConfigRecord({"raw": b"x"}), "v": ArrayRecord({"v": Array(np.arange(300))})})


class SuperLink:
    """The Runtime API, as far as the grid leans on it; ``missing`` objects are announced and not there."""

    def __init__(self):
        self.letters, self.trees, self.objects, self.missing, self.gone = [], [], {}, set(), set()
        self.confirmed, self.pulls, self.asked, self.pushed, self.deaf = [], 0, [], [], False

    def PullMessages(self, request):  # noqa: N802 - Flower's names
        take = [
            n for n, letter in enumerate(self.letters) if letter.metadata.reply_to_message_id in request.message_ids
        ]
        out = SimpleNamespace(
            messages_list=[self.letters[n] for n in take], message_object_trees=[self.trees[n] for n in take]
        )
        for n in reversed(take):
            del self.letters[n], self.trees[n]
        return out

    def PushMessages(self, request):  # noqa: N802
        self.asked += request.messages_list
        wanted = {each.object_id for tree in request.message_object_trees for each in iterate_object_tree(tree)}
        return SimpleNamespace(
            message_ids=[letter.metadata.message_id for letter in request.messages_list],
            objects_to_push=sorted(wanted - set(self.objects)),
            session_id="s",
        )

    def PushObject(self, request):  # noqa: N802
        self.pushed.append(request.object_id)
        self.objects[request.object_id] = request.object_content
        return SimpleNamespace(stored=not self.deaf)

    def PullObject(self, request):  # noqa: N802
        self.pulls += 1
        name = request.object_id
        return SimpleNamespace(
            object_found=name not in self.gone,
            object_available=name not in self.missing,
            object_content=self.objects.get(name, b""),
        )

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.confirmed.append(request.message_object_id)


class Inner:
    """Flower's HttpGrid: what is sent is kept, and answered by hand."""

    node = Node(node_id=1)
    run = SimpleNamespace(run_id=5)

    def __init__(self):
        self._runtime_client, self.sent = SuperLink(), []
        TaskIdentity.task_id = TaskIdentity.node_id = 1
        TaskIdentity.run_id = 5

    def set_run(self, run):
        self.run = run

    def get_node_ids(self):
        return [3]


@pytest.fixture
def grid():
    return FlowerGrid(Inner(), sleep=lambda _seconds: None)


def asked(grid):
    message = grid.create_message(RECORD, "query.x", 3, "1", ttl=5.0)
    (number,) = grid.push_messages([message])
    grid.inner.sent.append(message)
    return number


def reply(grid, record, change=lambda _message: None):
    """What node 3 answers to the last message; its objects by name."""
    message = Message(record, reply_to=grid.inner.sent[-1])
    change(message)
    message.metadata.__dict__["_message_id"] = message.object_id
    objects = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
    link = grid.inner._runtime_client
    letter = message_to_proto(message)
    letter.metadata.src_node_id, letter.metadata.reply_to_message_id = 3, grid.inner.sent[-1].metadata.message_id
    link.letters.append(letter)
    link.trees.append(get_object_tree(message))
    link.objects |= objects
    return objects, message.object_id


@pytest.mark.parametrize("together", [True, False])
def test_messages_leave_as_one_part_and_answers_arrive_as_they_were(grid, together):
    number, link = asked(grid), grid.inner._runtime_client
    assert is_parcel(grid.inner.sent[0].content)
    assert opened(grid.inner.sent[0].content) == RECORD
    assert (link.asked[0].metadata.ttl, link.asked[0].metadata.group_id) == (5.0, "1")
    assert [link.objects[name].split()[0] for name in link.pushed] == [b"ConfigRecord"]
    objects, root = reply(grid, parcel(RECORD) if together else RECORD)
    (got,) = grid.pull_messages([number])
    assert got.content == RECORD
    assert (got.metadata.src_node_id, got.metadata.reply_to_message_id) == (3, number)
    assert link.confirmed == [root]
    assert link.pulls == (1 if together else len(objects))
    assert list(grid.pull_messages([number])) == []
    assert list(grid.get_node_ids()) == [3]


def test_an_answer_of_one_part_that_is_no_parcel_is_read_whole(grid):
    """As a stock SuperNode declines."""
    number = asked(grid)
    reply(grid, declined_record())
    (got,) = grid.pull_messages([number])
    assert is_declined(got.content)


def test_a_device_that_took_a_message_before_it_was_all_there_stops_nobody(grid):
    """The SuperLink forgets a message once its device has it, and takes no more of its objects."""
    grid.inner._runtime_client.deaf = True
    number = asked(grid)
    reply(grid, parcel(RECORD))
    assert [got.content for got in grid.pull_messages([number])] == [RECORD]


def test_a_stock_supernode_gets_the_shells_of_a_message_when_no_answer_comes(grid):
    now = 0.0
    grid.clock = lambda: now
    number, link = asked(grid), grid.inner._runtime_client
    now = STOCK
    assert list(grid.pull_messages([number])) == []
    assert len(link.pushed) == 1
    now = STOCK + 0.1
    grid.pull_messages([number])
    grid.pull_messages([number])
    assert [link.objects[name].split()[0] for name in link.pushed] == [b"ConfigRecord", b"RecordDict", b"Message"]
    other = asked(grid)
    reply(grid, parcel(RECORD))
    grid.pull_messages([other])
    now += KEPT
    grid.pull_messages([other])
    assert (len(link.pushed), grid.shells) == (3, {})


def test_what_a_node_or_the_superlink_says_went_wrong_arrives(grid):
    number = asked(grid)
    reply(grid, Error(code=3, reason="gone"))
    (got,) = grid.pull_messages([number])
    assert (got.error.code, got.metadata.reply_to_message_id) == (3, number)


def test_an_answer_whose_parts_are_not_there_yet_holds_nobody_up(grid):
    first = asked(grid)
    objects, root = reply(grid, RECORD)
    link = grid.inner._runtime_client
    link.missing = {root}
    second = asked(grid)
    reply(grid, parcel(RECORD))
    assert [got.metadata.reply_to_message_id for got in grid.pull_messages([first, second])] == [second]
    assert list(grid.pull_messages([first])) == []
    had = link.pulls
    link.missing = set()
    assert [got.content for got in grid.pull_messages([first])] == [RECORD]
    assert link.pulls - had == 1  # what was fetched already is not fetched again
    assert len(objects) > 3


def test_an_answer_whose_sender_went_away_is_an_error_and_is_said_once(grid):
    number = asked(grid)
    _, root = reply(grid, RECORD)
    grid.inner._runtime_client.gone = {root}
    (got,) = grid.pull_messages([number])
    assert got.has_error()
    assert (got.metadata.reply_to_message_id, got.metadata.src_node_id) == (number, 3)
    assert list(grid.pull_messages([number])) == []


def test_an_answer_that_nobody_asks_for_any_more_is_forgotten(grid):
    number = asked(grid)
    _, root = reply(grid, RECORD)
    grid.inner._runtime_client.missing = {root}
    now = 0.0
    grid.clock = lambda: now
    grid.pull_messages([number])
    assert list(grid.arriving) == [number]
    now = KEPT + 1
    grid.pull_messages([])
    assert grid.arriving == {}


def test_whose_answer_it_is_says_the_superlink_and_not_the_answer(grid):
    for change in ({"_src_node_id": 4}, {"_reply_to_message_id": "f" * 64}):
        number = asked(grid)
        reply(grid, RECORD, lambda message, change=change: message.metadata.__dict__.update(change))
        (got,) = grid.pull_messages([number])
        assert (got.metadata.src_node_id, got.metadata.reply_to_message_id) == (3, number)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _raw: b"",
        lambda _raw: b"\xff\x00",
        lambda raw: raw[:-2],
        lambda raw: raw.replace(b"Message", b"Massage"),
        lambda raw: raw[: raw.index(b"\0") + 1] + b"{" * 100_000,
    ],
    ids=range(5),
)
@pytest.mark.parametrize("kind", [b"Message ", b"RecordDict ", b"ConfigRecord ", b"ArrayRecord ", b"Array "])
def test_objects_that_make_no_sense_are_an_error(grid, damage, kind):
    """But for the bytes of an array, which the vector's own parser judges."""
    number = asked(grid)
    objects, _ = reply(grid, RECORD)
    (name,) = (name for name, raw in objects.items() if raw.startswith(kind))
    grid.inner._runtime_client.objects[name] = damage(objects[name])
    (got,) = grid.pull_messages([number])
    assert got.has_error() or damage(objects[name]) == objects[name]


def test_a_parcel_that_cannot_be_opened_is_an_error(grid):
    number = asked(grid)
    reply(grid, RecordDict({PART: ConfigRecord({"raw": b"broken"})}))
    (got,) = grid.pull_messages([number])
    assert got.has_error()


def test_an_answer_that_is_too_large_is_an_error(grid, monkeypatch):
    monkeypatch.setattr(flower_grid, "LARGEST", 1000)
    number = asked(grid)
    reply(grid, RECORD)
    (got,) = grid.pull_messages([number])
    assert got.has_error()


def test_both_at_once_ends_when_all_have_answered_or_time_is_up(grid):
    message = grid.create_message(RECORD, "query.x", 3, "1")
    assert grid.send_and_receive([message], timeout=0.0) == []
    push = grid.push_messages

    def answered(messages):
        numbers = push(messages)
        grid.inner.sent += messages
        reply(grid, RECORD)
        return numbers

    grid.push_messages = answered
    assert [got.content for got in grid.send_and_receive([grid.create_message(RECORD, "query.x", 3, "1")])] == [RECORD]


def test_it_does_not_look_for_answers_all_the_time(grid):
    waits, now = [], 100.0
    grid.clock, grid.sleep = lambda: now, waits.append
    grid.pull_messages([])
    now += PACE / 3
    grid.pull_messages([])
    now += 10
    grid.pull_messages([])
    assert waits == [0.0, pytest.approx(PACE * 2 / 3), 0.0]


def test_the_run_is_the_inner_ones(grid):
    grid.set_run("a run")
    assert grid.run == "a run"
