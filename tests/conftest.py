"""A server in memory that leads clients through sessions of secure aggregation; tests change what it sends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from shared.proofs import addressed, sign_task, stamp
from shared.protocol import Task, is_declined, release_of, task_digest, task_record, vector_length
from shared.secagg import server
from shared.sessions import Invitation, blob, invitation_digest, invitation_record, parse_masked, parts

SERVER = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
TIP = "5" * 64  # of the server's ledger
STEPS = ("join", "deal", "upload", "agree", "reveal")
Messages = Mapping[str, RecordDict]


def on_the_wire(record: RecordDict) -> bytes:
    """What Flower sends of a record."""
    return recorddict_to_proto(record).SerializeToString(deterministic=True)


def off_the_wire(raw: bytes) -> RecordDict:
    return recorddict_from_proto(type(recorddict_to_proto(RecordDict())).FromString(raw))


@dataclass
class Table:
    """One session, step by step, by the rules; a step is asked of those that answered the step before.

    Attributes:
        ask: (step, client -> message) -> client -> answer.
        task: what the session is for.
        clients: who is invited.
        registered: see ``shared.secagg.server.assemble``.
        announced: task whose release and header the invitation gives, if another than ``task``.
        receipts: client -> its last receipt.
        sent, answered: messages and answers of the steps so far, by step.
    """

    ask: Callable[[str, Messages], Messages]
    task: Task
    clients: Collection[str]
    registered: Collection[bytes] | None = None
    announced: Task | None = None
    receipts: Mapping[str, object] = field(default_factory=dict)
    sent: dict[str, Messages] = field(default_factory=dict)
    answered: dict[str, Messages] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unsigned = task_record(self.task)
        said = self.announced or self.task
        plan = said.header.plan
        self.terms = plan.smallest_cohort, plan.smallest_cohort - plan.honest
        invitation = invitation_record(Invitation(release_of(said), said.header, task_digest(self.unsigned)))
        digest = invitation_digest(invitation)
        self.name = bytes.fromhex(digest)
        self.invitation = RecordDict({**invitation, "server": stamp(digest, SERVER, TIP)})
        self.signed = sign_task(self.unsigned, SERVER, TIP)

    def messages(self, step: str) -> dict[str, RecordDict]:
        """What a server that keeps to the rules sends now."""
        return getattr(self, f"_{step}")()

    def play(self, until: str = "reveal", *, leave: Mapping[str, Collection[str]] | None = None) -> Messages:
        """The steps that are left, up to one; ``leave``: step -> clients that are lost on the way to it."""
        answers: Messages = {}
        for step in STEPS[len(self.sent) : STEPS.index(until) + 1]:
            gone = set((leave or {}).get(step, ()))
            messages = {client: record for client, record in self.messages(step).items() if client not in gone}
            answers = self.tell(step, messages)
        return answers

    def tell(self, step: str, messages: Messages) -> Messages:
        """Send a step's messages, and go on with the answers."""
        self.sent[step] = messages
        self.answered[step] = self.ask(step, messages)
        return self.answered[step]

    def blobs(self, step: str) -> dict[str, bytes]:
        """A step's answers, of those that did not decline."""
        return {c: blob(answer, "answer") for c, answer in self.answered[step].items() if not is_declined(answer)}

    def total(self) -> np.ndarray:
        """The sum, after the last step."""
        masked = self.masked()
        words = np.sum([*masked.values()], axis=0, dtype=np.uint32)
        return server.unmask(self.assembly, self.dealt, self.survivors, words, self.blobs("reveal"))

    def masked(self) -> dict[str, np.ndarray]:
        uploads = {c: answer for c, answer in self.answered["upload"].items() if not is_declined(answer)}
        return {c: parse_masked(answer, vector_length(self.task)) for c, answer in uploads.items()}

    def attestations(self) -> dict[str, bytes]:
        uploads = {c: answer for c, answer in self.answered["upload"].items() if not is_declined(answer)}
        return {c: blob(answer, "attestation") for c, answer in uploads.items()}

    def _join(self) -> dict[str, RecordDict]:
        made = {last: addressed(self.invitation, last) for last in {None, *self.receipts.values()}}
        return {client: made[self.receipts.get(client)] for client in self.clients}

    def _deal(self) -> dict[str, RecordDict]:
        self.assembly = server.assemble(self.name, *self.terms, self.blobs("join"), self.registered)
        return dict.fromkeys(self.assembly.names, RecordDict(parts(self.name, roster=self.assembly.roster.raw)))

    def _upload(self) -> dict[str, RecordDict]:
        self.dealt = server.collect(self.assembly, self.blobs("deal"))
        shared, boxes = parts(self.name, graph=self.dealt.raw), server.boxes_for(self.assembly, self.dealt)
        made = {last: addressed(self.signed, last) for last in {None, *self.receipts.values()}}
        return {
            client: RecordDict({**made[self.receipts.get(client)], **parts(self.name, boxes=raw), **shared})
            for client, raw in boxes.items()
        }

    def _agree(self) -> dict[str, RecordDict]:
        masked = self.masked()
        self.survivors = server.survivors_of(self.assembly, masked)
        return dict.fromkeys(masked, RecordDict(parts(self.name, survivors=self.survivors)))

    def _reveal(self) -> dict[str, RecordDict]:
        signatures = self.blobs("agree")
        raw = server.endorse(self.assembly, self.dealt, self.survivors, signatures, self.attestations())
        return dict.fromkeys(signatures, RecordDict(parts(self.name, signatures=raw)))


@pytest.fixture
def table():
    """``table(ask, task, clients, ...)``: see :class:`Table`."""
    return Table


@pytest.fixture
def wire():
    """``wire.pack(record)``: its bytes as Flower sends them; ``wire.unpack(bytes)``."""

    class Wire:
        pack = staticmethod(on_the_wire)
        unpack = staticmethod(off_the_wire)

    return Wire


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"red pen a blue mug for tea and coffee in the morning".split())  # noqa: SIM905 - a sentence


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """Folder of a BERT of 16 dimensions with random weights: everything but the meaning is real."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    shape |= {"initializer_range": 0.3}  # as in a trained model, attention matters
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(WORDS), **shape)).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)
