"""How a server stands: for ``status``, and for Prometheus. Public figures of rounds alone, never anything per person.

Everything is read from the house when it is asked for, so that no counter can differ from what the files say; what only
the supervisor knows comes as :class:`Vitals`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from server.certificates import expiry
from server.checkpoint import State, load_state
from server.enrolling import read_clients, read_invitations, standing_of
from server.house import House
from server.resuming import CHECKPOINT, SERVER_LEDGER
from server.summary import claim_of
from shared.privacy.calibration import plan_from_dict
from shared.privacy.ledger import read_ledger
from shared.privacy.plan import PrivacyPlan

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
ROWS: Final = "rounds.jsonl"
_TAIL: Final = 1 << 20  # bytes; a row is a few kB
Row = dict[str, Any]


@dataclass(frozen=True)
class Vitals:
    """What the supervisor knows of its processes.

    Attributes:
        alive: process ("superlink", "superexec") -> whether it answers.
        restarts: process -> how often it was started again.
        online: clients that were heard of lately; None = not known.
        run: name of the run's folder; "" before the first.
        waiting: why no round goes on; "" while one does.
    """

    alive: Mapping[str, bool]
    restarts: Mapping[str, int]
    online: int | None
    run: str
    waiting: str


@dataclass(frozen=True)
class Facts:
    """A server at one moment.

    Attributes:
        vitals: of its processes.
        round: last round closed; None before the first checkpoint.
        stopped: why the run has ended; None = it goes on.
        plan: of the run, as its ledger says; None before the first checkpoint.
        last: the last row of ``rounds.jsonl``; empty before the first round.
        policy, frozen, proposal: version in force, whether it is frozen, the proposal that waits.
        paused: whether an operator paused it.
        clients, revoked: enrolled now, and shut out.
        invitations: how many are open.
        certificate: seconds until the server's certificate expires.
        refused: requests to the operator API without a good token, since it started.
    """

    vitals: Vitals
    round: int | None
    stopped: str | None
    plan: PrivacyPlan | None
    last: Row
    policy: int | None
    frozen: bool
    proposal: str | None
    paused: bool
    clients: int
    revoked: int
    invitations: int
    certificate: float
    refused: int

    def to_dict(self) -> Row:
        """For ``status``: plain JSON."""
        return {
            "run": self.vitals.run,
            "round": self.round,
            "stopped": self.stopped,
            "waiting": self.vitals.waiting,
            "paused": self.paused,
            "epsilon": self.last.get("epsilon"),
            "claim": None if self.plan is None else claim_of(self.plan),
            "cohort": self.last.get("cohort"),
            "seconds": self.last.get("seconds"),
            "policy": {"version": self.policy, "frozen": self.frozen, "proposal": self.proposal},
            "clients": {"enrolled": self.clients, "online": self.vitals.online, "revoked": self.revoked},
            "invitations": self.invitations,
            "alive": dict(self.vitals.alive),
            "restarts": dict(self.vitals.restarts),
            "certificate_days": round(self.certificate / 86_400, 1),
        }


def facts_of(house: House, vitals: Vitals, refused: int, now: datetime) -> Facts:
    """Read how a server stands.

    Args:
        house: its folder.
        vitals: from the supervisor.
        refused: from the operator API.
        now: with its zone.

    Raises:
        FedrecallError: a file of the house is broken.
    """
    state, plan, last = _run(house.runs / vitals.run if vitals.run else None)
    clients = read_clients(house)
    standings = [standing_of(invitation, clients, now) for invitation in read_invitations(house)]
    pending = None if state is None else state.pending
    return Facts(
        vitals=vitals,
        round=None if state is None else max(0, state.round),
        stopped=None if state is None else state.stopped,
        plan=plan,
        last=last,
        policy=None if state is None else state.policy.version,
        frozen=state is not None and state.policy.frozen,
        proposal=None if pending is None else pending.id,
        paused=house.paused.exists(),
        clients=sum(client.revoked is None for client in clients),
        revoked=sum(client.revoked is not None for client in clients),
        invitations=standings.count("open"),
        certificate=(expiry(house.certificate) - now).total_seconds(),
        refused=refused,
    )


def ready(vitals: Vitals) -> bool:
    """Whether devices can be served: everything that the supervisor looks after answers."""
    return bool(vitals.alive) and all(vitals.alive.values())


def exposition(facts: Facts) -> bytes:
    """The figures in Prometheus' text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(cast("Collector", _Collected(tuple(_metrics(facts)))))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)  # a registry keeps its collectors by identity
