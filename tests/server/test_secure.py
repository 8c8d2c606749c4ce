"""The server's five steps against clients that vanish, decline, lie, or answer for others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from server import exchange as module
from server.exchange import SUPERLINK, Post
from server.secure import Session, secure_exchange
from shared.errors import ProtocolError
from shared.privacy.chain import sign_head
from shared.proofs import parse_receipt, same_task
from shared.protocol import declined_record, receipt_part
from shared.secagg import client
from shared.secagg.client import Member
from shared.secagg.messages import NO_REGISTRATION
from shared.sessions import STEP_TYPES, blob, masked_record, parts, session_of, step_answer

LENGTH = 5
NODES = {f"c{n}": 100 + n for n in range(7)}
CLIENTS = tuple(NODES)
NAME = bytes(range(32))
ROUTES = (STEP_TYPES["join"], STEP_TYPES["deal"], "train.update", STEP_TYPES["agree"], STEP_TYPES["reveal"])
STEPS = ("join", "deal", "upload", "agree", "reveal")
LARGEST = 1000.0
SIZE = 224  # bytes of an advert


def key_of(name):
    return Ed25519PrivateKey.from_private_bytes(f"client {name}".encode().ljust(32))


def vector_of(name):
    return np.random.default_rng(int(name[1:])).integers(-LARGEST, LARGEST + 1, LENGTH).astype(np.int32)


def receipt_for(name):
    return sign_head(key_of(f"ledger of {name}"), 7, "ab" * 32, 1)


@dataclass
class Honest:
    """A client by the rules of the protocol, without a gate or a ledger."""

    name: str
    member: Member | None = None

    def __call__(self, step, record):
        return getattr(self, step)(record)

    def join(self, _record):
        rng = np.random.default_rng([9, int(self.name[1:])])
        self.member, advert = client.join(NAME, 4, 1, key_of(self.name), rng.bytes, NO_REGISTRATION)
        return step_answer(advert.pack())

    def deal(self, record):
        rng = np.random.default_rng([8, int(self.name[1:])])
        roster = blob(record, "roster")
        self.member, deals = client.deal(self.member, roster, key_of(self.name), rng.bytes, None)
        return step_answer(deals.pack())

    def upload(self, record):
        graph, boxes = blob(record, "graph"), blob(record, "boxes")
        self.member, words = client.mask(self.member, graph, boxes, vector_of(self.name))
        return uploaded(words, self.member, self.name)

    def agree(self, record):
        self.member, signature = client.agree(self.member, blob(record, "survivors"), key_of(self.name))
        return step_answer(signature)

    def reveal(self, record):
        return step_answer(client.reveal(self.member, blob(record, "signatures")).pack())


def uploaded(words, member, name, receipt=None):
    """What a client sends in the third step."""
    return masked_record(words, client.attest(member, key_of(name)), receipt_part(receipt or receipt_for(name)))


@dataclass
class FakeGrid:
    """Honest clients, but for ``how``: (client, step) -> what to make of (its answer): a list of (content, node).

    Attributes:
        how: changes; a content is a record, an error, or None for nothing; a node of None is the client's own.
        unsent: (client, step) that Flower has no message id for.
        order: shuffles answers, if given.
    """

    how: dict = field(default_factory=dict)
    unsent: tuple = ()
    order: np.random.Generator | None = None

    def __post_init__(self):
        self.clients = {name: Honest(name) for name in NODES}
        self.asked: dict[str, dict[str, Message]] = {step: {} for step in STEPS}
        self.answers: dict[tuple[str, str], RecordDict] = {}
        self.queue: list[Message] = []
        self.sent = 0

    def push_messages(self, messages):
        ids = []
        for message in messages:
            name = next(n for n, node in NODES.items() if node == message.metadata.dst_node_id)
            step = STEPS[ROUTES.index(message.metadata.message_type)]
            self.sent += 1
            message.metadata.__dict__["_message_id"] = f"m{self.sent}"
            if (name, step) in self.unsent:
                ids.append("")
                continue
            ids.append(f"m{self.sent}")
            self.asked[step][name] = message
            try:
                answer = self.clients[name](step, message.content)
            except ProtocolError:
                answer = declined_record()
            self.answers[name, step] = answer
            change = self.how.get((name, step))
            for content, node in [(answer, None)] if change is None else change(answer):
                if content is not None:
                    reply = Message(content, reply_to=message)
                    reply.metadata.__dict__["_src_node_id"] = NODES[name] if node is None else node
                    self.queue.append(reply)
        if self.order is not None:
            self.queue = [self.queue[n] for n in self.order.permutation(len(self.queue))]
        return ids

    def pull_messages(self, _ids):
        out, self.queue = self.queue[:3], self.queue[3:]
        return out


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # Flower's runtime sets it before an app runs


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Time passes only when the server waits for what does not come."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    return clock


def ask(grid, *, cohort=CLIENTS, smallest=4, colluders=1, registered=None, largest=LARGEST, receipt_of=None):
    invitation = RecordDict({"invitation": ConfigRecord({"json": "{}"})})
    task = {"task": ConfigRecord({"json": "{}"}), "arrays": ArrayRecord({"x": Array(np.zeros(9, np.float32))})}
    server = {"server": ConfigRecord({"key": "k"})}
    return secure_exchange(
        Post(grid, NODES, "3", 5.0),
        Session(NAME, smallest, colluders, registered, "train.update", LENGTH, largest),
        dict.fromkeys(cohort, invitation),
        dict.fromkeys(cohort, RecordDict({**task, **server})),
        receipt_of or (lambda _client, answer: parse_receipt(answer)),
    )


def plain(names):
    return np.sum([vector_of(name) for name in names], axis=0, dtype=np.int64)


def nothing(_answer):
    return []


def declined(_answer):
    return [(declined_record(), None)]


def without(*names):
    return tuple(name for name in CLIENTS if name not in names)


# --- the sum


def test_the_sum_is_that_of_the_plain_vectors_in_any_order():
    for seed in range(4):
        answers = ask(FakeGrid(order=np.random.default_rng(seed)))
        assert answers.total.dtype == np.int64
        assert answers.total.tolist() == plain(CLIENTS).tolist()
        assert (answers.survivors, answers.declined, answers.failed) == (CLIENTS, (), ())
        assert (answers.enough, answers.why) == (True, "")
        assert answers.receipts == {name: receipt_for(name) for name in CLIENTS}


def test_another_clients_attestation_is_none():
    grid = FakeGrid()
    grid.how["c3", "upload"] = lambda a: [(attested(a, grid.answers["c1", "upload"]["attestation"]["raw"]), None)]
    assert ask(grid).failed == ("c3",)


def test_a_part_of_the_clients_is_a_session_of_its_own():
    grid = FakeGrid()
    answers = ask(grid, cohort=CLIENTS[2:])
    assert answers.total.tolist() == plain(CLIENTS[2:]).tolist()
    assert sorted(grid.asked["join"]) == sorted(CLIENTS[2:])


LEAVING = {
    "vanish": nothing,
    "decline": declined,
    "fail": lambda _answer: [(Error(code=0, reason="ValueError: user 7 has 3 purchases"), None)],
    "send nothing": lambda _answer: [(RecordDict(), None)],
    "send another type": lambda answer: [(RecordDict({n: MetricRecord({"raw": 1.0}) for n in answer}), None)],
    "send text": lambda _answer: [(RecordDict({"answer": ConfigRecord({"raw": "x" * SIZE})}), None)],
    "send too much": lambda _answer: [(step_answer(bytes(1 << 20)), None)],
    "send too little": lambda _answer: [(step_answer(b"x"), None)],
    "go offline": lambda _answer: [(Error(code=3, reason="Node Unavailable"), SUPERLINK)],
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", LEAVING)
def test_two_that_leave_at_any_step_are_not_missed(how, step):
    grid = FakeGrid({(name, step): LEAVING[how] for name in ("c1", "c4")})
    answers = ask(grid)
    after = step in ("agree", "reveal")
    survivors = CLIENTS if after else without("c1", "c4")
    assert answers.survivors == survivors
    assert answers.total.tolist() == plain(survivors).tolist()
    assert answers.enough, answers.why
    # Who uploaded has answered, whatever it says later.
    assert answers.declined == (("c1", "c4") if how == "decline" and not after else ())
    assert set(answers.survivors + answers.declined + answers.failed) == set(CLIENTS)
    assert "purchases" not in repr(answers)


@pytest.mark.parametrize(
    ("step", "left", "why"),
    [
        ("join", 3, "too few joined: 3 members, 4 at least"),
        ("deal", 4, "4 of 7 clients dealt, at least 5 must have"),
        ("upload", 4, "4 of 7 clients uploaded, at least 5 must have"),
        ("agree", 4, "4 of 7 clients signed, at least 5 must have"),
        ("reveal", 0, "right shares of a secret of"),
    ],
)
@pytest.mark.parametrize("how", ["vanish", "decline", "send nothing"])
def test_without_a_quorum_a_step_ends_it_and_says_which(how, step, left, why):
    grid = FakeGrid({(name, step): LEAVING[how] for name in CLIENTS[left:]})
    answers = ask(grid)
    assert not answers.enough
    assert why in answers.why
    assert len(answers.why) < 200
    later = STEPS[STEPS.index(step) + 1 :]
    assert all(grid.asked[each] == {} for each in later)
    assert answers.total.shape == (LENGTH,)
    assert not answers.total.any()  # nothing masked, nothing partial
    assert answers.receipts == {n: receipt_for(n) for n in answers.survivors}


def test_those_who_leave_step_by_step_add_up():
    grid = FakeGrid({("c0", "join"): nothing, ("c1", "upload"): declined, ("c2", "agree"): nothing})
    answers = ask(grid)
    assert answers.enough
    assert (answers.declined, answers.failed) == (("c1",), ("c0",))
    assert answers.total.tolist() == plain(without("c0", "c1")).tolist()


def test_nobody_at_all_is_an_answer_too():
    answers = ask(FakeGrid({(name, "join"): nothing for name in CLIENTS}))
    assert (answers.enough, answers.survivors, answers.failed) == (False, (), CLIENTS)
    answers = ask(FakeGrid(), cohort=())
    assert (answers.enough, answers.failed) == (False, ())


def test_a_cohort_that_is_too_small_for_the_plan_is_not_asked_on():
    grid = FakeGrid()
    assert "too few joined" in ask(grid, cohort=CLIENTS[:3]).why
    assert grid.asked["deal"] == {}


# --- hostile clients


def changed(answer, name, part):
    return RecordDict({**answer, name: part})


def attested(answer, raw):
    return changed(answer, "attestation", ConfigRecord({"raw": raw}))


BAD_UPLOADS = {
    "no attestation": lambda a: RecordDict({n: a[n] for n in a if n != "attestation"}),
    "an attestation of zeros": lambda a: attested(a, bytes(64)),
    "an attestation cut short": lambda a: attested(a, a["attestation"]["raw"][:-1]),
    "an attestation of another purpose": lambda a: attested(
        a, key_of("c3").sign(b"fedrecall secagg 1 survivors:" + NAME)
    ),
    "a long attestation": lambda a: attested(a, a["attestation"]["raw"] * 2),
    "no receipt": lambda a: RecordDict({n: a[n] for n in a if n != "receipt"}),
    "a receipt that nobody signed": lambda a: changed(a, "receipt", ConfigRecord({**a["receipt"], "tip": "cd" * 32})),
    "a plain vector": lambda a: changed(a, "masked", ArrayRecord({"vector": Array(np.ones(LENGTH, np.int32))})),
    "floats": lambda a: changed(a, "masked", ArrayRecord({"vector": Array(np.full(LENGTH, np.nan, np.float32))})),
    "a short vector": lambda a: changed(a, "masked", ArrayRecord({"vector": Array(np.ones(LENGTH - 1, np.uint32))})),
    "a matrix": lambda a: changed(a, "masked", ArrayRecord({"vector": Array(np.ones((LENGTH, 1), np.uint32))})),
    "another name": lambda a: changed(a, "masked", ArrayRecord({"update": Array(np.ones(LENGTH, np.uint32))})),
    "a sealed vector": lambda a: RecordDict({"sealed": a["masked"], "receipt": a["receipt"]}),
}


@pytest.mark.parametrize("how", BAD_UPLOADS)
def test_a_bad_upload_is_left_out_and_its_masks_come_off(how):
    answers = ask(FakeGrid({("c3", "upload"): lambda answer: [(BAD_UPLOADS[how](answer), None)]}))
    assert answers.failed == ("c3",)
    assert answers.total.tolist() == plain(without("c3")).tolist()
    assert "c3" not in answers.receipts


def test_a_vector_whose_receipt_is_not_accepted_is_not_in_the_sum():
    def refuse(name, answer):
        if name == "c2":
            raise ProtocolError("a receipt under another key")
        return parse_receipt(answer)

    answers = ask(FakeGrid(), receipt_of=refuse)
    assert answers.failed == ("c2",)
    assert answers.total.tolist() == plain(without("c2")).tolist()


def flipped(place):
    def flip(answer):
        raw = bytearray(answer["answer"]["raw"])
        raw[place] ^= 1
        return [(step_answer(bytes(raw)), None)]

    return flip


@pytest.mark.parametrize(
    ("step", "place"),
    [("join", 0), ("join", 40), ("join", 70), ("join", 100), ("deal", 0), ("deal", 40), ("agree", 0), ("agree", 63)],
)
def test_what_is_not_signed_as_it_stands_is_as_good_as_nothing(step, place):
    answers = ask(FakeGrid({("c5", step): flipped(place)}))
    survivors = CLIENTS if step == "agree" else without("c5")
    assert answers.survivors == survivors
    assert answers.total.tolist() == plain(survivors).tolist()


@pytest.mark.parametrize("place", [0, -1, -40])
def test_a_wrong_share_is_known_by_its_print(place):
    answers = ask(FakeGrid({("c5", "reveal"): flipped(place)}))
    assert answers.total.tolist() == plain(CLIENTS).tolist()


@pytest.mark.parametrize("offset", [32, 64])
@pytest.mark.parametrize("key", [bytes(32), (1).to_bytes(32, "little")], ids=["zero", "one"])
def test_a_key_that_makes_every_agreement_the_same_keeps_its_owner_out_and_nobody_else(offset, key):
    def weak(answer):
        raw = answer["answer"]["raw"]
        keys = bytearray(raw[32:96])
        keys[offset - 32 : offset] = key
        identity = key_of("c6")
        signature = identity.sign(b"fedrecall secagg 1 keys:" + NAME + bytes(keys))
        return [(step_answer(raw[:32] + bytes(keys) + signature + raw[160:]), None)]

    answers = ask(FakeGrid({("c6", "join"): weak}))
    assert answers.failed == ("c6",)
    assert answers.total.tolist() == plain(without("c6")).tolist()


def test_a_copied_advert_counts_for_whoever_sent_it_first():
    grid = FakeGrid()
    grid.how["c4", "join"] = lambda _answer: [(grid.answers["c1", "join"], None)]
    answers = ask(grid)
    assert answers.failed == ("c4",)
    assert answers.total.tolist() == plain(without("c4")).tolist()


def test_unregistered_identities_are_left_out():
    known = {key_of(name).public_key().public_bytes_raw() for name in without("c2")}
    answers = ask(FakeGrid(), registered=known)
    assert answers.failed == ("c2",)
    assert answers.total.tolist() == plain(without("c2")).tolist()
    assert "too few joined: 0 members" in ask(FakeGrid(), registered=set()).why


def test_garbage_under_a_mask_is_noticed_by_its_size():
    def garbage(answer):
        words = answer["masked"]["vector"].numpy() + np.uint32(2**30)
        return [(changed(answer, "masked", ArrayRecord({"vector": Array(words)})), None)]

    answers = ask(FakeGrid({("c3", "upload"): garbage}))
    assert not answers.enough
    assert "somebody sent garbage" in answers.why


def test_the_largest_honest_sum_still_counts(monkeypatch):
    monkeypatch.setattr(f"{__name__}.vector_of", lambda _name: np.full(LENGTH, -LARGEST, np.int32))
    answers = ask(FakeGrid())
    assert answers.enough
    assert answers.total.tolist() == [-7 * LARGEST] * LENGTH
    assert not ask(FakeGrid(), largest=LARGEST - 1).enough


# --- who speaks for whom


@pytest.mark.parametrize("step", STEPS)
def test_a_node_cannot_answer_for_another_nor_silence_it(step):
    def talked_over(answer):
        foreign = [(declined_record(), NODES["c1"]), (step_answer(b"x"), 777), (Error(code=0, reason="x"), NODES["c1"])]
        return [*foreign, (answer, None)]

    answers = ask(FakeGrid({("c0", step): talked_over}))
    assert answers.total.tolist() == plain(CLIENTS).tolist()
    assert answers.survivors == CLIENTS


@pytest.mark.parametrize("step", STEPS)
def test_the_first_answer_of_a_client_counts_and_only_that(step):
    def twice(answer):
        return [(answer, None), (declined_record(), None), (answer, None)]

    answers = ask(FakeGrid({("c0", step): twice}))
    assert answers.total.tolist() == plain(CLIENTS).tolist()
    assert answers.survivors == CLIENTS
    assert answers.declined == ()


def test_an_answer_of_an_earlier_step_is_not_one_of_this():
    grid = FakeGrid()

    def late(answer):
        reply = Message(answer, reply_to=grid.asked["join"]["c2"])
        reply.metadata.__dict__["_src_node_id"] = NODES["c2"]
        grid.queue.append(reply)
        return []

    grid.how["c2", "deal"] = late
    answers = ask(grid)
    assert answers.failed == ("c2",)
    assert answers.total.tolist() == plain(without("c2")).tolist()


def test_what_flower_could_not_send_is_a_dropout():
    answers = ask(FakeGrid(unsent=(("c1", "join"), ("c2", "upload"), ("c3", "reveal"))))
    assert answers.failed == ("c1", "c2")
    assert answers.total.tolist() == plain(without("c1", "c2")).tolist()


def test_a_message_too_large_to_send_fails_everybody(impatient):
    class Refusing(FakeGrid):
        def push_messages(self, messages):
            super().push_messages(messages)
            self.queue.clear()
            return []

    assert ask(Refusing()).failed == CLIENTS
    assert impatient[0] == 0.0  # nobody waits for what was not sent


def test_each_step_waits_its_deadline_and_no_longer(impatient):
    ask(FakeGrid({("c1", "join"): nothing, ("c2", "upload"): nothing}))
    assert 10.0 <= impatient[0] < 11.0


# --- what is sent


def test_each_step_has_its_route_and_goes_to_those_of_the_step_before():
    grid = FakeGrid({("c0", "join"): nothing, ("c1", "deal"): nothing, ("c2", "upload"): nothing})
    answers = ask(grid)
    assert answers.enough
    assert [len(grid.asked[step]) for step in STEPS] == [7, 6, 5, 4, 4]
    for step, route in zip(STEPS, ROUTES, strict=True):
        for message in grid.asked[step].values():
            assert (message.metadata.message_type, message.metadata.group_id) == (route, "3")
            assert message.metadata.ttl == 5.0
            if step != "join":
                assert session_of(message.content) == NAME


def test_shares_are_asked_of_those_who_signed():
    grid = FakeGrid({("c1", "agree"): nothing, ("c4", "agree"): flipped(3)})
    answers = ask(grid)
    assert answers.total.tolist() == plain(CLIENTS).tolist()
    assert sorted(grid.asked["reveal"]) == ["c0", "c2", "c3", "c4", "c5", "c6"]  # c4's signature was looked at later


def test_everybody_is_shown_the_same_but_for_its_boxes():
    grid = FakeGrid()
    ask(grid)
    for step in ("join", "deal", "agree", "reveal"):
        assert len({id(message.content) for message in grid.asked[step].values()}) == 1
    uploads = [message.content for message in grid.asked["upload"].values()]
    assert all(same_task(one, uploads[0]) for one in uploads)  # a process answers them as one batch
    for part in ("graph", "session"):
        assert len({id(one[part]) for one in uploads}) == 1
    boxes = [blob(one, "boxes") for one in uploads]
    assert len(set(boxes)) == len(CLIENTS)
    assert {name for one in uploads for name in one} == {
        *("task", "arrays", "server", "session", "graph", "boxes"),
    }


def test_bytes_are_counted_both_ways():
    grid = FakeGrid()
    answers = ask(grid)
    up = Counter()
    for (_, step), answer in grid.answers.items():
        up[step] += len(answer["answer"]["raw"]) if "answer" in answer else 4 * LENGTH
    assert answers.up >= sum(up.values())
    assert answers.up < sum(up.values()) + 100 * len(CLIENTS)
    raw = sum(
        len(part["raw"])
        for messages in grid.asked.values()
        for message in messages.values()
        for part in message.content.config_records.values()
        if "raw" in part
    )
    arrays = sum(m.content["arrays"].count_bytes() for m in grid.asked["upload"].values())
    assert answers.down == raw + arrays


@pytest.mark.parametrize("step", ["join", "deal", "agree", "reveal"])
def test_an_answer_that_is_too_long_is_not_even_counted(step):
    answers = ask(FakeGrid({("c3", step): LEAVING["send too much"]}))
    assert answers.enough
    assert answers.up < 1 << 16


def test_nothing_is_kept_between_sessions():
    assert ask(FakeGrid()).total.tolist() == ask(FakeGrid()).total.tolist() == plain(CLIENTS).tolist()


def test_a_session_record_of_another_session_is_what_clients_refuse_so_the_round_ends():
    class Wrong(Honest):
        def deal(self, record):
            return super().deal(RecordDict({**record, **parts(NAME, roster=record["roster"]["raw"][:-SIZE])}))

    grid = FakeGrid()
    grid.clients = {name: Wrong(name) for name in NODES}
    answers = ask(grid)
    assert not answers.enough
    assert "dealt" in answers.why
