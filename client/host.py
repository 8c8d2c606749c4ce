"""The clients that one process serves, and how they answer tasks.

A phone's process serves one client with one user; a shop's one client with many; a simulator's all of them. The code
is the same: tasks that are equal are answered as one batch, one Opacus sample a user, whatever the number of clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict
from numpy.typing import NDArray

from client import session
from client.consent import MISSING, Consent, permitted
from client.contributions import People, contributions
from client.gate import Gate, Request, learn, refusals
from client.release import decline, held_against, release
from client.session import Credentials, Seat
from client.store import ClientStore, ages_of
from shared.catalogue import Catalogue
from shared.device import Device
from shared.errors import DeclinedError, FedrecallError, LedgerError, ProtocolError
from shared.privacy.ledger import Line, Receipt, create_ledger, open_ledger
from shared.privacy.noise import NoiseSource
from shared.privacy.plan import Release
from shared.proofs import LastReceipt, ServerStamp, parse_last, parse_signature, read_stamp, same_task
from shared.protocol import (
    Header,
    MeasureTask,
    Task,
    TrainTask,
    TrendingTask,
    declined_record,
    parse_task,
    receipt_part,
    release_of,
    sealed_record,
    task_digest,
    vector_length,
)
from shared.secagg.shamir import Entropy
from shared.sessions import invitation_digest, masked_record, parse_invitation, step_answer

LONGEST_CLAUSE: Final = 300  # characters: a server must not fill a ledger with what it writes into a task


@dataclass(frozen=True)
class Randomness:
    """Where chance comes from: the operating system in a deployment, keyed by name in a seeded simulation.

    Attributes:
        noise: (client, round, release) -> source of privacy noise.
        key: (user, round) -> 64-bit word, all a user's chance in the splits and negatives of training; no privacy rests
            on it.
        rng: (user, round) -> generator for exploration in measuring; no privacy rests on it.
        entropy: (client, session, step) -> source of the secrets of secure aggregation.
    """

    noise: Callable[[str, int, str], NoiseSource]
    key: Callable[[str, int], int]
    rng: Callable[[str, int], np.random.Generator]
    entropy: Callable[[str, str, str], Entropy]


@dataclass
class Host:
    """One process's clients. Not frozen: it owns an open ledger.

    Attributes:
        stores: client name -> behaviour. Looked up when a client is asked, never listed: a mapping may make them then.
        catalogue: the public catalogue on this side.
        path: of the ledger; begun when there is none.
        signer: the ledger's key.
        randomness: see :class:`Randomness`.
        consents: client name -> consent; who has none declines everything.
        clock: this side's day.
        identity: client -> its registered key, which signs in secure aggregation.
        unconsented: the clause for who has no consent.
        registrations: client -> an independent registrar's signature over its key.
        masked: whether tasks are answered under masks; False only in a simulation that idealises the sum.
        device: what local training computes on, "auto", "cpu" or "cuda"; clip, grid and noise are the CPU's.
        replay_from: see :func:`shared.privacy.ledger.open_ledger`.
    """

    stores: Mapping[str, ClientStore]
    catalogue: Catalogue
    path: Path
    signer: Ed25519PrivateKey
    randomness: Randomness
    consents: Mapping[str, Consent]
    clock: Callable[[], date]
    identity: Callable[[str], Ed25519PrivateKey]
    unconsented: str = MISSING
    registrations: Mapping[str, bytes] = field(default_factory=dict)
    masked: bool = True
    device: Device = "cpu"
    replay_from: int | None = None

    def __post_init__(self) -> None:
        """Open or begin the ledger, and learn from it alone what is pinned and spent.

        Raises:
            LedgerError: the ledger is broken, locked, or of another key.
        """
        self.seats: dict[str, Seat] = {}
        self.broken: Exception | None = None  # what keeps the ledger from being written, once something did
        self.gate = Gate(self.catalogue.version(), self.consents, self.unconsented)

        def visit(line: Line) -> None:
            learn(self.gate, line.event, f"{self.path}:{line.number}")

        if self.path.exists():
            self.ledger = open_ledger(self.path, self.signer, replay_from=self.replay_from, visit=visit)
        else:
            self.ledger = create_ledger(self.path, self.signer, {"type": "opened"})

    def close(self) -> None:
        """Release the ledger."""
        self.ledger.close()


def answer(host: Host, client: str, record: RecordDict) -> RecordDict:
    """One client's answer to one message; the batch of one."""
    return answer_all(host, {client: record})[client]


