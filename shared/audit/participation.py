"""Who took part how often: nobody above K in any ledger, and no count that begins again; clauses 2, 5 and 8."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from shared.audit.coins import coin_findings
from shared.audit.evidence import ClientLog, Evidence, ServerLog
from shared.audit.executed import Executed, Name, covered_clients, executed
from shared.audit.findings import Finding, Place
from shared.audit.found import at, found, plan_of, printed
from shared.audit.spend import Spend, refusals, spend, spend_of
from shared.privacy.plan import ADJACENCY, PrivacyPlan, Release

__all__ = ["Spend", "participation_findings", "spend"]


@dataclass(frozen=True)
class _Use:
    """How often one client took part in one kind of release of one run, by one side's ledgers."""

    client: str
    release: Release
    used: int
    allowed: int
    file: str
    lines: tuple[int, ...]


def participation_findings(e: Evidence) -> list[Finding]:
    """What the ledgers say of persons and of how often they took part."""
    runs = executed(e)
    total = spend_of(e.clients, runs)
    parts = [_unit(e), _participations(e), _resets(e), _enrolments(runs), _spent(e, total), _lifetime(e, total)]
    parts += [_refusals(e)]
    made = list(chain.from_iterable(parts))
    if e.server is not None and e.server.plan is not None:
        made += coin_findings(e.server, e.server.plan)
    return made


# --- clause 2: whose data, how often


def _unit(e: Evidence) -> Iterator[Finding]:
    plan = plan_of(e)
    if plan is not None:
        yield found(2, f"unit-{plan.unit}", "pass", _first_line(e))
    if e.printed is None:
        return
    said, place = printed(e, "adjacency"), at(e.printed.file)
    if said is None:
        yield found(2, "adjacency", "cannot tell", place)
    else:
        yield found(2, "adjacency", "pass" if said == ADJACENCY else "fail", place, printed=str(said)[:40])


def _first_line(e: Evidence) -> tuple[Place, ...]:
    if e.server is not None:
        return at(e.server.file, [1])
    return tuple(Place(log.file, (pin.line,)) for log in e.clients[:1] for pin in log.pins[:1])


def _participations(e: Evidence) -> Iterator[Finding]:
    """In the server's ledger by its charges, in the clients' by what each paid, all their files together."""
    uses = [*_charged(e.server), *_paid(e)]
    if not uses:
        yield found(2, "participations", "cannot tell")
        return
    above = [use for use in uses if use.used > use.allowed]
    if above:
        first = above[0]
        places = [Place(use.file, use.lines) for use in above if use.lines][:3]
        yield found(
            2,
            "participations",
            "fail",
            places,
            client=first.client,
            release=first.release,
            used=first.used,
            allowed=first.allowed,
            count=len({(use.client, use.release) for use in above}),
        )
        return
    nearest = min(uses, key=lambda use: (use.allowed - use.used, -use.used))
    files = dict.fromkeys(use.file for use in uses)
    places = [Place(file) for file in list(files)[:5]]
    yield found(2, "participations", "pass", places, most=nearest.used, allowed=nearest.allowed)


def _charged(server: ServerLog | None) -> Iterator[_Use]:
    """How often each client was asked, by kind; with the lines only where it is too often."""
    if server is None or server.plan is None:
        return
    counts: dict[Release, Counter[str]] = defaultdict(Counter)
    for charge in server.charges:
        counts[charge.release].update(charge.cohort)
    shown = False
    for kind, used in counts.items():
        allowed = server.plan.mechanism(kind).participations
        for client, count in used.items():
            lines: tuple[int, ...] = ()
            if count > allowed and not shown:  # for every client it would take as long as the rest of the audit
                asked = [one.line for one in server.charges if one.release == kind and client in one.cohort]
                lines, shown = tuple(asked[allowed : allowed + 5]), True
            yield _Use(client, kind, count, allowed, server.file, lines)


def _paid(e: Evidence) -> Iterator[_Use]:
    """How often each client paid, by run and kind, over all ledgers that name it."""
    counts: Counter[tuple[str, str, Release]] = Counter()
    last: dict[tuple[str, str, Release], tuple[str, int]] = {}
    plans: dict[str, PrivacyPlan] = {}
    for log in e.clients:
        plans |= {pin.run: pin.plan for pin in log.pins if pin.plan is not None and pin.run not in plans}
        for payment in log.payments:
            name = (payment.client, payment.run, payment.release)
            counts[name] += 1
            last[name] = (log.file, payment.line)
    for (client, run, release), count in counts.items():
        if run in plans:
            file, line = last[client, run, release]
            yield _Use(client, release, count, plans[run].mechanism(release).participations, file, (line,))


