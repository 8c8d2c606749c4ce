"""From an invitation to a request: one device, one server, and consent that names it."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client.consent import read_consent, write_consent
from client.enrolling import (
    client_name,
    enrol,
    node_key,
    own_name,
    public_node_key,
    read_server,
    remember_node,
    remembered_node,
)
from shared.enrolment import Pass, check_request, write_pass
from shared.errors import DataError


@pytest.fixture
def home(device):
    made, _ = device
    made.server.unlink()
    return made


@pytest.fixture(scope="module")
def invited():
    key, now = generate_private_key(SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "house")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    ca = made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    until = (now + timedelta(days=1)).isoformat()
    return Pass("host.example:443", ca, "a" * 64, "b" * 64, secrets.token_hex(8), secrets.token_hex(20), until)


def answered(home, invited, tmp_path):
    write_pass(invited, tmp_path / "invitation.json")
    return enrol(home, tmp_path / "invitation.json")


def test_the_request_is_one_that_the_operator_accepts(home, invited, tmp_path):
    request = answered(home, invited, tmp_path)
    check_request(request, invited.code)
    assert request.node_key == public_node_key(home)
    assert own_name(home) == client_name(request.identity) == request.identity[:16]
    assert read_server(home).address == "host.example:443"
    assert invited.code not in home.server.read_text()


def test_consent_names_this_server_and_its_registrar_and_keeps_everything_else(home, invited, tmp_path):
    write_consent(read_consent(home.consent).model_copy(update={"smallest_cohort": 77, "servers": ()}), home.consent)
    answered(home, invited, tmp_path)
    said = read_consent(home.consent)
    assert (said.servers, said.roster_key, said.smallest_cohort) == (("a" * 64,), "b" * 64, 77)


def test_a_second_invitation_of_the_same_server_makes_the_same_device_ask(home, invited, tmp_path):
    first = answered(home, invited, tmp_path)
    moved = replace(invited, address="other.example:443", invitation=secrets.token_hex(8), code=secrets.token_hex(20))
    second = answered(home, moved, tmp_path)
    assert (first.identity, first.node_key) == (second.identity, second.node_key)
    assert read_server(home).address == "other.example:443"


def test_another_server_is_refused_and_nothing_changes(home, invited, tmp_path):
    answered(home, invited, tmp_path)
    before = home.server.read_bytes(), home.consent.read_bytes()
    with pytest.raises(DataError, match="one server and one ledger"):
        answered(home, replace(invited, server="c" * 64), tmp_path)
    assert (home.server.read_bytes(), home.consent.read_bytes()) == before


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"address": 1, "ca": "", "server": "", "roster": ""}'])
def test_a_broken_server_file_is_named(content, home):
    with pytest.raises(DataError, match="belongs to no server yet"):
        read_server(home)
    home.server.write_bytes(content)
    with pytest.raises(DataError, match=r"server\.json"):
        read_server(home)


def test_the_node_key_is_made_once_and_is_its_owners(home):
    home.node_key.unlink()
    made = node_key(home)
    assert node_key(home).private_numbers() == made.private_numbers()
    assert home.node_key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("other", ["another curve", "nonsense"])
def test_a_node_key_of_another_kind_is_refused(other, home):
    key = generate_private_key(SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    home.node_key.write_bytes(pem if other == "another curve" else b"nonsense")
    with pytest.raises(DataError, match=r"node-key\.pem"):
        node_key(home)


def test_flowers_number_is_remembered_and_rubbish_is_none(home):
    assert remembered_node(home) == 0
    remember_node(home, 2**63 + 5)
    assert remembered_node(home) == 2**63 + 5
    (home.folder / "node-number").write_text("rubbish")
    assert remembered_node(home) == 0
