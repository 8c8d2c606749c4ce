"""Who said it: the server's signature on a task, the client's receipt for an answer, and the last receipt sent back.

The server signs every task together with the tip of its ledger after its own intent: a client's intent that names the
tip ties the two ledgers to each other. A client's answer carries its signed round head; with the next task the server
sends it back, so that a client whose ledger was put back to an older state finds out before it spends twice.
Parsers raise :class:`ProtocolError` and nothing else on hostile input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import ConfigRecord, RecordDict

from shared.errors import ProtocolError
from shared.privacy.ledger import Receipt, public_hex, verify_receipt
from shared.protocol import task_digest

_KEY: Final = re.compile(r"[0-9a-f]{64}")
_HASH: Final = _KEY
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")
_MOST: Final = 1 << 53  # lines of a ledger
_OF_A_RECEIPT: Final = {"key": str, "seq": int, "tip": str, "round": int, "signature": str}


@dataclass(frozen=True)
class ServerStamp:
    """What a task says of its sender, once the signature was verified.

    Attributes:
        key: the server's Ed25519 public key, hex.
        ledger: hash of the last line of the server's ledger, its intent, when it sent the task.
    """

    key: str
    ledger: str


@dataclass(frozen=True)
class LastReceipt:
    """The last receipt that the server has of a client: line and chain as in :class:`Receipt`; 0 and "" = none."""

    seq: int
    tip: str


def sign_task(record: RecordDict, signer: Ed25519PrivateKey, tip: str) -> RecordDict:
    """Server: the same task, signed. Sign once and send it to everybody (:func:`addressed`).

    Args:
        record: as :func:`shared.protocol.task_record` made it.
        signer: the server's ledger key.
        tip: of the server's ledger, the task's intent being its last line.
    """
    return RecordDict({**record, "server": stamp(task_digest(record), signer, tip)})


def stamp(digest: str, signer: Ed25519PrivateKey, tip: str) -> ConfigRecord:
    """Server: its signature under anything that has a digest."""
    signature = signer.sign(_signed(digest, tip)).hex()
    return ConfigRecord({"key": public_hex(signer), "ledger": tip, "signature": signature})


def parse_signature(record: RecordDict) -> ServerStamp:
    """Client: who signed this task.

    Raises:
        ProtocolError: nobody, or not over this task.
    """
    try:
        digest = task_digest(record)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ProtocolError("server.signature: there is no task that it could be of") from error
    return read_stamp(_part(record, "server"), digest)


def read_stamp(part: Mapping[str, Any], digest: str) -> ServerStamp:
    """Client: who signed the digest.

    Raises:
        ProtocolError: a field is missing, unknown or of another form, or the signature does not fit.
    """
    said = _exactly(part, "server", {"key": _KEY, "ledger": _HASH, "signature": _SIGNATURE})
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(said["key"]))
        key.verify(bytes.fromhex(said["signature"]), _signed(digest, said["ledger"]))
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError("server.signature: does not fit the task, the ledger's tip and the key") from error
    return ServerStamp(said["key"], said["ledger"])


def addressed(signed: RecordDict, last: Receipt | None) -> RecordDict:
    """Server: the task for the clients whose last receipt is ``last``; all else is the same objects for everybody."""
    seq, tip = (0, "") if last is None else (last.seq, last.tip)
    return RecordDict({**signed, "receipt": ConfigRecord({"seq": seq, "tip": tip})})


def same_task(one: RecordDict, other: RecordDict) -> bool:
    """Whether two messages are one task, by the identity of what all its receivers share."""
    shared = ("task", "arrays", "server")
    return one is other or ("task" in one and all(one.get(name) is other.get(name) for name in shared))


def parse_last(record: RecordDict) -> LastReceipt:
    """Client: what the server says it has of this client.

    Raises:
        ProtocolError: it says nothing, or something that no receipt could be.
    """
    part = _part(record, "receipt")
    if set(part) != {"seq", "tip"}:
        raise ProtocolError("receipt: expected exactly seq and tip")
    seq, tip = part["seq"], part["tip"]
    if type(seq) is not int or not 0 <= seq <= _MOST:
        raise ProtocolError("receipt.seq: expected a whole number of at least 0")
    if type(tip) is not str or (tip != "" if seq == 0 else _HASH.fullmatch(tip) is None):
        raise ProtocolError("receipt.tip: expected 64 lower-case hex digits, or nothing with seq 0")
    return LastReceipt(seq, tip)


def parse_receipt(record: RecordDict) -> Receipt:
    """Server: the receipt of an answer, its signature verified; whose key it should be, the server remembers.

    Raises:
        ProtocolError: there is none, or it is not exactly one that its key signed.
    """
    said = dict(_part(record, "receipt").items())
    if said.keys() != _OF_A_RECEIPT.keys():
        raise ProtocolError("receipt: expected exactly the fields of a receipt")
    for name, kind in _OF_A_RECEIPT.items():
        if type(said[name]) is not kind:
            raise ProtocolError(f"receipt.{name}: expected {'text' if kind is str else 'a whole number'}")
    return _receipt(**said)


@lru_cache(maxsize=1024)
def _receipt(key: str, seq: int, tip: str, round: int, signature: str) -> Receipt:  # noqa: A002 - a receipt's own names
    """A receipt that holds. Cached: clients of one process share one; what does not hold is looked at every time.

    Raises:
        ProtocolError: as :func:`parse_receipt`.
    """
    _exactly(
        {"key": key, "tip": tip, "signature": signature},
        "receipt",
        {"key": _KEY, "tip": _HASH, "signature": _SIGNATURE},
    )
    for name, value, least in (("seq", seq, 1), ("round", round, 0)):
        if not least <= value <= _MOST:
            raise ProtocolError(f"receipt.{name}: expected a whole number of at least {least}")
    receipt = Receipt(key, seq, tip, round, signature)
    if not verify_receipt(receipt):
        raise ProtocolError("receipt.signature: does not fit the ledger's tip, the round and the key")
    return receipt


def _part(record: RecordDict, name: str) -> Mapping[str, Any]:
    part = record.get(name)
    if not isinstance(part, ConfigRecord):
        raise ProtocolError(f"{name}: missing")
    return part


def _exactly(part: Mapping[str, Any], name: str, forms: Mapping[str, re.Pattern[str]]) -> dict[str, str]:
    """Exactly these texts, each of its form.

    Raises:
        ProtocolError: names the field; never repeats what it holds, which may be of any size.
    """
    if set(part) != set(forms):
        raise ProtocolError(f"{name}: expected exactly {', '.join(forms)}")
    for key, form in forms.items():
        if type(part[key]) is not str or form.fullmatch(part[key]) is None:
            raise ProtocolError(f"{name}.{key}: expected lower-case hex digits, {form.pattern}")
    return {key: str(part[key]) for key in forms}


def _signed(digest: str, tip: str) -> bytes:
    """What a server signs. No head of a ledger begins like this, so neither can stand for the other."""
    return f"fedrecall task:{digest}:{tip}".encode()
