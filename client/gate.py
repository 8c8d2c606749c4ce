"""The gate: a client decides for itself whether it takes part.

What it goes by is on this side: the consent, the clock, and what the ledger says was pinned and paid for. In this
order, and each refusal names its clause:

1. consent is there, and every clause of it holds for the plan, the release and the policy;
2. the server is one that consent names, or the first that this ledger took part with;
3. the run is the one that was pinned under its name: same plan, catalogue and server; and the catalogue is here;
4. the ledger is not behind the server's receipt (a restored backup would spend twice);
5. the task was not answered before;
6. a participation of this run is left (K);
7. what it costs fits the caps of consent: for the round, the period and the lifetime, over all runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from client.consent import MISSING, Consent, noise_of, own_noise
from shared.errors import DeclinedError, LedgerError, PlanError
from shared.printable import rounded_up
from shared.privacy.accounting import epsilon_by_zcdp
from shared.privacy.calibration import plan_from_dict
from shared.privacy.ledger import Event
from shared.privacy.participation import remaining
from shared.privacy.plan import ADJACENCY, PrivacyPlan, Release
from shared.proofs import ServerStamp

BEHIND: Final = "this ledger is behind the server's receipt: restored from a backup?"
Name = tuple[str, int, int, str]  # run, round, attempt, kind of release: what a task is called


@dataclass(frozen=True)
class Request:
    """What is asked of a batch of clients; one task, as the gate sees it.

    Attributes:
        release: kind of release.
        run, round, attempt: which task.
        plan: the plan that the task names.
        catalogue: catalogue version that the task names.
        features: feature groups that the task's policy, or one of its shadows, switches on.
        server: who signed the task.
        digest: SHA-256 of the task.
        length: length of the vector that answers it.
        private: the rows are private already (trust local: noise was added at every step); one row a client.
    """

    release: Release
    run: str
    round: int
    attempt: int
    plan: PrivacyPlan
    catalogue: str
    features: tuple[str, ...]
    server: ServerStamp
    digest: str
    length: int
    private: bool

    @property
    def name(self) -> Name:
        """What the task is called; answered at most once."""
        return self.run, self.round, self.attempt, self.release

    @property
    def rho(self) -> float:
        """What it costs, in zCDP; infinite without privacy."""
        return math.inf if self.plan.epsilon is None else self.plan.mechanism(self.release).rho


@dataclass(frozen=True)
class Pin:
    """A run as a ledger of this side first took part in it."""

    plan: str
    catalogue: str
    server: str


@dataclass
class Spend:
    """What one client has paid for.

    Attributes:
        used: (run, kind of release) -> intents.
        answered: tasks that have an intent.
        rounds: (run, round) -> rho.
        days: day number -> rho.
    """

    used: dict[tuple[str, str], int] = field(default_factory=dict)
    answered: set[Name] = field(default_factory=set)
    rounds: dict[tuple[str, int], float] = field(default_factory=dict)
    days: dict[int, float] = field(default_factory=dict)


@dataclass
class Gate:
    """What this side goes by. Not frozen: it grows with the ledger, by :func:`learn` alone.

    Attributes:
        catalogue: version of the catalogue on this side.
        consents: client -> its consent.
        unconsented: the clause for who has none.
        pins: run -> what was pinned.
        spends: client -> what it paid.
    """

    catalogue: str
    consents: Mapping[str, Consent]
    unconsented: str = MISSING
    pins: dict[str, Pin] = field(default_factory=dict)
    spends: dict[str, Spend] = field(default_factory=dict)


def learn(gate: Gate, event: Event, place: str) -> None:
    """Take in one event of the ledger: whatever is pinned or paid is so because it stands there.

    Raises:
        LedgerError: the event is not one that a client writes; names ``place``.
    """
    kind = event["type"]
    try:
        if kind == "plan":
            plan = plan_from_dict(event["plan"]).digest()
            gate.pins[event["run"]] = Pin(plan, event["catalogue"], event["server"])
        elif kind == "intent":
            _pay(gate.spends.setdefault(event["client"], Spend()), event)
    except (LookupError, TypeError, ValueError, PlanError) as error:
        raise LedgerError(f"{place}: not a {kind} as a client writes it ({type(error).__name__}: {error})") from error


def _pay(spend: Spend, event: Event) -> None:
    run, round_, release = event["run"], event["round"], event["release"]
    rho = math.inf if event["rho"] is None else float(event["rho"])
    day = date.fromisoformat(event["day"]).toordinal()
    spend.used[run, release] = spend.used.get((run, release), 0) + 1
    spend.answered.add((run, round_, event["attempt"], release))
    spend.rounds[run, round_] = spend.rounds.get((run, round_), 0.0) + rho
    spend.days[day] = spend.days.get(day, 0.0) + rho


def refusals(gate: Gate, request: Request, asked: Mapping[str, bool], *, today: date) -> dict[str, str]:
    """Who declines a task, and the clause; nobody's refusal is another's business.

    Args:
        gate: consents, and what the ledger says.
        request: what is asked.
        asked: client -> whether the ledger lacks what the server has a receipt of.
        today: by this side's clock.

    Returns:
        client -> the clause; it goes to the client's ledger, never to the server.
    """
    clauses: dict[str, str] = {}
    # Clients of one consent share what it says of the task; what they paid for is each one's own. The consents are kept
    # here as well, so that no other can come by the identity of one of them meanwhile.
    agreed: dict[int, Consent] = {}
    for client, behind in asked.items():
        consent = gate.consents.get(client)
        if consent is None:
            clauses[client] = gate.unconsented
            continue
        try:
            if id(consent) not in agreed:
                _check_consent(consent, request)
                _check_server(gate, consent, request)
                _check_run(gate, request)
                agreed[id(consent)] = consent
            _check_spend(consent, gate.spends.get(client) or Spend(), request, today, behind=behind)
        except DeclinedError as refusal:
            clauses[client] = str(refusal)
    return clauses


def _check_consent(consent: Consent, request: Request) -> None:
    """Clauses that need no memory.

    Raises:
        DeclinedError: names the first that does not hold, its value and what was asked.
    """
    broken = next((clause for holds, clause in _clauses(consent, request) if not holds), None)
    if broken is not None:
        raise DeclinedError(f"consent.{broken}")


def _clauses(consent: Consent, request: Request) -> Iterator[tuple[bool, str]]:
    """Whether each clause holds, and what to say if not."""
    plan, kind = request.plan, request.release
    mechanism = plan.mechanism(kind)
    noise, own = noise_of(mechanism), own_noise(plan, kind)
    more = [group for group in request.features if group not in consent.features]
    without = plan.epsilon is None
    yield consent.enabled, "enabled: this client takes part in nothing"
    yield plan.unit in consent.unit, f"unit: {plan.unit!r} is none of {consent.unit}"
    yield plan.trust in consent.trust, f"trust: {plan.trust!r} is none of {consent.trust}"
    yield not without or consent.allow_without_privacy, "allow_without_privacy: the plan promises no privacy"
    yield (
        without or noise >= consent.smallest_noise,
        f"smallest_noise: {kind} has {noise:.4g} per sensitivity, at least {consent.smallest_noise:.4g} is asked for",
    )
    yield (
        without or own >= consent.smallest_own_noise,
        f"smallest_own_noise: {kind} has {own:.4g} per clip, at least {consent.smallest_own_noise:.4g} is asked for",
    )
    yield (
        mechanism.clip <= consent.largest_clip,
        f"largest_clip: {kind} is clipped at {mechanism.clip:.4g}, at most {consent.largest_clip:.4g} is allowed",
    )
    yield (
        plan.trust == "local" or plan.smallest_cohort >= consent.smallest_cohort,
        f"smallest_cohort: {plan.smallest_cohort} clients, at least {consent.smallest_cohort} are asked for",
    )
    yield not more, f"features: {', '.join(more)} may not be switched on"


def _check_server(gate: Gate, consent: Consent, request: Request) -> None:
    first = next(iter(gate.pins.values()), None)
    key = request.server.key
    if consent.servers and key not in consent.servers:
        raise DeclinedError(f"consent.servers: {key} is not among them")
    if not consent.servers and first is not None and key != first.server:
        raise DeclinedError(f"consent.servers: none named, so the first, {first.server}; not {key}")


def _check_run(gate: Gate, request: Request) -> None:
    pin = gate.pins.get(request.run)
    if pin is not None and request.server.key != pin.server:
        raise DeclinedError(f"run {request.run!r} is of server {pin.server}, not of {request.server.key}")
    if pin is not None and request.plan.digest() != pin.plan:
        raise DeclinedError(f"run {request.run!r}: the plan changed; a client keeps to the first it accepted for a run")
    if request.catalogue != gate.catalogue:
        raise DeclinedError(f"catalogue {request.catalogue[:12]} is not here; this client has {gate.catalogue[:12]}")
    if pin is not None and request.catalogue != pin.catalogue:
        raise DeclinedError(f"run {request.run!r} began with catalogue {pin.catalogue[:12]}")


def _check_spend(consent: Consent, spend: Spend, request: Request, today: date, *, behind: bool) -> None:
    """What one client has paid for, and whether its ledger still knows all of it."""
    if behind:
        raise DeclinedError(BEHIND)
    if request.name in spend.answered:
        raise DeclinedError(f"replay: {request.release} of round {request.round}, attempt {request.attempt}, was paid")
    limit = request.plan.mechanism(request.release).participations
    if remaining(spend.used.get((request.run, request.release), 0), limit) == 0:
        raise DeclinedError(f"{request.release}: all {limit} participations are used up")
    if request.plan.epsilon is not None:  # else consent said that nothing bounds it
        _check_caps(consent, spend, request, today)


def _check_caps(consent: Consent, spend: Spend, request: Request, today: date) -> None:
    """Epsilon of what was spent plus this release; days ahead of the clock, which was set back, count as recent."""
    since = today.toordinal() - consent.period_days
    for name, spent in (
        ("epsilon_per_round", spend.rounds.get((request.run, request.round), 0.0)),
        ("epsilon_per_period", sum(rho for day, rho in spend.days.items() if day > since)),
        ("epsilon_lifetime", sum(spend.days.values())),
    ):
        epsilon, cap = epsilon_by_zcdp(spent + request.rho, consent.delta), getattr(consent, name)
        if epsilon > cap:
            plan = request.plan
            raise DeclinedError(
                f"consent.{name}: epsilon {rounded_up(epsilon)} with this release, at most {cap:g} is allowed (unit "
                f"{plan.unit}, adjacency {ADJACENCY}, trust {plan.trust}, delta {consent.delta:g}, zCDP upper bound)"
            )
