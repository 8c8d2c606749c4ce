"""How a device is let in, by two small files and no endpoint.

The operator gives a person an invitation (:class:`Pass`): where the server is, how to know it, and a code that works
once. The device answers with an :class:`EnrolRequest`: its two public keys, bound to the code by a MAC, so that nobody
on the way can put other keys in, and signed by the ledger key, so that nobody enrols a key that is not their own. The
code itself is not in the request: who sees the file can neither use nor find it, for a code has 160 bits.

Formal guarantees: none of differential privacy. A request passes only if its maker knew the code and holds the private
ledger key (HMAC-SHA256, RFC 2104; Ed25519, RFC 8032). That the node key is held, every call shows to the SuperLink.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from shared.errors import DataError
from shared.files import write_atomically

LARGEST_FILE: Final = 1 << 16  # bytes
_LONGEST: Final = 1 << 14  # characters of a field
_SAID: Final = b"fedrecall enrolment 1\n"
_SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "address": (r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}", "host:port"),
    "server": (r"[0-9a-f]{64}", "an Ed25519 public key, 64 hex digits"),
    "roster": (r"[0-9a-f]{64}", "an Ed25519 public key, 64 hex digits"),
    "identity": (r"[0-9a-f]{64}", "an Ed25519 public key, 64 hex digits"),
    "invitation": (r"[0-9a-f]{16}", "16 hex digits"),
    "code": (r"[0-9a-f]{40}", "40 hex digits"),
    "mac": (r"[0-9a-f]{64}", "64 hex digits"),
    "signature": (r"[0-9a-f]{128}", "an Ed25519 signature, 128 hex digits"),
}


@dataclass(frozen=True)
class Pass:
    """An invitation; secret until it is used.

    Attributes:
        address: host:port of the server, as devices reach it.
        ca: PEM certificate of the authority that signs the server's.
        server: the server's ledger key, hex; signs tasks and publications.
        roster: the registrar's key, hex; for ``roster_key`` of a consent.
        invitation: its public name.
        code: works once.
        expires: ISO time with zone; the server's clock decides.
    """

    address: str
    ca: str
    server: str
    roster: str
    invitation: str
    code: str
    expires: str


@dataclass(frozen=True)
class EnrolRequest:
    """A device's answer; public.

    Attributes:
        invitation: the invitation's name.
        node_key: EC P-384 public key in OpenSSH form, without a comment: who is there, to Flower.
        identity: Ed25519 public key of the device's ledger, hex.
        mac: HMAC-SHA256 over the three, keyed by the code; hex.
        signature: of the identity over the same; hex.
    """

    invitation: str
    node_key: str
    identity: str
    mac: str
    signature: str


AnyFile = TypeVar("AnyFile", Pass, EnrolRequest)


def make_request(invited: Pass, node_key: str, signer: Ed25519PrivateKey) -> EnrolRequest:
    """Device: the answer to an invitation.

    Args:
        invited: the invitation.
        node_key: public, in OpenSSH form; a comment is dropped.
        signer: the device's ledger key.

    Raises:
        DataError: the node key is of another kind.
    """
    node_key = plain_node_key(node_key)
    identity = signer.public_key().public_bytes_raw().hex()
    said = _said(invited.invitation, node_key, identity)
    mac = request_mac(invited.code, invited.invitation, node_key, identity)
    return EnrolRequest(invited.invitation, node_key, identity, mac, signer.sign(said).hex())


def request_mac(code: str, invitation: str, node_key: str, identity: str) -> str:
    """HMAC-SHA256 over the invitation's name and both public keys, keyed by the code; hex."""
    return hmac.new(bytes.fromhex(code), _said(invitation, node_key, identity), hashlib.sha256).hexdigest()


def check_request(request: EnrolRequest, code: str) -> None:
    """Operator: that a request was made by whoever had the code and holds the ledger key, and was not changed since.

    Args:
        request: as it came.
        code: of the invitation that it names.

    Raises:
        DataError: it was not.
    """
    expected = request_mac(code, request.invitation, request.node_key, request.identity)
    if not hmac.compare_digest(expected, request.mac):
        raise DataError(
            f"request for invitation {request.invitation}: made with another code, or changed on the way; ask the "
            "person to make it again from the invitation"
        )
    said = _said(request.invitation, request.node_key, request.identity)
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(request.identity)).verify(
            bytes.fromhex(request.signature), said
        )
    except InvalidSignature as error:
        raise DataError(
            f"request for invitation {request.invitation}: not signed by the ledger key {request.identity[:16]}… that "
            "it names"
        ) from error


