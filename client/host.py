"""The clients that one process serves, and how they answer tasks.

A phone's process serves one client with one user; a shop's one client with many; a simulator's all of them. The code
is the same: tasks that are equal are answered as one batch, one Opacus sample a user, whatever the number of clients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict
from numpy.typing import NDArray

from client.gate import Gate, Spend, count_spend, gate_of
from client.measuring import lists, measurement_rows, popularity_rows
from client.release import Request, release
from client.store import ClientStore
from client.units import as_units
from shared.catalogue import Catalogue
from shared.encoder.spec import bucket_of
from shared.errors import FedrecallError, ProtocolError
from shared.history import History
from shared.privacy.ledger import Ledger, create_ledger, open_ledger, read_ledger
from shared.privacy.noise import NoiseSource
from shared.protocol import (
    MeasureTask,
    StatisticsTask,
    Task,
    TrainTask,
    declined_record,
    parse_task,
    release_of,
    sealed_record,
    task_digest,
    vector_length,
)

LONGEST_CLAUSE: Final = 300  # characters: a server must not fill a ledger with what it writes into a task


@dataclass(frozen=True)
class Randomness:
    """Where chance comes from: the operating system in a deployment, keyed by name in a seeded simulation.

    Attributes:
        noise: (client, round, release) -> source of privacy noise.
        rng: (user, round) -> generator for splits and negatives; no privacy rests on it.
    """

    noise: Callable[[str, int, str], NoiseSource]
    rng: Callable[[str, int], np.random.Generator]


@dataclass
class Host:
    """One process's clients. Not frozen: it owns an open ledger, which is created with the first task.

    Attributes:
        stores: client name -> behaviour.
        catalogue: the public catalogue on this side.
        path: of the ledger.
        signer: the ledger's key.
        randomness: see :class:`Randomness`.
        replay_from: see :func:`shared.privacy.ledger.open_ledger`.
    """

    stores: Mapping[str, ClientStore]
    catalogue: Catalogue
    path: Path
    signer: Ed25519PrivateKey
    randomness: Randomness
    replay_from: int | None = None

    def __post_init__(self) -> None:
        """Open the ledger if there is one, and count what was spent from it alone."""
        self.version = self.catalogue.version()
        self.ledger: Ledger | None = None
        self.gate: Gate | None = None
        self.spend: Spend = {}
        if self.path.exists():
            self.ledger = open_ledger(self.path, self.signer, replay_from=self.replay_from)
            lines = list(read_ledger(self.path))
            self.gate = gate_of(lines[0])
            self.spend = count_spend(lines[: self.ledger.count])

    def close(self) -> None:
        """Release the ledger."""
        if self.ledger is not None:
            self.ledger.close()

    def pin(self, task: Task) -> tuple[Gate, Ledger]:
        """The gate and the ledger; the first task that is understood founds both.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        if self.gate is None or self.ledger is None:
            header = task.header
            genesis = {
                "kind": header.plan.kind,
                "run": header.run,
                "plan": asdict(header.plan),
                "catalogue": self.version,
            }
            self.ledger = create_ledger(self.path, self.signer, genesis)
            self.gate = Gate(header.run, header.plan, self.version)
        return self.gate, self.ledger


def answer(host: Host, client: str, record: RecordDict) -> RecordDict:
    """One client's answer to one message; the batch of one."""
    return answer_all(host, [client], record)[client]


def answer_all(host: Host, clients: Sequence[str], record: RecordDict) -> dict[str, RecordDict]:
    """The answers of several clients of this process to the same task.

    Whatever goes wrong, the server hears ``declined`` and nothing else: no text, no type of error.

    Returns:
        client -> answer, one for each client asked.
    """
    answers = {client: declined_record() for client in clients}
    known = [client for client in answers if client in host.stores]
    try:
        task = parse_task(record)
        _check(host, task)
        sealed = _release(host, known, task, task_digest(record))
    except Exception as error:  # noqa: BLE001 - the net: whatever it is, neither its type nor its text may cross
        _note(host, known, error)
        return answers
    return answers | {client: sealed_record(vector) for client, vector in sealed.items()}


def _check(host: Host, task: Task) -> None:
    """What a task must say for this client's catalogue and its plan; before anything is pinned or charged.

    Raises:
        ProtocolError: sizes that are not the catalogue's, or another number of local steps than the plan accounts for.
    """
    header = task.header
    width, items = host.catalogue.groups["text"].shape[1], len(host.catalogue.ids)
    if header.encoder.text_width != width or header.encoder.buckets > items:
        raise ProtocolError(f"an encoder for {header.encoder}, but this catalogue has {items} items of width {width}")
    steps = header.plan.update.inner_steps
    if header.plan.trust == "local" and isinstance(task, TrainTask) and task.policy.local_iterations != steps:
        raise ProtocolError(f"{task.policy.local_iterations} local steps, but the plan accounts for {steps}")


