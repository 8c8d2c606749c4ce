"""One message through Flower's ClientApp, with the client's own folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import app
from client.folder import client_folder, open_host
from client.store import ClientStore, save_store
from shared.catalogue import save_catalogue
from shared.errors import FedrecallError
from shared.privacy.ledger import read_ledger
from shared.protocol import MESSAGE_TYPES, parse_sealed, task_record, vector_length


@pytest.fixture
def home(tmp_path, catalogue, history, monkeypatch):
    save_catalogue(catalogue, tmp_path / "catalogue.npz")
    folder = client_folder(tmp_path, 7)
    folder.mkdir(parents=True)
    save_store(ClientStore("c7", ("ann",), (history(1),)), folder / "store.npz")
    monkeypatch.setenv("FEDRECALL_HOME", str(tmp_path))
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # Flower's runtime sets it before an app runs
    return tmp_path


def sent(record, kind="update", partition=7):
    message = Message(record, dst_node_id=1, message_type=MESSAGE_TYPES[kind])
    message.metadata.__dict__["_message_id"] = "m1"
    context = Context(run_id=1, node_id=1, node_config={"partition-id": partition}, state=RecordDict(), run_config={})
    return app(message, context)


def only_declined(reply):
    return (
        not reply.has_error()
        and list(reply.content) == ["status"]
        and dict(reply.content["status"]) == {"code": "declined"}
    )


@pytest.mark.parametrize("kind", ["update", "measurement", "statistics"])
def test_a_task_is_answered_with_a_sealed_vector_and_noise_of_the_system(kind, home, task):
    chosen = task(kind)
    reply = sent(task_record(chosen), kind)
    assert list(reply.content) == ["sealed"]
    assert parse_sealed(reply.content, vector_length(chosen)).any()
    intents = [e for e in read_ledger(client_folder(home, 7) / "ledger.jsonl") if e.event["type"] == "intent"]
    assert [(line.event["client"], line.event["noise_source"]) for line in intents] == [("c7", "os")]


def test_the_budget_is_counted_across_messages(home, task):
    record = task_record(task("measurement"))
    replies = [sent(record, "measurement") for _ in range(3)]
    assert [only_declined(r) for r in replies] == [False, False, True]


def test_no_two_answers_share_their_noise(home, task):
    record = task_record(task("measurement"))
    one, two = (parse_sealed(sent(record, "measurement").content, 51) for _ in range(2))
    assert not np.array_equal(one, two)


BROKEN = {
    "no folder": lambda home: __import__("shutil").rmtree(home / "clients"),
    "no catalogue": lambda home: (home / "catalogue.npz").unlink(),
    "a broken catalogue": lambda home: (home / "catalogue.npz").write_bytes(b"PK"),
    "a broken store": lambda home: (client_folder(home, 7) / "store.npz").write_bytes(b"secret purchases"),
    "a key of another kind": lambda home: (client_folder(home, 7) / "ledger-key.pem").write_text("-----BEGIN"),
    "a broken ledger": lambda home: (client_folder(home, 7) / "ledger.jsonl").write_text('{"seq": 1}\n'),
    "a ledger that pins nothing": lambda home: (client_folder(home, 7) / "ledger.jsonl").write_text("null\n"),
    "an empty ledger": lambda home: (client_folder(home, 7) / "ledger.jsonl").write_text(""),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_folder_answers_declined_and_nothing_else(how, home, task):
    BROKEN[how](home)
    assert only_declined(sent(task_record(task())))


@pytest.mark.parametrize("partition", ["7; rm -rf", "../../etc", None, -1, 8])
def test_a_partition_that_is_not_here_answers_declined(partition, home, task):
    assert only_declined(sent(task_record(task()), partition=partition))


def test_a_task_that_is_none_answers_declined(home):
    assert only_declined(sent(RecordDict({"task": ConfigRecord({"json": json.dumps({"code": "1/0"})})})))


def test_a_locked_ledger_answers_declined(home, task):
    sent(task_record(task("statistics")), "statistics")
    other = open_host(home, 7)
    try:
        assert only_declined(sent(task_record(task())))
        with pytest.raises(FedrecallError, match="in use"):
            open_host(home, 7)
    finally:
        other.close()
    assert not only_declined(sent(task_record(task())))


def test_even_an_error_nobody_thought_of_stays_here(home, task, monkeypatch):
    def broken(*_args):
        raise MemoryError("ann bought a wheelchair")

    monkeypatch.setattr("client.app.open_host", broken)
    assert only_declined(sent(task_record(task())))
