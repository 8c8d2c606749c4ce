"""Enrolment by two files: a request counts only from who had the code, with the keys that it had then."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from server.certificates import make_authority
from server.house import House
from shared.enrolment import (
    LARGEST_FILE,
    Pass,
    check_request,
    expiry_of,
    make_request,
    pass_from_dict,
    plain_node_key,
    read_pass,
    read_request,
    request_from_dict,
    write_pass,
    write_request,
)
from shared.errors import DataError

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)
CODE = "ab" * 20


def openssh(curve):
    return generate_private_key(curve).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


NODE_KEY, OTHER_KEY = openssh(SECP384R1()), openssh(SECP384R1())


@pytest.fixture(scope="module")
def invited(tmp_path_factory):
    house = House(tmp_path_factory.mktemp("house"))
    make_authority(house, datetime(2026, 1, 1, tzinfo=UTC))
    ca = house.ca.read_text("ascii")
    return Pass("localhost:8443", ca, "1" * 64, "2" * 64, "3" * 16, CODE, "2026-12-01T00:00:00+00:00")


@pytest.fixture(scope="module")
def request_(invited):
    return make_request(invited, NODE_KEY, SIGNER)


def test_a_request_made_from_an_invitation_passes(request_):
    check_request(request_, CODE)


def test_the_code_is_not_in_the_request(request_):
    assert CODE not in json.dumps(asdict(request_))


def test_both_files_are_read_back_as_they_were_and_the_invitation_is_its_owners_alone(invited, request_, tmp_path):
    write_pass(invited, tmp_path / "invitation.json")
    write_request(request_, tmp_path / "request.json")
    assert read_pass(tmp_path / "invitation.json") == invited
    assert read_request(tmp_path / "request.json") == request_
    assert stat.S_IMODE((tmp_path / "invitation.json").stat().st_mode) == 0o600


def test_another_code_is_refused(request_):
    with pytest.raises(DataError, match="made with another code"):
        check_request(request_, "ac" * 20)


@pytest.mark.parametrize(
    "changed",
    [
        {"node_key": OTHER_KEY},
        {"identity": OTHER.public_key().public_bytes_raw().hex()},
        {"invitation": "4" * 16},
        {"mac": "0" * 64},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_request_that_was_changed_on_the_way_is_refused(changed, request_):
    with pytest.raises(DataError, match="changed on the way"):
        check_request(replace(request_, **changed), CODE)


def test_nobody_enrols_a_ledger_key_that_is_not_theirs(invited, request_):
    mine = make_request(invited, NODE_KEY, OTHER)
    stolen = replace(request_, signature=mine.signature)  # the code is known, the private key is not
    with pytest.raises(DataError, match="not signed by the ledger key"):
        check_request(stolen, CODE)


@given(st.binary(min_size=64, max_size=64))
def test_no_signature_but_the_right_one_passes(request_, signature):
    if signature.hex() != request_.signature:
        with pytest.raises(DataError):
            check_request(replace(request_, signature=signature.hex()), CODE)


def test_a_comment_behind_a_node_key_is_dropped():
    assert plain_node_key(f"{NODE_KEY} ann@laptop") == NODE_KEY


@pytest.mark.parametrize("text", [openssh(SECP256R1()), "ssh-ed25519 AAAA", "", "ecdsa-sha2-nistp384 AAAA", "ключ"])
def test_a_node_key_of_another_kind_is_refused(text):
    with pytest.raises(DataError, match=r"node_key: expected an? .*P-384"):
        plain_node_key(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node_key", f"{NODE_KEY} comment"),
        ("identity", "AB" * 32),
        ("identity", "ab" * 31),
        ("mac", 7),
        ("mac", "x" * 64),
        ("invitation", "../../../etc/pwd"),
        ("signature", "ab" * 64 + "\n"),
        ("node_key", "A" * 20_000),
    ],
)
def test_a_malformed_request_is_refused_by_its_field(name, value, request_):
    with pytest.raises(DataError, match=f"request.json: {name}: "):
        request_from_dict({**asdict(request_), name: value}, "request.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("address", "localhost"),
        ("address", "evil host:1"),
        ("ca", "-----BEGIN CERTIFICATE-----"),
        ("expires", "tomorrow"),
        ("expires", "2026-12-01T00:00:00"),
        ("code", "short"),
        ("server", None),
    ],
)
def test_a_malformed_invitation_is_refused_by_its_field(name, value, invited):
    with pytest.raises(DataError, match=f"invitation.json: {name}: "):
        pass_from_dict({**asdict(invited), name: value}, "invitation.json")


@pytest.mark.parametrize("raw", [[], "text", None, 7, {}])
def test_what_has_other_fields_is_refused(raw, request_):
    with pytest.raises(DataError, match="expected exactly the fields"):
        request_from_dict(raw, "request.json")
    with pytest.raises(DataError, match="expected exactly the fields"):
        request_from_dict({**asdict(request_), "role": "approve"}, "request.json")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b" " * (LARGEST_FILE + 1), "more than"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(content, sentence, tmp_path):
    path = tmp_path / "request.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_request(path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_pass(tmp_path / "none.json")


def test_an_expiry_has_its_zone(invited):
    assert expiry_of(invited) == datetime(2026, 12, 1, tzinfo=UTC)
