"""One task under secure aggregation: five steps over Flower's Grid, and the sum at the end.

The server sees who takes part, keys, boxes, masked vectors and shares; of the vectors, their sum alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from server.exchange import Answers, Post, payloads, replies
from shared.errors import ProtocolError
from shared.privacy.ledger import Receipt
from shared.protocol import is_declined
from shared.secagg import server
from shared.secagg.keys import SIGNATURE
from shared.secagg.messages import ADVERT, deals_size, reveal_size
from shared.sessions import STEP_TYPES, Step, blob, parse_masked, parts


@dataclass(frozen=True)
class Session:
    """What a session is about; all public.

    Attributes:
        name: 32 bytes.
        smallest, colluders: of the plan.
        registered: identities that may take part; None = any.
        message_type: route of the task.
        length: of the vectors.
        largest: entries of one honest vector are no larger; a sum of more than that for each survivor is garbage.
    """

    name: bytes
    smallest: int
    colluders: int
    registered: Collection[bytes] | None
    message_type: str
    length: int
    largest: float


@dataclass
class _Tally:
    """What became of everybody, and the bytes; a class because the steps add to it one after the other."""

    declined: set[str] = field(default_factory=set)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    attestations: dict[str, bytes] = field(default_factory=dict)
    up: int = 0
    down: int = 0


def secure_exchange(
    post: Post,
    session: Session,
    invitations: Mapping[str, RecordDict],
    tasks: Mapping[str, RecordDict],
    receipt_of: Callable[[str, RecordDict], Receipt],
) -> Answers:
    """Ask every client of the cohort once, under masks.

    Args:
        post: Flower's grid, the nodes, how long to wait in each step.
        session: what for.
        invitations, tasks: client -> message, signed, with that client's last receipt.
        receipt_of: (client, answer) -> its receipt; raises ProtocolError for one that must not count.

    Returns:
        The sum over the survivors, those whose masked vectors arrived; not enough, and why, when a step lacks a quorum.
    """
    tally, why = _Tally(), ""
    total = np.zeros(session.length, np.int64)
    try:
        total = _run(post, session, tally, invitations, tasks, receipt_of)
        if np.abs(total).max(initial=0) > session.largest * len(tally.receipts):
            why = "the sum is larger than honest vectors can make it: somebody sent garbage"
    except ProtocolError as error:
        why = str(error)
    survivors = tuple(client for client in tasks if client in tally.receipts)
    declined = tuple(client for client in tasks if client in tally.declined and client not in tally.receipts)
    failed = tuple(client for client in tasks if client not in tally.receipts and client not in tally.declined)
    return Answers(total, survivors, declined, failed, tally.up, tally.down, not why, tally.receipts, why)


def _run(
    post: Post,
    session: Session,
    tally: _Tally,
    invitations: Mapping[str, RecordDict],
    tasks: Mapping[str, RecordDict],
    receipt_of: Callable[[str, RecordDict], Receipt],
) -> NDArray[np.int64]:
    """The five steps.

    Raises:
        ProtocolError: a step lacks a quorum; says which.
    """
    adverts = _step(post, tally, "join", invitations, ADVERT)
    assembly = server.assemble(session.name, session.smallest, session.colluders, adverts, session.registered)

    roster = RecordDict(parts(session.name, roster=assembly.roster.raw))
    size = deals_size(assembly.terms.neighbours)
    dealt = server.collect(assembly, _step(post, tally, "deal", dict.fromkeys(assembly.names, roster), size))

    boxes, shared = server.boxes_for(assembly, dealt), parts(session.name, graph=dealt.raw)
    uploads = {
        client: RecordDict({**tasks[client], **shared, **parts(session.name, boxes=raw), "session": shared["session"]})
        for client, raw in boxes.items()
    }
    masked = _upload(post, session, tally, uploads, receipt_of, partial(server.admit, assembly, dealt))

    survivors = server.survivors_of(assembly, tally.receipts)
    alive = RecordDict(parts(session.name, survivors=survivors))
    signatures = _step(post, tally, "agree", dict.fromkeys(tally.receipts, alive), SIGNATURE)

    endorsed = server.endorse(assembly, dealt, survivors, signatures, tally.attestations)
    signed = RecordDict(parts(session.name, signatures=endorsed))
    reveals = _step(post, tally, "reveal", dict.fromkeys(signatures, signed), reveal_size(len(assembly.names)))
    return server.unmask(assembly, dealt, survivors, masked, reveals)


def _step(post: Post, tally: _Tally, step: Step, records: Mapping[str, RecordDict], most: int) -> dict[str, bytes]:
    """One step with everybody still there: client -> its answer, of at most ``most`` bytes."""
    answers: dict[str, bytes] = {}
    tally.down += payloads(records)
    for client, reply in replies(post, records, STEP_TYPES[step]):
        if reply.has_error():
            continue
        if is_declined(reply.content):
            tally.declined.add(client)
            continue
        try:
            answers[client] = blob(reply.content, "answer", most)
        except ProtocolError:
            continue
        tally.up += len(answers[client])
    return answers


def _upload(
    post: Post,
    session: Session,
    tally: _Tally,
    uploads: Mapping[str, RecordDict],
    receipt_of: Callable[[str, RecordDict], Receipt],
    admit: Callable[[str, bytes], None],
) -> NDArray[np.uint32]:
    """The third step: the sum of the masked vectors as they come; the tally's receipts say whose are in it."""
    total = np.zeros(session.length, np.uint32)
    tally.down += payloads(uploads)
    for client, reply in replies(post, uploads, session.message_type):
        if reply.has_error():
            continue
        if is_declined(reply.content):
            tally.declined.add(client)
            continue
        try:
            words = parse_masked(reply.content, session.length)
            attestation = blob(reply.content, "attestation", SIGNATURE)
            admit(client, attestation)
            tally.receipts[client] = receipt_of(client, reply.content)
        except ProtocolError:
            continue
        tally.attestations[client] = attestation
        total += words
        tally.up += words.nbytes + len(attestation)
    return total