def answer_all(host: Host, asked: Mapping[str, RecordDict]) -> dict[str, RecordDict]:
    """The answers of several clients of this process to messages of one kind: a task, or a step of its session.

    Whatever goes wrong, the server hears ``declined`` and nothing else: no text, no type of error.

    Args:
        host: the clients.
        asked: client -> its message; tasks are the same but for what is each client's own.

    Returns:
        client -> answer, one for each client asked.

    Raises:
        RuntimeError: the messages are of different tasks (a wrong call of this side's).
    """
    first = next(iter(asked.values()), None)
    if first is None:
        return {}
    known = {client: record for client, record in asked.items() if client in host.stores}
    step = next((step for part, step in _STEPS.items() if part in first), None)
    if step is not None:
        answers = {client: _step(host, client, record, step) for client, record in known.items()}
    elif any(not same_task(record, first) for record in asked.values()):
        raise RuntimeError("answer_all: the messages are not of one task")
    else:
        answers = _caught(host, known) if known else {}
    return {client: answers[client] if client in answers else declined_record() for client in asked}


def _caught(host: Host, asked: Mapping[str, RecordDict]) -> dict[str, RecordDict]:
    """The answers to a task; who is missing declined, everybody when anything went wrong."""
    try:
        return _task(host, asked)
    except Exception as error:  # noqa: BLE001 - the net: whatever it is, neither its type nor its text may cross
        for client in asked:
            host.seats.pop(client, None)
        _note(host, list(asked), error)
        return {}


def released(
    host: Host, task: Task, asked: Mapping[str, RecordDict]
) -> tuple[dict[str, NDArray[np.int32]], Receipt | None]:
    """From messages to sealed vectors, through the one door. Of clients that are here.

    Returns:
        As :func:`client.release.release`: who is missing declined, and its ledger says why.

    Raises:
        FedrecallError: the message is no task of a server for this catalogue; nobody was charged.
    """
    record = next(iter(asked.values()))
    request = _request(
        release_of(task),
        task.header,
        task_digest(record),
        parse_signature(record),
        features=_features(task),
        length=vector_length(task),
    )
    _check(host, task)
    today, stores = host.clock(), {client: host.stores[client] for client in asked}

    def noise(client: str) -> NoiseSource:
        return host.randomness.noise(client, request.round * 1000 + request.attempt, request.release)

    people = People(
        users=lambda client: stores[client].users,
        histories=lambda client: permitted(stores[client].histories, host.consents[client].behaviour),
        ages=lambda client: ages_of(stores[client]),
        catalogue=host.catalogue,
        key=host.randomness.key,
        rng=host.randomness.rng,
        noise=noise,
        today=today,
        device=host.device,
    )
    return release(
        request,
        _last_receipts(host, asked),
        lambda client: len(stores[client].users),
        lambda admitted: contributions(people, admitted, task, private=request.private),
        gate=host.gate,
        today=today,
        ledger=host.ledger,
        noise=noise,
    )


def _task(host: Host, asked: Mapping[str, RecordDict]) -> dict[str, RecordDict]:
    """A task: through the one door, then under a mask unless every vector is private on its own (trust local)."""
    first = next(iter(asked.values()))
    task = parse_task(first)
    if task.header.plan.trust == "local" or not host.masked:
        for client in asked:
            host.seats.pop(client, None)  # a task without a mask is none of a session that a client sits in
        sealed, receipt = released(host, task, asked)
        if receipt is None:
            return {}
        said = receipt_part(receipt)
        return {client: sealed_record(vector, said) for client, vector in sealed.items()}
    digest = task_digest(first)
    seated = {client: record for client, record in asked.items() if _sits(host, client, record, digest)}
    sealed, receipt = released(host, task, seated) if seated else ({}, None)
    part = None if receipt is None else receipt_part(receipt)
    answers: dict[str, RecordDict] = {}
    for client, record in seated.items():
        seat = host.seats.pop(client)
        if client in sealed and part is not None:
            try:
                seat, words, attestation = session.mask(record, seat, sealed[client], _credentials(host, client))
                host.seats[client], answers[client] = seat, masked_record(words, attestation, part)
            except ProtocolError as error:
                _note(host, [client], error)
    return answers


def _sits(host: Host, client: str, record: RecordDict, digest: str) -> bool:
    """Whether a client can answer a task in its session; asked before anybody pays."""
    try:
        session.ready(record, host.seats.get(client), digest)
    except ProtocolError as error:
        host.seats.pop(client, None)
        _note(host, [client], error)
        return False
    return True


def _step(host: Host, client: str, record: RecordDict, step: Step) -> RecordDict:
    """One client's answer to a step; the seat is given up when anything is not as it should be."""
    try:
        raw = step(host, client, record)
    except Exception as error:  # noqa: BLE001 - the net, as above
        host.seats.pop(client, None)
        _note(host, [client], error)
        return declined_record()
    if raw is None:
        host.seats.pop(client, None)
        return declined_record()
    return step_answer(raw)


def _join(host: Host, client: str, record: RecordDict) -> bytes | None:
    """The gate looks at the invitation already, so that who will decline is not waited for; nothing is paid yet."""
    invitation = parse_invitation(record)
    digest = invitation_digest(record)
    last = parse_last(record)
    server = read_stamp(record.config_records.get("server", {}), digest)
    # Features and length are the task's to say; the gate looks again then.
    request = _request(invitation.release, invitation.header, invitation.task, server)
    behind = held_against(host.ledger, {client: last})
    for clause in refusals(host.gate, request, behind, today=host.clock()).values():
        host.ledger.append([decline(request, client, clause)])
        return None
    entropy = host.randomness.entropy(client, digest, "join")
    host.seats[client], raw = session.join(digest, invitation, _credentials(host, client), entropy)
    return raw