class _Collected:
    """What prometheus_client asks for: something with ``collect``."""

    metrics: tuple[Metric, ...]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


def _metrics(facts: Facts) -> Iterator[Metric]:
    vitals = facts.vitals
    plain = (
        ("fedrecall_round", "Last round that was closed.", facts.round),
        ("fedrecall_round_seconds", "How long the last round took.", facts.last.get("seconds")),
        ("fedrecall_policy_version", "Recall policy in force.", facts.policy),
        ("fedrecall_policy_frozen", "1 while no controller moves the policy.", int(facts.frozen)),
        ("fedrecall_proposal_waits", "1 while a move waits for a person.", int(facts.proposal is not None)),
        ("fedrecall_paused", "1 while an operator paused the rounds.", int(facts.paused)),
        ("fedrecall_run_ended", "1 once the run has ended.", int(facts.stopped is not None)),
        ("fedrecall_clients_enrolled", "Clients that were let in and not revoked.", facts.clients),
        ("fedrecall_clients_online", "Clients that were heard of lately.", vitals.online),
        ("fedrecall_clients_revoked", "Clients that were shut out.", facts.revoked),
        ("fedrecall_invitations_open", "Invitations that can still be used.", facts.invitations),
        ("fedrecall_certificate_seconds", "Until the server's certificate expires.", facts.certificate),
    )
    for name, meaning, value in plain:
        if value is not None:
            yield GaugeMetricFamily(name, meaning, value=value)
    yield CounterMetricFamily("fedrecall_operator_refused", "Requests without a good token.", value=facts.refused)
    yield _labelled("fedrecall_cohort", "Clients of the last round, by outcome.", "outcome", facts.last.get("cohort"))
    if facts.plan is not None:
        yield _epsilon(facts.plan, facts.last.get("epsilon") or {})
    alive = {name: int(value) for name, value in vitals.alive.items()}
    yield _labelled("fedrecall_alive", "1 while the process answers.", "process", alive)
    restarts = CounterMetricFamily("fedrecall_restarts", "Times a process was started again.", labels=["process"])
    for name, count in sorted(vitals.restarts.items()):
        restarts.add_metric([name], count)
    yield restarts


def _epsilon(plan: PrivacyPlan, spent: Row) -> Metric:
    """One sample a party; whatever an epsilon means nothing without is a label of it."""
    terms = {name: str(value) for name, value in claim_of(plan).items()}
    meaning = f"Spent so far by the client asked most often, by party it holds against. Covers: {terms.pop('covers')}"
    family = GaugeMetricFamily("fedrecall_epsilon", meaning, labels=["against", *terms])
    for party, value in sorted(spent.items()):
        if isinstance(value, float):
            family.add_metric([party, *terms.values()], value)
    return family


def _labelled(name: str, meaning: str, label: str, values: Mapping[str, float | None] | None) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for key, value in sorted((values or {}).items()):
        if value is not None:
            family.add_metric([key], value)
    return family


def _run(folder: Path | None) -> tuple[State | None, PrivacyPlan | None, Row]:
    """A run's checkpoint, its plan, and its last row, which may be one round ahead of the checkpoint."""
    if folder is None or not (folder / CHECKPOINT).is_file():
        return None, None, {}
    plan = plan_from_dict(next(read_ledger(folder / SERVER_LEDGER)).event["plan"])
    return load_state(folder / CHECKPOINT), plan, _last_row(folder / ROWS)


def _last_row(path: Path) -> Row:
    """The last whole line, read from the end: the file grows for as long as a run goes on."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        whole = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
    return dict(json.loads(whole)) if whole else {}


def system_now() -> datetime:
    """This machine's time, with its zone."""
    return datetime.now(UTC)
