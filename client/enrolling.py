"""A device's side of enrolment: from an invitation to a request, and what is remembered of the server."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from client.consent import Consent, read_consent, write_consent
from client.home import Home
from shared.enrolment import EnrolRequest, make_request, read_pass
from shared.errors import DataError
from shared.files import sync_folder, write_atomically
from shared.keys import own_key

NODE: Final = "node-number"  # Flower's number for this device; only saves time after a crash
_NAME: Final = 16  # hex digits


@dataclass(frozen=True)
class Server:
    """The server that this device belongs to.

    Attributes:
        address: host:port.
        ca: PEM certificate of its authority.
        server: its ledger key, hex.
        roster: the registrar's key, hex.
    """

    address: str
    ca: str
    server: str
    roster: str


def enrol(home: Home, invitation: Path) -> EnrolRequest:
    """Take up an invitation: remember the server, consent to no other, and make the request for the operator.

    Made again from the same or a later invitation of the same server it is the same device that asks.

    Raises:
        DataError: the invitation is broken, or of another server than the one this device belongs to.
        ConfigError: ``consent.toml`` cannot be understood.
    """
    invited = read_pass(invitation)
    if home.server.exists() and read_server(home).server != invited.server:
        raise DataError(
            f"{invitation}: of another server than the one this device belongs to ({home.server}); a device has one "
            "server and one ledger: make another device for another server"
        )
    request = make_request(invited, public_node_key(home), own_key(home.ledger_key))
    consent = read_consent(home.consent) if home.consent.exists() else Consent()
    write_consent(consent.model_copy(update={"servers": (invited.server,), "roster_key": invited.roster}), home.consent)
    said = asdict(Server(invited.address, invited.ca, invited.server, invited.roster))
    write_atomically(home.server, (json.dumps(said, indent=1) + "\n").encode())
    return request


def read_server(home: Home) -> Server:
    """The server that this device belongs to.

    Raises:
        DataError: it belongs to none yet, or the file is not as :func:`enrol` wrote it.
    """
    if not home.server.exists():
        raise DataError(f"{home.server}: this device belongs to no server yet: fedrecall-client enroll INVITATION")
    try:
        said = json.loads(home.server.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{home.server}: cannot be read ({error}); enrol again") from error
    names = {field.name for field in fields(Server)}
    if not isinstance(said, dict) or set(said) != names or any(type(said[name]) is not str for name in names):
        raise DataError(f"{home.server}: expected texts {', '.join(sorted(names))}; enrol again")
    return Server(**said)


def node_key(home: Home) -> EllipticCurvePrivateKey:
    """The key that says to Flower who is there; made on first use.

    Raises:
        DataError: the file holds something else.
    """
    path = home.node_key
    if path.exists():
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise DataError(f"{path}: not an unencrypted PEM private key") from error
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
            raise DataError(f"{path}: expected an EC P-384 key")
        return key
    made = generate_private_key(SECP384R1())
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return made


def public_node_key(home: Home) -> str:
    """The node key's public half, in OpenSSH form."""
    return node_key(home).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def client_name(identity: str) -> str:
    """What both sides' ledgers call a client: the first digits of its ledger key, so that the audit can join them."""
    return identity[:_NAME]


def own_name(home: Home) -> str:
    """This device's name."""
    return client_name(own_key(home.ledger_key).public_key().public_bytes_raw().hex())


def remember_node(home: Home, number: int) -> None:
    """Keep Flower's number for this device; a disk that refuses only costs time after a crash."""
    with suppress(OSError):
        write_atomically(home.folder / NODE, str(number).encode())


def remembered_node(home: Home) -> int:
    """What :func:`remember_node` kept; 0 = nothing."""
    try:
        return int((home.folder / NODE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