def _note(host: Host, clients: Sequence[str], error: Exception) -> None:
    """Keep what went wrong on this side, in the ledger if there is one yet."""
    clause = f"{type(error).__name__}: {error}"[:LONGEST_CLAUSE]
    if host.ledger is not None:
        # A ledger that cannot be written may be what went wrong.
        with contextlib.suppress(FedrecallError, OSError, RuntimeError):
            host.ledger.append([{"type": "decline", "client": client, "clause": clause} for client in clients])


def _release(host: Host, clients: Sequence[str], task: Task, digest: str) -> dict[str, NDArray[np.int32]]:
    gate, ledger = host.pin(task)
    header = task.header
    kind = release_of(task)
    private = kind == "update" and header.plan.trust == "local"
    request = Request(
        release=kind,
        run=header.run,
        round=header.round,
        attempt=header.attempt,
        plan=header.plan,
        catalogue=header.catalogue,
        digest=digest,
        length=vector_length(task),
        private=private,
    )
    return release(
        request,
        clients,
        lambda client: len(host.stores[client].users),
        lambda admitted: _contributions(host, admitted, task, private=private),
        gate=gate,
        spend=host.spend,
        ledger=ledger,
        noise=lambda client: host.randomness.noise(client, header.round * 1000 + header.attempt, kind),
    )


def _contributions(host: Host, clients: Sequence[str], task: Task, *, private: bool) -> Iterator[NDArray[np.floating]]:
    """The unclipped rows of the clients' users, in order."""
    if private and isinstance(task, TrainTask):
        for client in clients:
            yield _private_update(host, client, task)[None]
        return
    users = [user for client in clients for user in host.stores[client].users]
    histories = [history for client in clients for history in host.stores[client].histories]
    bucket = bucket_of(host.catalogue.ids, task.header.encoder.buckets)
    if isinstance(task, StatisticsTask):
        yield popularity_rows(histories, bucket, task.header.encoder.buckets)
    elif isinstance(task, TrainTask):
        yield from _updates(host, task, users, histories, bucket)
    else:
        yield from _measurements(host, task, users, histories, bucket)


def _updates(
    host: Host, task: TrainTask, users: Sequence[str], histories: Sequence[History], bucket: NDArray[np.int64]
) -> Iterator[NDArray[np.floating]]:
    from client.model import Items  # noqa: PLC0415 - torch and opacus, which measuring and serving never need
    from client.training import fit  # noqa: PLC0415 - as above

    rngs = [host.randomness.rng(user, task.header.round) for user in users]
    items = Items(dict(host.catalogue.groups), bucket, task.prior)
    yield from fit(task.header.encoder, task.parameters, items, task.policy, task.training, histories, rngs)


def _private_update(host: Host, client: str, task: TrainTask) -> NDArray[np.floating]:
    from client.model import Items  # noqa: PLC0415 - torch and opacus, which measuring and serving never need
    from client.training import fit_locally_private  # noqa: PLC0415 - as above

    header = task.header
    store = host.stores[client]
    rngs = [host.randomness.rng(user, header.round) for user in store.users]
    histories, rngs = as_units(header.plan.unit, store.histories, rngs)
    mechanism = header.plan.update
    return fit_locally_private(
        header.encoder,
        task.parameters,
        Items(dict(host.catalogue.groups), bucket_of(host.catalogue.ids, header.encoder.buckets), task.prior),
        task.policy,
        task.training,
        histories,
        rngs,
        clip=mechanism.clip,
        noise_multiplier=mechanism.noise_multiplier,
        noise=host.randomness.noise(client, header.round * 1000 + header.attempt, "update"),
    )


def _measurements(
    host: Host, task: MeasureTask, users: Sequence[str], histories: Sequence[History], bucket: NDArray[np.int64]
) -> Iterator[NDArray[np.floating]]:
    encoder, policy = task.header.encoder, task.policy
    rngs = [host.randomness.rng(user, -task.header.round) for user in users]
    groups = dict(host.catalogue.groups)
    start = 0
    for ranked in lists(encoder, task.parameters, groups, bucket, task.prior, policy, histories, rngs):
        part = histories[start : start + len(ranked)]
        start += len(ranked)
        yield measurement_rows(ranked, part, bucket, encoder.buckets, policy.k)
