"""The golden vectors: regenerated and compared, replayed from the files alone, and refused where they must be."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import ProtocolError
from shared.secagg import client, server
from shared.secagg.messages import NO_REGISTRATION

FOLDER = Path(__file__).parent
SESSIONS = ("gone-before-upload", "gone-after-upload")
CASES = json.loads((FOLDER / "vectors" / "must-fail.json").read_text("utf-8"))["cases"]


def load(name):
    return json.loads((FOLDER / "vectors" / f"{name}.json").read_text("utf-8"))


def script():
    spec = importlib.util.spec_from_file_location("secagg_vectors", FOLDER / "vectors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_say_what_the_script_says():
    made = script()
    for name, text in made.files().items():
        assert (FOLDER / "vectors" / name).read_text("utf-8") == text, f"run: {made.COMMAND}"
    assert {path.name for path in (FOLDER / "vectors").iterdir()} == set(made.files())


def entropy(seed):
    calls = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}:{next(calls)}".encode()).digest(size)


class Replay:
    """The clients of a file, fed with the server's messages in it; ``before`` holds who waits for which message."""

    def __init__(self, vectors):
        self.vectors = vectors
        self.all = {name: bytes.fromhex(raw) for name, raw in vectors["to_all"].items()}
        self.each = {kind: {n: bytes.fromhex(raw) for n, raw in by.items()} for kind, by in vectors["of_each"].items()}
        self.keys = {
            one["name"]: Ed25519PrivateKey.from_private_bytes(bytes.fromhex(one["identity_private"]))
            for one in vectors["clients"]
        }
        self.values = {one["name"]: np.array(one["vector"]) for one in vectors["clients"]}
        self.sources = {one["name"]: entropy(one["entropy_seed"]) for one in vectors["clients"]}
        self.before = {}

    def answers(self, name):
        """(kind, bytes) of all that one client says, from the messages in the file."""
        session, key, source = bytes.fromhex(self.vectors["session"]), self.keys[name], self.sources[name]
        member, advert = client.join(
            session, self.vectors["smallest"], self.vectors["colluders"], key, source, NO_REGISTRATION
        )
        yield "advert", advert.pack()
        self.before[name, "roster"] = member
        member, deals = client.deal(member, self.all["roster"], key, source, None)
        yield "deals", deals.pack()
        self.before[name, "graph"] = self.before[name, "boxes"] = member
        if name not in self.each["masked"]:
            return
        member, words = client.mask(member, self.all["graph"], self.each["boxes"][name], self.values[name])
        yield "masked", words.astype("<u4").tobytes()
        yield "attestation", client.attest(member, key)
        self.before[name, "survivors"] = member
        if name not in self.each["signature"]:
            return
        member, signature = client.agree(member, self.all["survivors"], key)
        yield "signature", signature
        self.before[name, "signatures"] = member
        yield "reveal", client.reveal(member, self.all["signatures"]).pack()

    def send(self, name, message, raw):
        """One message of the server's to a client that waits for it."""
        member, key = self.before[name, message], self.keys[name]
        if message == "roster":
            return client.deal(member, raw, key, self.sources[name], None)
        if message == "survivors":
            return client.agree(member, raw, key)
        if message == "signatures":
            return client.reveal(member, raw)
        graph, boxes = (raw, self.each["boxes"][name]) if message == "graph" else (self.all["graph"], raw)
        return client.mask(member, graph, boxes, self.values[name])


def served(replay):
    """The server's side of a file: (what it sends to all, boxes, sum)."""
    vectors, each = replay.vectors, replay.each
    session = bytes.fromhex(vectors["session"])
    assembly = server.assemble(session, vectors["smallest"], vectors["colluders"], each["advert"], None)
    dealt = server.collect(assembly, each["deals"])
    for name, raw in each["attestation"].items():
        server.admit(assembly, dealt, name, raw)
    survivors = server.survivors_of(assembly, each["attestation"])
    endorsed = server.endorse(assembly, dealt, survivors, each["signature"], each["attestation"])
    total = sum((np.frombuffer(raw, "<u4") for raw in each["masked"].values()), np.zeros(6, np.uint32))
    to_all = {"roster": assembly.roster.raw, "graph": dealt.raw, "survivors": survivors, "signatures": endorsed}
    result = server.unmask(assembly, dealt, survivors, total, each["reveal"])
    return assembly, dealt, to_all, server.boxes_for(assembly, dealt), result


@pytest.mark.parametrize("name", SESSIONS)
def test_clients_answer_a_file_s_messages_with_its_bytes(name):
    replay = Replay(load(name))
    for who in replay.keys:
        said = dict(replay.answers(who))
        assert said == {kind: by[who] for kind, by in replay.each.items() if who in by and kind != "boxes"}


@pytest.mark.parametrize("name", SESSIONS)
def test_a_server_answers_a_file_s_messages_with_its_bytes_and_sum(name):
    replay = Replay(vectors := load(name))
    _, _, to_all, boxes, result = served(replay)
    assert to_all == replay.all
    assert boxes == replay.each["boxes"]
    assert result.tolist() == vectors["sum"]
    survivors = [one["vector"] for one in vectors["clients"] if one["name"] in replay.each["masked"]]
    assert vectors["sum"] == np.sum(survivors, axis=0).tolist()


def test_one_file_loses_a_client_before_and_one_after_the_upload():
    before, after = (load(name)["of_each"] for name in SESSIONS)
    assert "client 4" not in before["masked"]
    assert "client 4" in after["masked"]
    assert "client 4" not in after["signature"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['message']}: {case['name']}")
def test_what_must_be_refused_is_refused_with_that_sentence(case):
    replay, raw = Replay(load("gone-before-upload")), bytes.fromhex(case["hex"])
    if case["for"] == "server":
        assembly, dealt, *_ = served(replay)
        with pytest.raises(ProtocolError) as caught:
            server.admit(assembly, dealt, "client 1", raw)
    else:
        list(replay.answers(case["for"]))
        with pytest.raises(ProtocolError) as caught:
            replay.send(case["for"], case["message"], raw)
    assert str(caught.value) == case["refusal"]


def test_every_kind_of_message_has_a_case():
    assert {case["message"] for case in CASES} == {
        "roster", "graph", "boxes", "survivors", "signatures", "attestation",
    }  # fmt: skip
    assert len(CASES) >= 20
