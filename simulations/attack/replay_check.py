"""Record and replay: one task answered twice, with a user's history and with nothing in its place.

After dp-recorder (arXiv 2602.17454): what privacy rests on is recorded while the real client path runs, and compared.
Everybody's randomness is the same both times, so whatever differs comes of that user. Only this user's contribution may
differ, by at most the sensitivity that noise was sized for, in whole numbers; nothing else may: no other client's
vector, no draw of noise, no line of the ledger, no size of a message.

Contributions that happen to be short hide a clip that is too wide. So the task is asked three times: under the run's
own model, under a hostile one (the server picks parameters), and with every contribution made a million times longer.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from client import host as hosts
from client import release as door
from client.store import ClientStore
from server.exchange import payload
from shared.history import History
from shared.privacy.ledger import read_ledger
from shared.privacy.noise import NoiseSource
from shared.privacy.plan import Mechanism, PrivacyPlan, Release
from shared.proofs import addressed, sign_task
from shared.protocol import MeasureTask, Task, TrainTask, is_declined, parse_sealed, task_record, vector_length
from simulations.attack.subject import Subject, rehearsal, some_clients, tasks_of
from simulations.attack.white_box import used_by
from simulations.seeding import Seed, client_randomness, signing_key

CLIENTS: Final = 8
TARGETS: Final = 3  # users whose history is taken away, each on its own
LONGER: Final = 1e6
HOSTILE: Final = np.float32(1e3)
TIP: Final = "0" * 64  # there is no server's ledger in a rehearsal
_SHOWN: Final = 20  # differences named, at most


@dataclass
class Recording:
    """What was seen of one task. Not frozen: it grows while the task is answered.

    Attributes:
        rows: client -> (units, length) integers that went into ``seal``; under trust local its one private row.
        sealed: client -> what came of it.
        draws: (client, uniform words) in the order in which noise was drawn.
        events: lines of the clients' ledger.
        sizes: client -> bytes of its answer.
        ledger_bytes: size of the clients' ledger.
    """

    rows: dict[str, NDArray[Any]] = field(default_factory=dict)
    sealed: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    draws: list[tuple[str, int]] = field(default_factory=list)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    ledger_bytes: int = 0


@dataclass(frozen=True)
class Trial:
    """One way to ask one task.

    Attributes:
        name: for people.
        task: what is asked.
        longer: factor on every contribution before it is clipped.
    """

    name: str
    task: Task
    kind: Release
    longer: float = 1.0


@dataclass(frozen=True)
class Compared:
    """Two recordings side by side.

    Attributes:
        vectors: compared.
        change: of the target's vector, in clip norms.
        allowed: at most.
        differences: what must not differ and does.
    """

    vectors: int
    change: float
    allowed: float
    differences: tuple[str, ...]


def replay_check(
    subject: Subject, *, seed: Seed = None, tell: Callable[[str], None] = lambda _sentence: None
) -> dict[str, Any]:
    """Section "replay" of ``attack.json``.

    Args:
        subject: the run.
        seed: of the clients' chance, the same with and without the history.
        tell: progress.

    Returns:
        ``outcome``, ``checked`` (vectors), ``largest_change`` and ``allowed`` (of the vector that came nearest to its
        bound or went furthest beyond, in clip norms) and ``differences``.
    """
    stores = list(some_clients(subject, CLIENTS).values())
    targets = stores[:: max(1, len(stores) // TARGETS)][:TARGETS]
    found: list[Compared] = []
    for trial in trials(subject):
        tell(f"record and replay: {trial.kind}, {trial.name}")
        whole = record(subject, trial, stores, seed or 0)
        for target in targets:
            without = neighbour(stores, target, subject.job.plan)
            other = record(subject, trial, without, seed or 0)
            found.append(compare(trial, subject, target, whole, other))
    nearest = max(found, key=lambda one: one.change / one.allowed)
    differences = [difference for one in found for difference in one.differences]
    outcome = "fail" if differences else "pass"
    return {
        # Clients that refuse everything show nothing, good or bad; the first difference says why they do.
        "outcome": outcome if any(one.vectors for one in found) else "cannot tell",
        "checked": sum(one.vectors for one in found),
        "largest_change": nearest.change,
        "allowed": nearest.allowed,
        "differences": differences[:_SHOWN],
    }


def trials(subject: Subject) -> list[Trial]:
    """Every kind of release that the plan pays for, in the three ways."""
    out = []
    for kind, task in tasks_of(subject).items():
        out.append(Trial("the run's own model", task, kind))
        if isinstance(task, TrainTask | MeasureTask):
            out.append(Trial("a hostile model", replace(task, parameters=task.parameters * HOSTILE), kind))
        if not _private(subject.job.plan, kind):
            out.append(Trial("contributions a million times longer", task, kind, LONGER))
    return out


def neighbour(stores: Sequence[ClientStore], target: ClientStore, plan: PrivacyPlan) -> list[ClientStore]:
    """The same clients without the first user's history of one of them; unit interaction: without its newest event."""
    first = target.histories[0]
    kept = max(0, len(first) - 1) if plan.unit == "interaction" else 0
    fewer = History(**{name: getattr(first, name)[:kept] for name in History.__dataclass_fields__})
    changed = replace(target, histories=(fewer, *target.histories[1:]))
    return [changed if store.client == target.client else store for store in stores]