def write_pass(invited: Pass, path: Path) -> None:
    """Write an invitation, readable by its owner only.

    Raises:
        OSError: the disk refuses.
    """
    write_atomically(path, _text(invited), mode=0o600)


def read_pass(path: Path) -> Pass:
    """Read an invitation.

    Raises:
        DataError: names the file, the field and what would be right.
    """
    return pass_from_dict(_read(path), str(path))


def write_request(request: EnrolRequest, path: Path) -> None:
    """Write a request.

    Raises:
        OSError: the disk refuses.
    """
    write_atomically(path, _text(request))


def read_request(path: Path) -> EnrolRequest:
    """Read a request; :func:`check_request` says whether it is a good one.

    Raises:
        DataError: names the file, the field and what would be right.
    """
    return request_from_dict(_read(path), str(path))


def pass_from_dict(raw: object, source: str) -> Pass:
    """An invitation from JSON; ``source`` is named in errors.

    Raises:
        DataError: a field is missing, unknown or malformed.
    """
    invited = _checked(Pass, raw, source)
    try:
        x509.load_pem_x509_certificate(invited.ca.encode())
    except ValueError as error:
        raise DataError(f"{source}: ca: expected a PEM certificate") from error
    expiry_of(invited, source)
    return invited


def request_from_dict(raw: object, source: str) -> EnrolRequest:
    """A request from JSON; ``source`` is named in errors.

    Raises:
        DataError: a field is missing, unknown or malformed.
    """
    request = _checked(EnrolRequest, raw, source)
    if plain_node_key(request.node_key, source) != request.node_key:
        raise DataError(f"{source}: node_key: expected the plain OpenSSH form, without a comment")
    return request


def expiry_of(invited: Pass, source: str = "invitation") -> datetime:
    """When an invitation expires, with its zone.

    Raises:
        DataError: it names no such time.
    """
    try:
        expires = datetime.fromisoformat(invited.expires)
    except ValueError as error:
        raise DataError(f"{source}: expires: {invited.expires[:40]!r} is no ISO time") from error
    if expires.tzinfo is None:
        raise DataError(f"{source}: expires: {invited.expires!r} has no time zone")
    return expires


def plain_node_key(text: str, source: str = "node key") -> str:
    """A public node key in the one form that is compared: OpenSSH, EC P-384, no comment.

    Raises:
        DataError: a key of another kind, or none at all.
    """
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DataError(f"{source}: node_key: expected a public key in OpenSSH form, EC P-384") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise DataError(f"{source}: node_key: expected an EC P-384 key, found another kind")
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _said(invitation: str, node_key: str, identity: str) -> bytes:
    """What is signed; no field holds a line feed, so that no two requests say the same."""
    return _SAID + f"{invitation}\n{node_key}\n{identity}".encode()


def _text(said: Pass | EnrolRequest) -> bytes:
    return (json.dumps(asdict(said), indent=1) + "\n").encode()


def _read(path: Path) -> object:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > LARGEST_FILE:
        raise DataError(f"{path}: more than {LARGEST_FILE} bytes, expected a small JSON file")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON") from error


def _checked(shape: type[AnyFile], raw: object, source: str) -> AnyFile:
    names = [field.name for field in fields(shape)]
    if not isinstance(raw, dict) or set(raw) != set(names):
        raise DataError(f"{source}: expected exactly the fields {', '.join(names)}")
    for name in names:
        value: Any = raw[name]
        if type(value) is not str or len(value) > _LONGEST:
            raise DataError(f"{source}: {name}: expected a text of at most {_LONGEST} characters")
        pattern, meaning = _SHAPES.get(name, (r"(?s).*", ""))
        if re.fullmatch(pattern, value) is None:
            raise DataError(f"{source}: {name}: {value[:80]!r}, expected {meaning}")
    return shape(**raw)
