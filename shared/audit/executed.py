"""What was executed, as far as ledgers tell: who contributed to which release, and how much noise that release had.

A claim is recomputed from this and from nothing else. Where a client's own ledger is at hand its payments count, else
the server's charges; where a ledger shows less noise than the plan promises, the noise that it shows.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from shared.audit.evidence import Charge, Evidence, Payment, Pin, ServerLog, Sum
from shared.privacy import accounting
from shared.privacy.plan import RELEASES, Mechanism, PrivacyPlan, Release, printed

Name = tuple[int, int, Release]  # round, attempt, kind of release
ORDER: Final[tuple[Release, ...]] = ("statistics", "profile", "update", "trending", "measurement")  # within a round
Source = Literal["clients", "server"]

HUGE: Final = 300.0
TINY: Final = 1e-30  # below, no delta that a plan may have tells it from nothing
SAME: Final = 1.0 - 1e-9  # noise below this part of the plan's is less noise, not rounding


@dataclass(frozen=True, slots=True)
class Exchange:
    """One release of one round.

    Attributes:
        mechanism: with the noise that was really there, never more than planned.
        clients: who paid for it.
    """

    round: int
    release: Release
    mechanism: Mechanism
    clients: tuple[str, ...]


@dataclass(frozen=True)
class Executed:
    """What one run cost.

    Attributes:
        run: its id.
        plan: what it promised.
        file: the ledger that names the plan.
        line: where.
        source: whose word the clients of exchanges are: payments of clients (charges for those without a ledger), or
            the server's charges.
        exchanges: in order of rounds.
    """

    run: str
    plan: PrivacyPlan
    file: str
    line: int
    source: Source
    exchanges: tuple[Exchange, ...]


def executed(e: Evidence) -> list[Executed]:
    """The server's run; without its ledger, every run that a client's ledger pins a plan for."""
    if e.server is not None:
        return [] if e.server.plan is None else [_of_server(e, e.server, e.server.plan)]
    pins: dict[str, tuple[Pin, PrivacyPlan, str]] = {}
    for log in e.clients:
        for pin in log.pins:
            if pin.plan is not None:
                pins.setdefault(pin.run, (pin, pin.plan, log.file))
    paid = {run: _paid(e, run) for run in pins}
    return [
        Executed(run, plan, file, pin.line, "clients", _exchanges(plan, {}, paid[run], {}, covered=set()))
        for run, (pin, plan, file) in pins.items()
    ]


def rho_by_client(exchanges: Iterable[Exchange], kind: Release | None = None) -> dict[str, float]:
    """What every client spent, in the zCDP that printed claims rest on; of one kind of release or of all."""
    counts: dict[Mechanism, Counter[str]] = defaultdict(Counter)
    for exchange in exchanges:
        if kind in (None, exchange.release):
            counts[exchange.mechanism].update(exchange.clients)
    total: dict[str, float] = {}
    for mechanism, clients in counts.items():
        price = mechanism.claimed_rho
        for client, count in clients.items():
            total[client] = total.get(client, 0.0) + count * price
    return total


def worst_client(exchanges: Iterable[Exchange]) -> str | None:
    """Who spent most; None = nobody spent anything."""
    spent = rho_by_client(exchanges)
    return max(spent, key=spent.__getitem__, default=None)


def releases_of(exchanges: Iterable[Exchange], client: str) -> tuple[accounting.Sampled, ...]:
    """What one client took part in, as every accountant takes it."""
    counts = Counter(exchange.mechanism for exchange in exchanges if client in exchange.clients)
    return tuple(accounting.Sampled(m.claimed_multiplier, 1.0, count * m.inner_steps) for m, count in counts.items())


def sampled_of(exchanges: Iterable[Exchange], rate: float) -> tuple[accounting.Sampled, ...]:
    """Every exchange, whoever was drawn, as an accountant of amplification takes it."""
    counts = Counter(exchange.mechanism for exchange in exchanges)
    return tuple(accounting.Sampled(m.claimed_multiplier, rate, count * m.inner_steps) for m, count in counts.items())


def bound(rho: float, delta: float) -> float:
    """The PLD upper bound of epsilon, with what integer arithmetic may add.

    Above a ``rho`` of ``HUGE``, epsilon of hundreds and no claim that a plan may make, the looser one that needs no
    grid: a ledger that shows next to no noise would ask for a grid that fits no memory.
    """
    if rho < TINY:
        return 0.0 if rho <= 0 else printed(lambda _: 0.0, delta)
    by = accounting.epsilon_by_zcdp if rho > HUGE else accounting.epsilon_by_pld
    return printed(lambda below: by(rho, below), delta)


def covered_clients(e: Evidence) -> set[str]:
    """Clients whose own ledger is at hand: it names them in a payment or a refusal."""
    paid = {payment.client for log in e.clients for payment in log.payments}
    return paid | {refusal.client for log in e.clients for refusal in log.refusals}


def _of_server(e: Evidence, server: ServerLog, plan: PrivacyPlan) -> Executed:
    charges: dict[Name, Charge] = {}
    for charge in server.charges:
        charges.setdefault((charge.round, charge.attempt, charge.release), charge)
    sums = {(made.round, made.attempt, made.release): made for made in server.sums}
    made = _exchanges(plan, charges, _paid(e, server.run), sums, covered_clients(e))
    return Executed(server.run, plan, server.file, 1, "clients" if e.clients else "server", made)


def _paid(e: Evidence, run: str) -> dict[Name, list[Payment]]:
    paid: dict[Name, list[Payment]] = defaultdict(list)
    for log in e.clients:
        for payment in log.payments:
            if payment.run == run:
                paid[payment.round, payment.attempt, payment.release].append(payment)
    return paid


def _exchanges(
    plan: PrivacyPlan,
    charges: Mapping[Name, Charge],
    paid: Mapping[Name, list[Payment]],
    sums: Mapping[Name, Sum],
    covered: set[str],
) -> tuple[Exchange, ...]:
    order = {kind: place for place, kind in enumerate(ORDER)}
    names = sorted({*charges, *paid}, key=lambda name: (name[0], name[1], order[name[2]]))
    return tuple(
        Exchange(
            name[0],
            name[2],
            _mechanism(plan, name[2], paid.get(name, []), sums.get(name)),
            _clients(charges.get(name), sums.get(name), paid.get(name, []), covered),
        )
        for name in names
    )


def _clients(charge: Charge | None, made: Sum | None, paid: list[Payment], covered: set[str]) -> tuple[str, ...]:
    """Who paid; of those asked whose ledger is not at hand, everybody; and whom the server itself counted in a sum."""
    own = tuple(payment.client for payment in paid)
    if charge is None:
        return own
    free = covered if made is None else covered & {*made.declined, *made.failed}
    known = free.union(own)
    return own + tuple(client for client in charge.cohort if client not in known)


def _mechanism(plan: PrivacyPlan, release: Release, paid: list[Payment], made: Sum | None) -> Mechanism:
    """The plan's, or a weaker one where the ledgers show less noise."""
    planned = plan.mechanism(release)
    real = _multiplier(plan, release, paid, None if made is None or made.aborted else made)
    if real >= planned.noise_multiplier * SAME:
        return planned
    return replace(planned, noise_multiplier=max(0.0, real))  # in this order a NaN is no noise


def _multiplier(plan: PrivacyPlan, release: Release, paid: list[Payment], made: Sum | None) -> float:
    """Noise per clip in what left; of an aborted sum nothing left but what was masked."""
    steps = plan.mechanism(release).steps
    if plan.trust == "central":
        return math.inf if made is None else made.sum_sigma / steps
    if plan.trust == "local" and release == "update":
        return math.inf  # noise lies in the local steps; the plan names it, no ledger measures it
    shares = [payment.share_sigma for payment in paid]
    share = 0.0 if any(map(math.isnan, shares)) else min(shares, default=math.inf)
    honest = plan.honest
    if made is not None and made.survivors:
        stated = made.sum_sigma / math.sqrt(made.survivors)
        share = min(stated, share)  # in this order a NaN wins
        honest = max(1, min(made.survivors - plan.colluders, made.survivors - 1))
    return share / steps * (1.0 if plan.trust == "local" else math.sqrt(honest))


def kinds_of(exchanges: Iterable[Exchange]) -> tuple[Release, ...]:
    """The kinds of release that were executed, in the plan's order."""
    seen = {exchange.release for exchange in exchanges}
    return tuple(kind for kind in RELEASES if kind in seen)
