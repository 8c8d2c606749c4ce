"""The messages of a secure-aggregation session as Flower carries them; what is inside is in ``shared/secagg``.

Five steps, each a message of the server's and an answer of every client's. The third, the upload, is the task itself
(``shared/protocol.py``) with the graph and the boxes beside it. Parsers raise :class:`ProtocolError` and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from shared.errors import ProtocolError
from shared.privacy.plan import RELEASES, Release
from shared.protocol import LONGEST_TEXT, MALFORMED, Header, header_to_dict, parse_header, vector_of, vector_part
from shared.secagg.masks import Words

Part = ArrayRecord | MetricRecord | ConfigRecord  # what Flower's RecordDict holds
Step = Literal["join", "deal", "agree", "reveal"]
# Flower routes "<category>.<action>"; the upload has the route of its task.
STEP_TYPES: Final[Mapping[Step, str]] = {
    "join": "query.join",
    "deal": "query.deal",
    "agree": "query.agree",
    "reveal": "query.reveal",
}
LARGEST_BLOB: Final = 1 << 26  # bytes: a roster of 100,000 takes 22 MB, its graph 26 MB
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Invitation:
    """Server -> client, join: what the session is for.

    Attributes:
        release, header: as the task will say; the gate decides on them.
        task: SHA-256 of the task, hex: the upload must bring exactly this one.
    """

    release: Release
    header: Header
    task: str


def invitation_record(invitation: Invitation) -> RecordDict:
    """An invitation on the wire, unsigned."""
    said = {"release": invitation.release, "header": header_to_dict(invitation.header), "task": invitation.task}
    return RecordDict({"invitation": ConfigRecord({"json": json.dumps(said, sort_keys=True, allow_nan=False)})})


def invitation_digest(record: RecordDict) -> str:
    """SHA-256 over the invitation, hex; its bytes are the session's name.

    Raises:
        ProtocolError: there is none.
    """
    return hashlib.sha256(_text(record).encode()).hexdigest()


def parse_invitation(record: RecordDict) -> Invitation:
    """An invitation from the wire, every field checked.

    Raises:
        ProtocolError: anything at all is missing, unknown, of another type or out of range.
    """
    try:
        return _invitation(json.loads(_text(record)))
    except ProtocolError:
        raise
    except MALFORMED as error:
        raise ProtocolError(f"malformed invitation: {type(error).__name__}: {error}") from error


def parts(session: bytes, **raw: bytes) -> dict[str, Part]:
    """Server -> client: the session's name and a step's bytes, as inner records that many messages can share."""
    return {"session": ConfigRecord({"name": session}), **_blobs(raw)}


def blob(record: RecordDict, name: str, most: int = LARGEST_BLOB) -> bytes:
    """One part of a message, of at most ``most`` bytes.

    Raises:
        ProtocolError: missing, not bytes, or too large.
    """
    part = record.get(name)
    value = part.get("raw") if isinstance(part, ConfigRecord) and len(part) == 1 else None
    if type(value) is not bytes or len(value) > most:
        raise ProtocolError(f"{name}: expected at most {most} bytes")
    return value


def session_of(record: RecordDict) -> bytes:
    """The session that a message belongs to.

    Raises:
        ProtocolError: it names none.
    """
    part = record.get("session")
    value = part.get("name") if isinstance(part, ConfigRecord) and len(part) == 1 else None
    if type(value) is not bytes or len(value) != hashlib.sha256().digest_size:
        raise ProtocolError("session: expected a name of 32 bytes")
    return value


def step_answer(raw: bytes) -> RecordDict:
    """Client -> server: the answer to any step but the upload."""
    return RecordDict(_blobs({"answer": raw}))


def masked_record(words: Words, attestation: bytes, receipt: ConfigRecord) -> RecordDict:
    """Client -> server: the masked vector, what it was masked under, the receipt; the same size for every history."""
    return RecordDict({"masked": vector_part(words), **_blobs({"attestation": attestation}), "receipt": receipt})


def parse_masked(record: RecordDict, length: int) -> Words:
    """The masked vector of an answer.

    Raises:
        ProtocolError: not a uint32 vector of the right length.
    """
    masked = record.get("masked")
    if not isinstance(masked, ArrayRecord) or "vector" not in masked:
        raise ProtocolError("an answer holds no masked vector")
    return cast("np.ndarray[Any, np.dtype[np.uint32]]", vector_of(masked["vector"], "masked vector", "uint32", length))


def _invitation(said: Mapping[str, Any]) -> Invitation:
    if set(said) != {"release", "header", "task"} or said["release"] not in RELEASES:
        raise ProtocolError("invitation: expected exactly a known release, a header and a task")
    if type(said["task"]) is not str or _DIGEST.fullmatch(said["task"]) is None:
        raise ProtocolError("invitation.task: expected 64 lower-case hex digits")
    return Invitation(said["release"], parse_header(said["header"]), said["task"])


def _text(record: RecordDict) -> str:
    part = record.get("invitation")
    text = part.get("json") if isinstance(part, ConfigRecord) and len(part) == 1 else None
    if type(text) is not str or len(text) > LONGEST_TEXT:
        raise ProtocolError(f"invitation: expected one JSON text of at most {LONGEST_TEXT} characters")
    return text


def _blobs(raw: Mapping[str, bytes]) -> dict[str, Part]:
    return {name: ConfigRecord({"raw": value}) for name, value in raw.items()}
