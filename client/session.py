"""A client's part in secure aggregation: the steps around the upload, and the mask on what :func:`release` sealed.

A seat is kept from one message to the next, and given up for good at the first thing that is not as it should be; a
client that lost its seat (a restart, a crash) has dropped out of that session. Nothing of its user is in a seat.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.privacy.plan import PrivacyPlan
from shared.protocol import MALFORMED, parse_header
from shared.secagg import client
from shared.secagg.masks import Words
from shared.secagg.messages import NO_REGISTRATION
from shared.secagg.shamir import Entropy
from shared.sessions import Invitation, blob, session_of


@dataclass(frozen=True)
class Seat:
    """One client's place in one session.

    Attributes:
        member: what the protocol remembers.
        task: digest of the task that the session is for, hex; no other is answered in it.
    """

    member: client.Member
    task: str


@dataclass(frozen=True)
class Credentials:
    """What a client signs with in sessions, and whom it trusts to know the others.

    Attributes:
        identity: its registered key.
        registration: an independent registrar's signature over it, if it has one.
        registrar: key whose signature all members must carry, from consent; None = not asked for.
    """

    identity: Ed25519PrivateKey
    registration: bytes | None = None
    registrar: bytes | None = None


def join(digest: str, invitation: Invitation, credentials: Credentials, entropy: Entropy) -> tuple[Seat, bytes]:
    """Step 1: take a seat in the session that the invitation's digest names. Nothing is charged before the upload."""
    plan = invitation.header.plan
    registration = credentials.registration or NO_REGISTRATION
    smallest, colluders = _sizes(plan)
    session = bytes.fromhex(digest)
    member, advert = client.join(session, smallest, colluders, credentials.identity, entropy, registration)
    return Seat(member, invitation.task), advert.pack()


def deal(record: RecordDict, seat: Seat, credentials: Credentials, entropy: Entropy) -> tuple[Seat, bytes]:
    """Step 2: on the roster, deal shares.

    Raises:
        ProtocolError: see :func:`shared.secagg.client.deal`; another session than the seat's.
    """
    _check(record, seat)
    member, deals = client.deal(
        seat.member, blob(record, "roster"), credentials.identity, entropy, credentials.registrar
    )
    return replace(seat, member=member), deals.pack()


def ready(record: RecordDict, seat: Seat | None, task: str) -> None:
    """Before the gate: whether a task can be answered in a session at all, so that nobody pays for one that cannot.

    Raises:
        ProtocolError: no seat, one of another task or session, one that has uploaded already, or one in a session whose
            terms are not those of the task's plan.
    """
    if seat is None:
        raise ProtocolError("secagg: a task of a plan that needs secure aggregation, outside of any session")
    _check(record, seat)
    if seat.task != task or seat.member.phase != client.DEALT:
        raise ProtocolError("secagg: another task than the session is for, or one that was answered in it")
    if (seat.member.smallest, seat.member.colluders) != _terms(str(record.config_records["task"]["json"])):
        raise ProtocolError("secagg: a task whose plan is not the one that the invitation named")


def mask(
    record: RecordDict, seat: Seat, sealed: NDArray[np.int32], credentials: Credentials
) -> tuple[Seat, Words, bytes]:
    """Step 3: mask what was sealed and paid for, and sign under which graph.

    Raises:
        ProtocolError: see :func:`shared.secagg.client.mask`.
    """
    member, words = client.mask(seat.member, blob(record, "graph"), blob(record, "boxes"), sealed)
    return replace(seat, member=member), words, client.attest(member, credentials.identity)


def agree(record: RecordDict, seat: Seat, credentials: Credentials) -> tuple[Seat, bytes]:
    """Step 4: sign the set of survivors.

    Raises:
        ProtocolError: see :func:`shared.secagg.client.agree`.
    """
    _check(record, seat)
    member, signature = client.agree(seat.member, blob(record, "survivors"), credentials.identity)
    return replace(seat, member=member), signature


def reveal(record: RecordDict, seat: Seat) -> bytes:
    """Step 5: reveal one share of each secret held; the seat is given up with it.

    Raises:
        ProtocolError: see :func:`shared.secagg.client.reveal`.
    """
    _check(record, seat)
    return client.reveal(seat.member, blob(record, "signatures")).pack()


def seat_bytes(seat: Seat) -> bytes:
    """A seat as it is kept between two messages, on this side; JSON, bytes in hex."""
    member = {name: value.hex() if isinstance(value, bytes) else value for name, value in asdict(seat.member).items()}
    return json.dumps({"member": member, "task": seat.task}).encode()


def seat_of(raw: bytes) -> Seat:
    """The inverse of :func:`seat_bytes`.

    Raises:
        ProtocolError: these are not its bytes.
    """
    try:
        said = json.loads(raw)
        member = dict(said["member"])
        for field in fields(client.Member):
            if field.type == "bytes":
                member[field.name] = bytes.fromhex(member[field.name])
        for name in ("picks", "dealers"):
            member[name] = tuple(int(number) for number in member[name])
        return Seat(client.Member(**member), str(said["task"]))
    except MALFORMED as error:
        raise ProtocolError("secagg: what was kept of a session cannot be read") from error


@lru_cache(maxsize=1)
def _terms(task: str) -> tuple[int, int]:
    """What the task's plan asks of a session: smallest cohort, colluders. Cached: a process's clients share one task.

    The digest alone would let an invitation name another plan: noise sized for a large cohort, in a small session.
    """
    plan = parse_header(json.loads(task)["header"]).plan
    return _sizes(plan)


def _sizes(plan: PrivacyPlan) -> tuple[int, int]:
    """Smallest and colluders of a session; a plan whose cohorts may be empty has none then."""
    return max(1, plan.smallest_cohort), plan.colluders


def _check(record: RecordDict, seat: Seat) -> None:
    if session_of(record) != seat.member.session:
        raise ProtocolError("secagg: a message of another session than the one this client sits in")