def record(subject: Subject, trial: Trial, stores: Sequence[ClientStore], seed: int) -> Recording:
    """Let the clients answer one task, and write down what privacy rests on."""
    seen = Recording()
    made: dict[int, tuple[str, NoiseSource]] = {}
    chance = client_randomness(seed)

    def noise(client: str, round_: int, kind: str) -> NoiseSource:
        source = chance.noise(client, round_, kind)

        def words(count: int) -> NDArray[np.uint64]:
            seen.draws.append((client, count))
            return source.words(count)

        watched = NoiseSource(source.name, words)
        made[id(watched)] = client, watched  # kept, so that no other source gets the same id
        return watched

    signer = signing_key(seed, "server")
    if signer is None:
        raise RuntimeError("a seed makes a key")
    message = addressed(sign_task(task_record(trial.task), signer, TIP), None)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "clients.jsonl"
        host = rehearsal(subject, stores, path, replace(chance, noise=noise), subject.job.plan)
        stack.callback(host.close)
        stack.enter_context(_watched(seen, made))
        stack.enter_context(_stretched(trial.longer))
        answers = hosts.answer_all(host, {store.client: message for store in stores})
        seen.events = [line.event for line in read_ledger(path)]
        seen.ledger_bytes = path.stat().st_size
    for client, answer in answers.items():
        seen.sizes[client] = payload(answer)
        vector = None if is_declined(answer) else parse_sealed(answer, vector_length(trial.task))
        if vector is not None:
            seen.sealed[client] = vector.astype(np.int64)
    return seen


def compare(trial: Trial, subject: Subject, target: ClientStore, whole: Recording, other: Recording) -> Compared:
    """What changed that may not, between a task answered with and without one history."""
    plan, name = subject.job.plan, f"{trial.kind}, {trial.name}, client {target.client}"
    allowed, steps = allowance(trial, subject, len(target.users)), plan.mechanism(trial.kind).steps
    wrong = [
        what
        for what, same in (
            ("other clients answer", whole.sealed.keys() == other.sealed.keys()),
            ("answers have another size", whole.sizes == other.sizes),
            ("noise is drawn in another number or order", whole.draws == other.draws),
            ("the ledger has other lines", _public(whole, target.client) == _public(other, target.client)),
            ("the ledger has another size", whole.ledger_bytes == other.ledger_bytes),
        )
        if not same
    ]
    if not whole.sealed:
        wrong.append("nobody answered: " + "; ".join(sorted({str(event.get("clause")) for event in whole.events[1:]})))
    change = 0.0
    for client in whole.sealed.keys() & other.sealed.keys():
        if client != target.client:
            wrong += [] if _equal(whole, other, client) else [f"the vector of client {client} changes"]
            continue
        squared = _squared(whole.sealed[client] - other.sealed[client])
        change = math.sqrt(squared) / steps
        if squared > (allowed * steps) ** 2:
            wrong.append(f"the vector changes by {change:.4g} clips, at most {allowed:.4g} is allowed")
        if not _private(plan, trial.kind):
            wrong += _rows_wrong(whole, other, client, users=len(target.users))
    return Compared(len(whole.sealed) + len(other.sealed), change, allowed, tuple(f"{name}: {what}" for what in wrong))


