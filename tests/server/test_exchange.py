"""The server against hostile, broken and late clients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from server import exchange as module
from server.exchange import SUPERLINK, Post, RunningSum, exchange
from shared.errors import ProtocolError
from shared.privacy.chain import sign_head
from shared.proofs import parse_receipt
from shared.protocol import declined_record, receipt_part, sealed_record

LENGTH = 4
NODES = {f"c{n}": 100 + n for n in range(6)}
TASK = RecordDict({"task": ConfigRecord({"json": "{}"}), "arrays": ArrayRecord({"x": Array(np.zeros(10, np.float32))})})


class FakeGrid:
    """Answers by script: client -> list of (reply content or error, node that says it)."""

    def __init__(self, script, *, order=None, unsent=()):
        self.script, self.order, self.unsent = script, order, unsent
        self.asked, self.queue, self.pulls = {}, [], 0

    def push_messages(self, messages):
        ids = []
        for number, message in enumerate(messages):
            node = message.metadata.dst_node_id
            client = next(c for c, n in NODES.items() if n == node)
            message.metadata.__dict__["_message_id"] = f"m{number}"
            if client in self.unsent:
                ids.append("")
                continue
            self.asked[client] = message
            ids.append(f"m{number}")
            for content, source in self.script.get(client, []):
                reply = Message(content, reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = node if source is None else source
                self.queue.append(reply)
        if self.order is not None:
            self.queue = [self.queue[i] for i in self.order.permutation(len(self.queue))]
        return ids

    def pull_messages(self, _ids):
        self.pulls += 1
        out, self.queue = self.queue[:2], self.queue[2:]
        return out


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # Flower's runtime sets it before an app runs


@pytest.fixture
def awake(monkeypatch):
    def sleep(_seconds):
        raise AssertionError("waits for what cannot come")

    monkeypatch.setattr(module.time, "sleep", sleep)


KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
RECEIPT = sign_head(KEY, 7, "ab" * 32, 1)


def sealed(values):
    return sealed_record(values, receipt_part(RECEIPT))


def vector(*values):
    return sealed(np.array(values, np.int32))


def ask(grid, *, cohort=tuple(NODES), deadline=5.0, largest=1000.0, smallest=1, receipt_of=None):
    return exchange(
        Post(grid, NODES, "1", deadline),
        dict.fromkeys(cohort, TASK),
        "train.update",
        receipt_of=receipt_of or (lambda _client, answer: parse_receipt(answer)),
        length=LENGTH,
        largest=largest,
        smallest=smallest,
    )


def honest(script=None):
    return {c: [(vector(1, 2, 3, n), None)] for n, c in enumerate(NODES)} | (script or {})


def test_the_sum_is_over_all_and_no_order_changes_it():
    for seed in range(5):
        answers = ask(FakeGrid(honest(), order=np.random.default_rng(seed)))
        assert answers.total.tolist() == [6, 12, 18, 15]
        assert answers.total.dtype == np.int64
        assert answers.survivors == tuple(NODES)
        assert (answers.declined, answers.failed, answers.enough) == ((), (), True)
        assert answers.up == 6 * 16
        assert answers.down >= 6 * 40


def test_bytes_are_counted_for_every_message_also_of_one_record():
    other = RecordDict({**TASK, "session": ConfigRecord({"raw": bytes(7)})})
    sent = {"c0": TASK, "c1": other, "c2": TASK}
    assert module.payloads(sent) == sum(map(module.payload, sent.values())) == 3 * module.payload(TASK) + 7


def test_receipts_come_back_with_their_clients():
    answers = ask(FakeGrid(honest({"c1": [(declined_record(), None)]})))
    assert answers.receipts == dict.fromkeys(answers.survivors, RECEIPT)


def test_an_answer_whose_receipt_is_not_accepted_has_failed_and_is_not_in_the_sum():
    def refuse(client, answer):
        if client == "c2":
            raise ProtocolError("a receipt under another key")
        return parse_receipt(answer)

    answers = ask(FakeGrid(honest()), receipt_of=refuse)
    assert answers.failed == ("c2",)
    assert answers.total.tolist() == [5, 10, 15, 13]
    assert "c2" not in answers.receipts


def without(record, part):
    return RecordDict({name: record[name] for name in record if name != part})


def raw(**changes):
    said = {"dtype": "int32", "shape": (LENGTH,), "stype": "numpy.ndarray", "data": Array(np.zeros(4, "i4")).data}
    return RecordDict({**vector(), "sealed": ArrayRecord({"vector": Array(**(said | changes))})})


HUGE = b"\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(128)
HOSTILE = {
    "NaN": sealed(np.full(LENGTH, np.nan, np.float32)),
    "infinity": sealed(np.full(LENGTH, np.inf, np.float64)),
    "floats": sealed(np.ones(LENGTH, np.float32)),
    "wide integers": sealed(np.ones(LENGTH, np.int64)),
    "unsigned integers": sealed(np.ones(LENGTH, np.uint32)),
    "big-endian integers": sealed(np.ones(LENGTH, ">i4")),
    "too short": vector(1, 2, 3),
    "too long": vector(1, 2, 3, 4, 5),
    "a matrix": sealed(np.ones((LENGTH, 1), np.int32)),
    "too large": vector(0, 1001, 0, 0),
    "too small": vector(0, -1001, 0, 0),
    "the smallest integer": vector(-(2**31), 0, 0, 0),
    "nothing": RecordDict(),
    "no receipt": without(vector(1, 2, 3, 4), "receipt"),
    "a receipt that nobody signed": sealed_record(
        np.ones(LENGTH, np.int32), receipt_part(replace(RECEIPT, tip="cd" * 32))
    ),
    "a status of its own": RecordDict({"status": ConfigRecord({"code": "fine"})}),
    "a metric": RecordDict({"status": MetricRecord({"recall": 0.9})}),
    "a vector of another name": RecordDict(
        {**vector(), "sealed": ArrayRecord({"update": Array(np.zeros(4, np.int32))})}
    ),
    "a vector in another place": RecordDict({**vector(), "sealed": ConfigRecord({"vector": "1"})}),
    "no bytes": raw(data=b""),
    "a torn header": raw(data=b"\x93NUMPY\x01\x00v\x00{'descr': "),
    "a header that says huge": raw(data=HUGE),
    "a header that is code": raw(data=b"\x93NUMPY\x01\x00v\x00__import__('os').system('id')".ljust(128)),
    "a pickle": raw(data=b"\x80\x04K\x01."),
    "a lie about its type": raw(data=Array(np.ones(4, np.float32)).data),
    "an error with a text": Error(code=0, reason="ValueError: user 7 has 3 purchases"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_answer_is_left_out_of_the_sum(how):
    answers = ask(FakeGrid(honest({"c2": [(HOSTILE[how], None)]})))
    assert answers.failed == ("c2",)
    assert answers.total.tolist() == [5, 10, 15, 13]
    assert "c2" not in answers.survivors


def test_the_largest_honest_entry_still_counts():
    answers = ask(FakeGrid(honest({"c0": [(vector(1000, -1000, 0, 0), None)]})))
    assert answers.total[:2].tolist() == [1005, -990]


def test_a_refusal_is_no_failure():
    answers = ask(FakeGrid(honest({"c1": [(declined_record(), None)]})))
    assert (answers.declined, answers.failed) == (("c1",), ())
    assert len(answers.survivors) == 5


@pytest.mark.parametrize("second", [vector(9, 9, 9, 9), declined_record()])
def test_the_first_answer_of_a_client_counts_once(second):
    answers = ask(FakeGrid(honest({"c0": [(vector(1, 0, 0, 0), None), (second, None), (vector(7, 7, 7, 7), None)]})))
    assert answers.total.tolist() == [6, 10, 15, 15]
    assert answers.survivors == tuple(NODES)


def test_a_node_cannot_answer_for_another_nor_silence_it():
    script = {"c0": [(vector(9, 9, 9, 9), NODES["c1"]), (vector(9, 9, 9, 9), 777), (vector(1, 2, 3, 0), None)]}
    script["c3"] = [(declined_record(), NODES["c1"]), (vector(1, 2, 3, 3), None)]
    script["c4"] = [(Error(code=0, reason="x"), NODES["c1"]), (vector(1, 2, 3, 4), None)]
    answers = ask(FakeGrid(honest(script)))
    assert answers.total.tolist() == [6, 12, 18, 15]
    assert answers.survivors == tuple(NODES)


def test_an_unknown_node_alone_is_no_answer():
    answers = ask(FakeGrid(honest({"c5": [(vector(9, 9, 9, 9), 777)]})), deadline=0.2)
    assert answers.failed == ("c5",)
    assert answers.total.tolist() == [5, 10, 15, 10]


def test_a_node_that_the_superlink_gave_up_on_has_failed_at_once(awake):
    grid = FakeGrid(honest({"c5": [(Error(code=3, reason="Node Unavailable"), SUPERLINK)]}))
    answers = ask(grid, deadline=60.0)
    assert answers.failed == ("c5",)


def test_the_superlink_cannot_contribute():
    answers = ask(FakeGrid(honest({"c5": [(vector(9, 9, 9, 9), SUPERLINK)]})), deadline=0.2)
    assert answers.failed == ("c5",)


def test_who_does_not_answer_in_time_has_failed(monkeypatch):
    clock, slept = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(module.time, "sleep", sleep)
    answers = ask(FakeGrid({"c0": [(vector(1, 1, 1, 1), None)]}), deadline=30.0)
    assert answers.survivors == ("c0",)
    assert answers.failed == tuple(list(NODES)[1:])
    assert 30.0 <= sum(slept) < 31.0


@pytest.mark.parametrize(("smallest", "enough"), [(5, True), (6, False)])
def test_below_the_plans_smallest_cohort_there_is_no_quorum(smallest, enough):
    answers = ask(FakeGrid(honest({"c1": [(declined_record(), None)]})), smallest=smallest)
    assert answers.enough is enough


def test_what_flower_could_not_send_has_failed_and_nobody_waits_for_it(awake):
    grid = FakeGrid(honest(), unsent=("c1", "c4"))
    answers = ask(grid, deadline=60.0)
    assert answers.failed == ("c1", "c4")
    assert answers.total.tolist() == [4, 8, 12, 10]


def test_a_task_too_large_to_send_fails_everybody(awake):
    class Refusing(FakeGrid):
        def push_messages(self, messages):
            super().push_messages(messages)
            return []

    answers = ask(Refusing(honest()), deadline=60.0)
    assert answers.failed == tuple(NODES)
    assert not answers.total.any()


def test_the_same_task_goes_to_everybody_with_the_deadline_as_its_life():
    grid = FakeGrid(honest())
    ask(grid, cohort=("c1", "c3"), deadline=7.0)
    assert sorted(grid.asked) == ["c1", "c3"]
    for message in grid.asked.values():
        assert message.content is TASK
        assert message.metadata.ttl == 7.0
        assert message.metadata.group_id == "1"


@pytest.mark.parametrize("largest", [1, 3, 2**20, 2**30, 2**31 - 1, 2**40])
def test_a_running_sum_never_wraps(largest):
    most = min(largest, 2**31 - 1)
    running, plain = RunningSum(3, largest), np.zeros(3, np.int64)
    for sign in (1, 1, 1, 1, -1, 1, 1):
        vector = np.array([sign * most, most, -most], np.int32)
        running.add(vector)
        plain += vector
    assert running.total().dtype == np.int64
    assert (running.total() == plain).all()
