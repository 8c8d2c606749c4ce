"""The in-process grid: Flower's Grid over the clients of one host."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from shared.protocol import declined_record
from simulations import engine
from simulations.engine import InProcessGrid


@pytest.fixture
def batches(monkeypatch):
    """Stands for the host: remembers who was asked together."""
    asked: list[tuple[tuple[str, ...], str]] = []

    def answer_all(_host, records):
        (text,) = {record.config_records["task"]["json"] for record in records.values()}
        asked.append((tuple(records), text))
        return {client: declined_record() for client in records}

    monkeypatch.setattr(engine, "answer_all", answer_all)
    return asked


@pytest.fixture
def grid(batches):
    return InProcessGrid(SimpleNamespace(broken=None), 300)


def task(text: str) -> RecordDict:
    return RecordDict({"task": ConfigRecord({"json": text})})


def send(grid, record, nodes) -> set[str]:
    messages = [Message(record, dst_node_id=node, message_type="train.update", group_id="1") for node in nodes]
    return set(grid.push_messages(messages))


def test_equal_content_is_answered_in_chunks_and_everybody_once(grid, batches):
    pending = send(grid, task("a"), range(1, 301))
    replied: list[int] = []
    while pending:
        replies = grid.pull_messages(pending)
        assert 0 < len(replies) <= engine.CHUNK
        pending -= {reply.metadata.reply_to_message_id for reply in replies}
        replied += [reply.metadata.src_node_id for reply in replies]
    assert replied == list(range(1, 301))
    assert [len(clients) for clients, _ in batches] == [128, 128, 44]


def test_different_content_is_never_mixed(grid, batches):
    pending = send(grid, task("a"), [1, 2]) | send(grid, task("b"), [3])
    while pending:
        pending -= {reply.metadata.reply_to_message_id for reply in grid.pull_messages(pending)}
    assert batches == [(("1", "2"), "a"), (("3",), "b")]


def test_messages_of_one_task_are_one_batch_whatever_receipt_each_client_is_told(grid, batches):
    shared = ConfigRecord({"json": "a"})
    pending = set()
    for node in (1, 2, 3):
        own = ConfigRecord({"seq": node, "tip": str(node)})
        pending |= send(grid, RecordDict({"task": shared, "receipt": own}), [node])
    pending |= send(grid, RecordDict({"task": ConfigRecord({"json": "b"})}), [4])
    while pending:
        pending -= {reply.metadata.reply_to_message_id for reply in grid.pull_messages(pending)}
    assert batches == [(("1", "2", "3"), "a"), (("4",), "b")]


def test_nothing_runs_before_it_is_pulled_and_nothing_is_left_after(grid, batches):
    pending = send(grid, task("a"), [7])
    assert batches == []
    assert len(grid.pull_messages(pending)) == 1
    assert grid.pull_messages(pending) == []


def test_send_and_receive_is_both(grid):
    messages = [Message(task("a"), dst_node_id=n, message_type="train.update") for n in (4, 5)]
    assert [reply.metadata.src_node_id for reply in grid.send_and_receive(messages)] == [4, 5]


class Pending(set):
    """A set that can be asked, not read."""

    def __iter__(self):
        raise AssertionError("all that is pending is read for every chunk")


def test_a_chunk_costs_the_same_however_many_are_pending(grid, batches):
    pending = Pending(send(grid, task("a"), range(1, 301)))
    while replies := grid.pull_messages(pending):
        for reply in replies:
            pending.discard(reply.metadata.reply_to_message_id)
    assert not len(pending)
    assert sum(len(clients) for clients, _ in batches) == 300


def test_a_grid_keeps_nothing_of_clients_that_are_not_asked(batches):
    grid = InProcessGrid(SimpleNamespace(broken=None), 10**12)
    pending = send(grid, task("a"), [10**12, 5])
    assert [reply.metadata.src_node_id for reply in grid.pull_messages(pending)] == [10**12, 5]
    assert len(grid.get_node_ids()) == 10**12


def test_nodes_are_the_clients(grid):
    assert list(grid.get_node_ids()) == list(range(1, 301))
