"""Honest clients in memory, step by step, beside whatever server a test plays."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.secagg import client, server
from shared.secagg.keys import KEY
from shared.secagg.masks import Words
from shared.secagg.messages import NO_REGISTRATION, parse_graph

Entropy = Callable[[int], bytes]
STEPS = ("join", "deal", "mask", "agree", "reveal")

# The points of small order on Curve25519 and its twist, in all their spellings: RFC 7748 ignores the highest bit.
_LOW = [
    bytes(KEY),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    *((2**255 - 19 + plus).to_bytes(KEY, "little") for plus in (-1, 0, 1)),
]
LOW_ORDER = [*_LOW, *(key[:31] + bytes([key[31] | 0x80]) for key in _LOW)]


def stream(seed: str) -> Entropy:
    """Deterministic entropy: call number i returns SHAKE-256 of the seed and i."""
    calls = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}:{next(calls)}".encode()).digest(size)


class Cohort:
    """A session of honest clients and an honest server. Members are plain values: tests try what they like on them."""

    def __init__(
        self, size: int, smallest: int, colluders: int, seed: str = "cohort", registrar: Ed25519PrivateKey | None = None
    ) -> None:
        self.size, self.smallest, self.colluders = size, smallest, colluders
        self.entropy = stream(seed)
        self.session = self.entropy(KEY)
        self.identities = [Ed25519PrivateKey.from_private_bytes(self.entropy(KEY)) for _ in range(size)]
        self.registrar = registrar
        self.vectors = np.random.default_rng(size).integers(-(2**20), 2**20, (size, 8))
        self.members: list[client.Member] = []
        self.adverts: dict[str, bytes] = {}
        self.deals: dict[str, bytes] = {}
        self.words: dict[int, Words] = {}
        self.attestations: dict[str, bytes] = {}
        self.signatures: dict[str, bytes] = {}
        self.reveals: dict[str, bytes] = {}

    @staticmethod
    def name(number: int) -> str:
        return f"{number:05}"  # in the order of their numbers

    @property
    def terms(self):
        return self.assembly.terms

    def run(self, last: str, absent: dict[str, Collection[int]] | None = None) -> Cohort:
        """Every step up to one; whoever is absent in a step stays away from then on."""
        away: set[int] = set()
        for step in STEPS[: STEPS.index(last) + 1]:
            away |= set((absent or {}).get(step, ()))
            getattr(self, step)([number for number in range(self.size) if number not in away])
        return self

    def join(self, present: Collection[int]) -> None:
        for number, identity in enumerate(self.identities):
            public = identity.public_key().public_bytes_raw()
            registered = client.registration(self.registrar, public) if self.registrar else NO_REGISTRATION
            member, advert = client.join(
                self.session, self.smallest, self.colluders, identity, self.entropy, registered
            )
            self.members.append(member)
            if number in present:
                self.adverts[self.name(number)] = advert.pack()
        self.assembly = server.assemble(self.session, self.smallest, self.colluders, self.adverts, None)
        assert self.assembly.names == tuple(self.adverts), "the tests number members as the roster does"

    def deal(self, present: Collection[int]) -> None:
        for number in present:
            self.members[number], deals = client.deal(
                self.members[number], self.assembly.roster.raw, self.identities[number], self.entropy, None
            )
            self.deals[self.name(number)] = deals.pack()
        self.dealt = server.collect(self.assembly, self.deals)
        self.boxes = server.boxes_for(self.assembly, self.dealt)

    def mask(self, present: Collection[int]) -> None:
        for number in present:
            self.members[number], self.words[number] = client.mask(
                self.members[number], self.dealt.raw, self.boxes[self.name(number)], self.vectors[number]
            )
            name = self.name(number)
            self.attestations[name] = client.attest(self.members[number], self.identities[number])
            server.admit(self.assembly, self.dealt, name, self.attestations[name])

    def agree(self, present: Collection[int]) -> None:
        self.survivors = server.survivors_of(self.assembly, self.attestations)
        for number in present:
            self.members[number], self.signatures[self.name(number)] = client.agree(
                self.members[number], self.survivors, self.identities[number]
            )

    def reveal(self, present: Collection[int]) -> None:
        self.endorsed = self.endorse()
        for number in present:
            self.reveals[self.name(number)] = client.reveal(self.members[number], self.endorsed).pack()

    def endorse(self) -> bytes:
        return server.endorse(self.assembly, self.dealt, self.survivors, self.signatures, self.attestations)

    def unmask(self) -> NDArray[np.int64]:
        total = sum(self.words.values(), np.zeros(self.vectors.shape[1], np.uint32))
        return server.unmask(self.assembly, self.dealt, self.survivors, total, self.reveals)

    def plain(self) -> NDArray[np.int64]:
        return self.vectors[list(self.words)].sum(axis=0)

    def box(self, dealer: int, holder: int) -> bytes:
        deals = self.dealt.deals[dealer]
        return deals.boxes[deals.picks.index(holder)]

    def boxes_under(self, graph: bytes, holder: int) -> bytes:
        """What a server sends a client beside a graph of its own."""
        parsed = parse_graph(graph, self.terms.members, self.terms.neighbours)
        return b"".join(self.box(dealer, holder) for dealer in parsed.picked_by[holder])

    def partners(self, number: int) -> set[int]:
        """Everybody with whom a member has a mask."""
        return {*self.dealt.graph.picks[number], *self.dealt.graph.picked_by[number]}


@pytest.fixture(scope="session")
def cohort() -> type[Cohort]:
    return Cohort


@pytest.fixture(scope="session")
def entropy() -> Callable[[str], Entropy]:
    return stream


@pytest.fixture(scope="session")
def low_order_keys() -> list[bytes]:
    return LOW_ORDER


@pytest.fixture(scope="session", params=LOW_ORDER, ids=lambda key: key.hex()[:8])
def low_order_key(request) -> bytes:
    return request.param
