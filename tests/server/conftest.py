"""A server's folder for tests, and devices that ask to be let in."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from server.init import configured, init_house
from server.promise import write_promise
from shared.enrolment import make_request

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