def _resets(e: Evidence) -> Iterator[Finding]:
    """A count that begins again: two ledgers of one client, another key, a past that a receipt proves and it lacks."""
    if not e.clients:
        yield found(2, "reset", "cannot tell")
        return
    again: dict[str, Place] = {}
    homes: dict[tuple[str, str], str] = {}
    for log in e.clients:
        for payment in log.payments:
            if homes.setdefault((payment.client, payment.run), log.file) != log.file:
                again.setdefault(payment.client, Place(log.file, (payment.line,)))
    if e.server is not None:
        again = _rekeyed(e.server) | _forgotten(e, e.server) | again
    if again:
        client = next(iter(again))
        places = list(dict.fromkeys(again.values()))[:5]
        yield found(2, "reset", "fail", places, client=client, count=len(again))
    else:
        yield found(2, "reset", "pass", [Place(log.file) for log in e.clients[:5]], clients=len(covered_clients(e)))


def _rekeyed(server: ServerLog) -> dict[str, Place]:
    """Clients whose receipts are signed by more than one key: a new ledger, so a new count."""
    keys: dict[str, str] = {}
    again: dict[str, Place] = {}
    for made in server.sums:
        for receipt, clients in made.receipts:
            for client in clients:
                if keys.setdefault(client, receipt.key) != receipt.key:
                    again.setdefault(client, Place(server.file, (made.line,)))
    return again


def _forgotten(e: Evidence, server: ServerLog) -> dict[str, Place]:
    """Clients that answered, by the server's receipt, and whose own ledger holds no payment for it."""
    paid: dict[Name, set[str]] = defaultdict(set)
    for log in e.clients:
        for payment in log.payments:
            if payment.run == server.run:
                paid[payment.round, payment.attempt, payment.release].add(payment.client)
    known = covered_clients(e)
    again: dict[str, Place] = {}
    for made in server.sums:
        gone = {*made.declined, *made.failed}
        answered = {client for _, clients in made.receipts for client in clients}
        for client in sorted((answered & known) - gone - paid[made.round, made.attempt, made.release]):
            again.setdefault(client, Place(server.file, (made.line,)))
    return again


def _enrolments(runs: Sequence[Executed]) -> Iterator[Finding]:
    """Two enrolments of one person are two clients to every ledger."""
    clients = set[str]()
    for run in runs:
        clients.update(*(exchange.clients for exchange in run.exchanges))
    yield found(2, "enrolments", "cannot tell", clients=len(clients))


# --- clause 8: what each spent


def _spent(e: Evidence, total: Spend | None) -> Iterator[Finding]:
    if total is None or total.cap is None:
        yield found(8, "spend", "cannot tell")
        return
    files = [log.file for log in e.clients] if total.source == "clients" else []
    places = [Place(file) for file in (files or [e.server.file if e.server else ""])[:5]]
    if total.most > total.cap * (1.0 + 1e-6):
        yield found(8, "spend", "fail", places, most=total.most, cap=total.cap)
        return
    yield found(
        8,
        "spend",
        "pass",
        places,
        persons=total.persons,
        least=total.least,
        median=total.median,
        most=total.most,
        cap=total.cap,
    )


def _lifetime(e: Evidence, total: Spend | None) -> Iterator[Finding]:
    """Over all runs, which only a client's own ledger knows; and when it may spend again, which no ledger says."""
    places = [Place(log.file) for log in e.clients[:5]]
    if total is None or total.lifetime is None:
        yield found(8, "lifetime", "cannot tell")
    elif total.lifetime == math.inf:
        yield found(8, "lifetime-open", "pass", places, runs=total.runs)
    else:
        yield found(8, "lifetime", "pass", places, most=total.lifetime, runs=total.runs)
    yield found(8, "renewal", "cannot tell")


def _refusals(e: Evidence) -> Iterator[Finding]:
    counts = refusals(e.clients)
    if not e.clients:
        yield found(8, "refusals", "cannot tell")
    elif not counts:
        yield found(8, "refusals-none", "pass", [Place(log.file) for log in e.clients[:5]])
    else:
        places = [Place(*_refused(log)) for log in e.clients if log.refusals][:5]
        named = ", ".join(f"{clause} {count}" for clause, count in counts.items())
        yield found(8, "refusals", "pass", places, count=sum(counts.values()), clauses=named[:300])


def _refused(log: ClientLog) -> tuple[str, tuple[int, ...]]:
    return log.file, tuple(refusal.line for refusal in log.refusals[:5])