def allowance(trial: Trial, subject: Subject, users: int) -> float:
    """How far the target's vector may move, in clip norms.

    What the noise of one release was sized for. Under trust local a release is ``inner_steps`` noisy ones: the first
    moves by a clip (times the learning rate), and each later one is at other parameters, where the unit's own gradient
    and everybody else's may all be others; rounding to the grid moves half a unit an entry.
    """
    plan, task = subject.job.plan, trial.task
    mechanism = plan.mechanism(trial.kind)
    if not (_private(plan, trial.kind) and isinstance(task, TrainTask)):
        return mechanism.sensitivity
    others = 2.0 * max(0, users - 1)
    later = (mechanism.inner_steps - 1) * (mechanism.sensitivity + others)
    rounding = math.sqrt(vector_length(task)) / mechanism.steps
    return task.training.learning_rate * (mechanism.sensitivity + later) + rounding


@contextmanager
def _watched(seen: Recording, made: Mapping[int, tuple[str, NoiseSource]]) -> Iterator[None]:
    """Write down what goes into ``seal``, which then does what it does."""
    sealing = door.seal

    def spy(
        rows: NDArray[Any], mechanism: Mechanism, sigma: float, noise: NoiseSource, *, private: bool = False
    ) -> NDArray[np.int32]:
        seen.rows[made[id(noise)][0]] = np.array(rows)
        return sealing(rows, mechanism, sigma, noise, private=private)

    with patch.object(door, "seal", spy):
        yield


@contextmanager
def _stretched(factor: float) -> Iterator[None]:
    """Every contribution times a factor, before anything bounds it."""
    honest = used_by(hosts, "contributions")

    def longer(*given: Any, **named: Any) -> Iterator[NDArray[np.floating]]:  # noqa: ANN401 - passed on as they come
        for rows in honest(*given, **named):
            yield rows.astype(np.float64) * factor

    with patch.object(hosts, "contributions", longer if factor != 1.0 else honest):
        yield


def _private(plan: PrivacyPlan, kind: Release) -> bool:
    """Whether noise is inside the contribution already."""
    return plan.trust == "local" and kind == "update"


def _equal(whole: Recording, other: Recording, client: str) -> bool:
    return np.array_equal(whole.sealed[client], other.sealed[client]) and np.array_equal(
        whole.rows[client], other.rows[client]
    )


def _rows_wrong(whole: Recording, other: Recording, client: str, *, users: int) -> list[str]:
    """Before noise: as many rows, of the same whole numbers but for the first; and the same noise on top."""
    before, after = whole.rows[client], other.rows[client]
    if before.shape != after.shape or len(before) != users:
        return [f"{before.shape} rows become {after.shape}"]
    if not np.issubdtype(before.dtype, np.integer):
        return [f"rows are {before.dtype}, not whole numbers"]
    wrong = [] if np.array_equal(before[1:], after[1:]) else ["another user's row changes"]
    noise = [one.sealed[client] - one.rows[client].sum(axis=0, dtype=np.int64) for one in (whole, other)]
    return wrong + ([] if np.array_equal(*noise) else ["the noise depends on the history"])


def _public(recording: Recording, target: str) -> list[Mapping[str, Any]]:
    """Ledger lines without what must differ: the digest of the target's vector, and signatures over the chain."""
    return [
        {name: value for name, value in event.items() if name != "signature" and not (_own(event, target, name))}
        for event in recording.events
    ]


def _own(event: Mapping[str, Any], target: str, name: str) -> bool:
    return name == "sealed" and event.get("client") == target


def _squared(vector: NDArray[np.int64]) -> int:
    """Squared norm, in whole numbers of any size."""
    return sum(int(value) ** 2 for value in vector[vector != 0])