def _deal(host: Host, client: str, record: RecordDict) -> bytes:
    seat = _seat(host, client)
    entropy = host.randomness.entropy(client, seat.member.session.hex(), "deal")
    host.seats[client], raw = session.deal(record, seat, _credentials(host, client), entropy)
    return raw


def _agree(host: Host, client: str, record: RecordDict) -> bytes:
    host.seats[client], raw = session.agree(record, _seat(host, client), _credentials(host, client))
    return raw


def _reveal(host: Host, client: str, record: RecordDict) -> bytes:
    seat = _seat(host, client)
    del host.seats[client]  # whatever comes of it, nothing is revealed twice
    return session.reveal(record, seat)


def _seat(host: Host, client: str) -> Seat:
    if client not in host.seats:
        raise ProtocolError("secagg: a step of a session that this client does not sit in")
    consent = host.consents.get(client)
    if consent is None or not consent.enabled:  # switched off since it sat down: nothing more is said
        raise DeclinedError("consent.enabled: this client takes part in nothing" if consent else host.unconsented)
    return host.seats[client]


def _credentials(host: Host, client: str) -> Credentials:
    """What a client signs with.

    Raises:
        DeclinedError: its consent is gone, or cannot be understood any more.
    """
    if client not in host.consents:
        raise DeclinedError(host.unconsented)
    key = host.consents[client].roster_key
    return Credentials(host.identity(client), host.registrations.get(client), bytes.fromhex(key) if key else None)


def _request(
    kind: Release, header: Header, digest: str, server: ServerStamp, *, features: tuple[str, ...] = (), length: int = 0
) -> Request:
    """What a header asks for, as the gate sees it."""
    return Request(
        release=kind,
        run=header.run,
        round=header.round,
        attempt=header.attempt,
        plan=header.plan,
        catalogue=header.catalogue,
        features=features,
        server=server,
        digest=digest,
        length=length,
        private=kind == "update" and header.plan.trust == "local",
    )


def _features(task: Task) -> tuple[str, ...]:
    """The feature groups that a task switches on: in its policy, and in those it only scores, here, all the same."""
    policies = [task.policy] if isinstance(task, TrainTask | MeasureTask) else []
    policies += task.shadows if isinstance(task, MeasureTask) else ()
    return tuple(dict.fromkeys(group for policy in policies for group in policy.features))


def _last_receipts(host: Host, asked: Mapping[str, RecordDict]) -> dict[str, LastReceipt]:
    """What the server says that each client answered last; whose message does not say it declines."""
    last: dict[str, LastReceipt] = {}
    said: dict[int, LastReceipt] = {}  # clients of whom the server has the same receipt share one record
    for client, record in asked.items():
        try:
            if id(record) not in said:
                said[id(record)] = parse_last(record)
            last[client] = said[id(record)]
        except ProtocolError as error:
            _note(host, [client], error)
    return last


def _check(host: Host, task: Task) -> None:
    """What a task must say for this client's catalogue and its plan; before anything is pinned or charged.

    Raises:
        ProtocolError: sizes that are not the catalogue's, or another number of local steps than the plan accounts for.
    """
    header = task.header
    read = host.catalogue.groups.get(header.encoder.reads)
    width, items = 0 if read is None else read.shape[1], len(host.catalogue.ids)
    if header.encoder.text_width != width or header.encoder.buckets > items:
        raise ProtocolError(f"an encoder for {header.encoder}, but this catalogue has {items} items of width {width}")
    if isinstance(task, TrendingTask) and task.items != items:
        raise ProtocolError(f"a count of {task.items} items, but this catalogue has {items}")
    steps = header.plan.update.inner_steps
    if header.plan.trust == "local" and isinstance(task, TrainTask) and task.policy.local_iterations != steps:
        raise ProtocolError(f"{task.policy.local_iterations} local steps, but the plan accounts for {steps}")


def _note(host: Host, clients: Sequence[str], error: Exception) -> None:
    """Keep what went wrong on this side, in the ledger."""
    clause = f"{type(error).__name__}: {error}"[:LONGEST_CLAUSE]
    try:
        host.ledger.append([{"type": "decline", "client": client, "clause": clause} for client in clients])
    except (FedrecallError, OSError, RuntimeError) as failure:  # may be what went wrong in the first place
        host.broken = host.broken or (error if isinstance(error, OSError | LedgerError) else failure)


Step = Callable[[Host, str, RecordDict], bytes | None]  # None: refused
_STEPS: Final[Mapping[str, Step]] = {"invitation": _join, "roster": _deal, "survivors": _agree, "signatures": _reveal}
