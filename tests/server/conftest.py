"""A server's folder for tests, and devices that ask to be let in."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.folder import system_day, system_randomness
from client.host import Host, answer_all
from client.store import ClientStore
from server.init import configured, init_house
from server.promise import write_promise
from shared.catalogue import catalogue_of
from shared.catalogue_change import apply_change, change_of
from shared.enrolment import make_request
from shared.history import History
from shared.protocol import declined_record
from shared.publication import parse_publication, received_record

SETS = ("rounds=3", 'model.text_encoder="none"', "cohort.smallest=0.6")


@pytest.fixture
def now():
    return datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def new_house(tmp_path, now):
    """Sets a server up, as ``fedrecall-server init`` does."""

    def made(*sets, name="house", clients=5, address="localhost:8443"):
        config, given = configured(address, clients, (*SETS, *sets))
        house = init_house(tmp_path / name, config, given, now)
        write_promise(house, config, None)
        return house

    return made


@pytest.fixture
def house(new_house):
    return new_house()


@cache
def node_key(number):
    public = generate_private_key(SECP384R1()).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.fixture
def answer():
    """What device ``number`` answers to an invitation."""

    def made(invited, number=1):
        return make_request(invited, node_key(number), Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))

    return made


def history(seed):
    """What an invented person did with 40 items."""
    rng = np.random.default_rng(seed)
    return History(
        item=rng.choice(40, 12, replace=False).astype(np.int32),
        kind=np.zeros(12, np.int8),
        count=np.ones(12, np.float32),
        dwell=np.zeros(12, np.float32),
        rating=np.full(12, np.nan, np.float32),
        time=np.sort(rng.uniform(1.7e9, 1.71e9, 12)),
        held_out=np.arange(12) % 6 == 0,
    )


class Device:
    """What an agent does, without its files."""

    def __init__(self, number, folder, server, consent):
        self.key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        self.name = self.key.public_key().public_bytes_raw().hex()[:16]
        self.number, self.folder, self.server, self.consent = number, folder, server, consent
        self.online, self.catalogues, self.host, self.publications = True, {}, None, []

    def take(self, record):
        issue = parse_publication(record, self.server)
        if self.publications and issue.number < self.publications[-1].number:
            return declined_record()
        if issue.base and issue.base not in self.catalogues:
            return declined_record()
        if issue.change:
            got = catalogue_of(issue.change, "") if not issue.base else None
            got = got or apply_change(self.catalogues[issue.base], change_of(issue.change, ""))
            self.catalogues[got.version()] = got
        if issue.model is not None and issue.model.trained not in self.catalogues:
            return declined_record()
        assert issue.catalogue in self.catalogues
        self.publications.append(issue)
        return received_record()

    def answer(self, record):
        if self.host is None and self.catalogues:
            catalogue = next(reversed(self.catalogues.values()))
            store = ClientStore(self.name, ("me",), (history(self.number),))
            self.host = Host(
                {self.name: store},
                catalogue,
                self.folder / "ledgers" / f"{self.number}.jsonl",
                self.key,
                system_randomness(),
                consents={self.name: self.consent},
                clock=system_day,
                identity=lambda _client: self.key,
            )
        return declined_record() if self.host is None else answer_all(self.host, {self.name: record})[self.name]


@pytest.fixture
def device():
    """``device(number, folder, server, consent)``: see :class:`Device`."""
    return Device
