"""What a server gives out for serving: catalogue, model, policy, what is trending. Public, numbered, signed.

A publication asks for nothing and releases nothing: the answer is one of two constant records, whatever the device
holds or does with it. It travels like a task, so that devices need no second way to the server. Parsers raise
:class:`ProtocolError` and nothing else on hostile input.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from shared.encoder.spec import EncoderSpec, Floats
from shared.errors import ProtocolError
from shared.policy.recall_policy import RecallPolicy, check_prices, policy_from_dict, policy_to_dict
from shared.proofs import read_stamp, stamp
from shared.protocol import LONGEST_TEXT, MALFORMED, finite_vector, parse_spec, vector_of
from shared.recall.item_rules import ItemRules, rules_from_dict, rules_to_dict
from shared.secagg.keys import SIGNATURE

ROUTE: Final = "query.publication"
RECEIVED: Final = "received"
_MOST_BYTES: Final = 1 << 30  # of a catalogue or its change
_MOST_ITEMS: Final = 10_000  # named one by one
_LONGEST_ID: Final = 200  # characters
_LATEST: Final = 1 << 53


@dataclass(frozen=True)
class PublishedModel:
    """A model as devices serve with it.

    Attributes:
        spec, parameters, prior: the encoder, its flat vector, (buckets,) log private popularity.
        trained: version of the catalogue that it was trained with.
        policy: in force.
        rules: what is never shown.
    """

    spec: EncoderSpec
    parameters: Floats
    prior: Floats
    trained: str
    policy: RecallPolicy
    rules: ItemRules


@dataclass(frozen=True)
class Publication:
    """One issue; a later one replaces it whole, but for the catalogue, which may come as a change.

    Attributes:
        number: rises with every issue of a server; a device takes none that is not above its last.
        run, round: where the model comes from; "" and 0 before there is one.
        base: catalogue version that ``change`` applies to; "" = ``change`` is a whole catalogue; with no bytes in
            ``change`` the catalogue stays what it is and ``base`` is its version.
        catalogue: version of the catalogue afterwards.
        change: bytes of ``shared/catalogue_change.py``, or of a catalogue file.
        unavailable: raw ids of items that cannot be had at the moment.
        trending: raw ids, hottest first; from a private release.
        registration: the registrar's signature over this client's key; b"" = none.
        model: None before the first round.
    """

    number: int
    run: str
    round: int
    base: str
    catalogue: str
    change: bytes
    unavailable: tuple[str, ...]
    trending: tuple[str, ...]
    registration: bytes
    model: PublishedModel | None


def publication_record(publication: Publication, signer: Ed25519PrivateKey, tip: str) -> RecordDict:
    """Server: a publication on the wire, signed.

    Args:
        publication: what is given out.
        signer: the server's ledger key.
        tip: of the server's ledger.
    """
    said = {field.name: getattr(publication, field.name) for field in fields(Publication)}
    model = said.pop("model")
    said |= {"change": hashlib.sha256(publication.change).hexdigest(), "registration": publication.registration.hex()}
    arrays: dict[str, NDArray[Any]] = {"change": np.frombuffer(publication.change, np.uint8)}
    if model is not None:
        arrays |= {"parameters": model.parameters, "prior": model.prior}
        said["model"] = {
            "spec": asdict(model.spec),
            "trained": model.trained,
            "policy": policy_to_dict(model.policy),
            "rules": rules_to_dict(model.rules),
        }
    text = json.dumps(said, sort_keys=True, allow_nan=False)
    record = RecordDict(
        {
            "publication": ConfigRecord({"json": text}),
            "arrays": ArrayRecord({name: Array(value) for name, value in arrays.items()}),
        }
    )
    return RecordDict({**record, "server": stamp(_digest(record), signer, tip)})


def is_publication(record: RecordDict) -> bool:
    """Whether a message is one, or says so."""
    return "publication" in record


def parse_publication(record: RecordDict, server: str) -> Publication:
    """Client: a publication of the server that this device knows, every field checked.

    Args:
        record: from the wire.
        server: the server's Ed25519 public key, hex.

    Raises:
        ProtocolError: malformed, not signed, or signed by somebody else.
    """
    try:
        key = read_stamp(record.config_records["server"], _digest(record)).key
        _is_key(key, server)
        return _publication(record)
    except ProtocolError:
        raise
    except MALFORMED as error:
        raise ProtocolError(f"malformed publication: {type(error).__name__}: {error}") from error


def received_record() -> RecordDict:
    """Client -> server: it was taken; a constant. What was not taken is answered like a task that is declined."""
    return RecordDict({"status": ConfigRecord({"code": RECEIVED})})


def is_received(record: RecordDict) -> bool:
    """Whether an answer says that a publication was taken."""
    status = record.config_records.get("status")
    return status is not None and status.get("code") == RECEIVED


def _digest(record: RecordDict) -> str:
    digest = hashlib.sha256(str(record.config_records["publication"]["json"]).encode())
    for name, array in sorted(record.array_records["arrays"].items()):
        digest.update(name.encode() + array.data)
    return digest.hexdigest()


def _is_key(key: str, server: str) -> None:
    if key != server:
        raise ProtocolError(f"publication: signed by {key[:16]}…, expected {server[:16]}…")


def _publication(record: RecordDict) -> Publication:
    text = record.config_records["publication"]["json"]
    if type(text) is not str or len(text) > LONGEST_TEXT:
        raise ProtocolError(f"publication: expected one JSON text of at most {LONGEST_TEXT} characters")
    said = json.loads(text)
    expected = {field.name for field in fields(Publication)}
    if set(said) not in (expected, expected - {"model"}):
        raise ProtocolError(f"publication: fields {sorted(said)}, expected {sorted(expected)}")
    for name in ("number", "round"):
        if type(said[name]) is not int or not 0 <= said[name] <= _LATEST:
            raise ProtocolError(f"publication.{name}: {said[name]!r}, expected a whole number of at least 0")
    if type(said["run"]) is not str or len(said["run"]) > _LONGEST_ID:
        raise ProtocolError(f"publication.run: expected a text of at most {_LONGEST_ID} characters")
    if said["base"]:
        _version(said["base"], "base")
    _version(said["catalogue"], "catalogue")
    arrays = record.array_records["arrays"]
    change = bytes(_bytes_of(arrays["change"]))
    if hashlib.sha256(change).hexdigest() != said["change"]:
        raise ProtocolError("publication.change: the bytes are not those that it names")
    registration = bytes.fromhex(said["registration"])
    if registration and len(registration) != SIGNATURE:
        raise ProtocolError(f"publication.registration: {len(registration)} bytes, expected {SIGNATURE}")
    return Publication(
        said["number"],
        said["run"],
        said["round"],
        said["base"],
        said["catalogue"],
        change,
        _ids(said["unavailable"], "unavailable"),
        _ids(said["trending"], "trending"),
        registration,
        _model(said["model"], arrays) if "model" in said else None,
    )


def _model(said: Mapping[str, Any], arrays: ArrayRecord) -> PublishedModel:
    if set(said) != {"spec", "trained", "policy", "rules"}:
        raise ProtocolError(f"publication.model: fields {sorted(said)} are not those of a model")
    spec = parse_spec(said["spec"])
    _version(said["trained"], "model.trained")
    policy = policy_from_dict(said["policy"])
    check_prices(policy, spec.buckets)
    parameters = finite_vector(arrays["parameters"], "parameters", spec.size)
    prior = finite_vector(arrays["prior"], "prior", spec.buckets)
    return PublishedModel(spec, parameters, prior, said["trained"], policy, rules_from_dict(said["rules"]))


def _version(value: object, name: str) -> None:
    if type(value) is not str or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ProtocolError(f"publication.{name}: {value!r}, expected a catalogue's version, 64 hex digits")


def _ids(raw: Sequence[object], name: str) -> tuple[str, ...]:
    if type(raw) is not list or len(raw) > _MOST_ITEMS:
        raise ProtocolError(f"publication.{name}: expected a list of at most {_MOST_ITEMS} item ids")
    if any(type(one) is not str or not 1 <= len(one) <= _LONGEST_ID for one in raw):
        raise ProtocolError(f"publication.{name}: an item id is a text of 1 to {_LONGEST_ID} characters")
    return tuple(cast("list[str]", raw))


def _bytes_of(array: Array) -> NDArray[np.uint8]:
    length = array.shape[0] if len(array.shape) == 1 else -1
    if not 0 <= length <= _MOST_BYTES:
        raise ProtocolError(f"publication.change: shape {array.shape}, expected at most {_MOST_BYTES} bytes")
    return cast("NDArray[np.uint8]", vector_of(array, "change", "uint8", length))
