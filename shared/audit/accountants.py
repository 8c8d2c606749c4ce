"""What the accountants say of the recomputed bound, and whether ledgers charge what the plan says; clause 6."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from shared.audit import witnesses
from shared.audit.evidence import Charge, Evidence, Payment
from shared.audit.executed import Executed, bound, releases_of, rho_by_client, worst_client
from shared.audit.findings import Finding, Outcome, Place
from shared.audit.found import at, close, found, number, printed
from shared.privacy.plan import PrivacyPlan

NEAR: Final = 1e-4  # epsilons that differ by less agree: the grid of PRV is no finer


def accountant_findings(e: Evidence, runs: Sequence[Executed]) -> Iterator[Finding]:
    """A second and a third accountant on each run, the prices in ledgers, and the accountant that people are told."""
    yield from _prices(e)
    yield from _named(e)
    for run in runs:
        if run.plan.epsilon is not None and run.exchanges:
            yield from _witnesses(e, run)
            yield from _composed(e, run)


def _witnesses(e: Evidence, run: Executed) -> Iterator[Finding]:
    """PRV within two percent of the bound for the client that spent most, RDP not below it."""
    client = worst_client(run.exchanges)
    if client is None:
        return  # every cohort was empty
    events, delta = releases_of(run.exchanges, client), run.plan.delta
    pld = bound(rho_by_client(run.exchanges)[client], delta)
    renyi, numeric = witnesses.rdp(events, delta), witnesses.prv(events, delta)
    place, version = at(run.file, [run.line]), witnesses.version_of("dp-accounting")
    outcome: Outcome = "pass" if renyi >= pld - NEAR else "fail"
    yield found(6, "rdp", outcome, place, rdp=renyi, pld=pld, version=version)
    if numeric is None:
        yield found(6, "prv", "cannot tell", place)
    else:
        outcome = "pass" if _agree(numeric, pld) else "fail"
        percent = abs(numeric / pld - 1.0) * 100.0 if 0.0 < pld < float("inf") else 0.0
        version = witnesses.version_of("prv-accountant")
        yield found(6, "prv", outcome, place, prv=numeric, pld=pld, percent=percent, version=version)
    yield from _printed_second(e, run, pld)


def _agree(one: float, other: float) -> bool:
    return one == other or abs(one - other) <= max(witnesses.WITHIN * other, NEAR)


def _printed_second(e: Evidence, run: Executed, pld: float) -> Iterator[Finding]:
    """The second accountant that the summary prints read the clients' ledgers too."""
    said = printed(e, "second_accountant")
    if e.printed is None or not isinstance(said, Mapping) or run.source != "clients":
        return
    place, numeric, renyi = at(e.printed.file), number(said.get("prv")), number(said.get("rdp"))
    if numeric is None and renyi is None:
        yield found(6, "second-printed", "cannot tell", place)
        return
    holds = (numeric is None or _agree(numeric, pld)) and (renyi is None or renyi >= pld - NEAR)
    told = renyi if numeric is None else numeric
    yield found(6, "second-printed", "pass" if holds else "fail", place, printed=told, recomputed=pld)


def _composed(e: Evidence, run: Executed) -> Iterator[Finding]:
    """Prices of zCDP add up, also when a release is chosen after seeing earlier ones; that asks nothing of the log."""
    place, count = at(run.file, [run.line]), len(run.exchanges)
    yield found(6, "composition", "pass", place, releases=count)
    if run.plan.sampling is not None and e.server is not None:
        yield found(6, "composition-sampled", "pass", place, exchanges=len(e.server.charges), rate=run.plan.sampling)


def _named(e: Evidence) -> Iterator[Finding]:
    """The accountant that people are told of gives an upper bound."""
    if e.printed is None:
        return
    said, place = printed(e, "accountant"), at(e.printed.file)
    if not isinstance(said, str):
        yield found(6, "accountant", "cannot tell", place)
        return
    holds = "upper bound" in said.lower() and "estimate" not in said.lower()
    yield found(6, "accountant", "pass" if holds else "fail", place, accountant=said[:120])


def _prices(e: Evidence) -> Iterator[Finding]:
    """What every charge and every payment says that it costs is what its plan says."""
    wrong: list[tuple[str, Charge | Payment, float | None]] = []
    charges = payments = 0
    if e.server is not None and e.server.plan is not None:
        charges = len(e.server.charges)
        wrong += _mispriced(e.server.file, e.server.charges, {"": e.server.plan})
    for log in e.clients:
        plans = {pin.run: pin.plan for pin in log.pins if pin.plan is not None}
        payments += sum(payment.run in plans for payment in log.payments)
        wrong += _mispriced(log.file, log.payments, plans)
    if wrong:
        _, first, expected = wrong[0]
        places = [Place(file, (entry.line,)) for file, entry, _ in wrong[:5]]
        yield found(
            6,
            "rho-as-charged",
            "fail",
            places,
            stated=first.rho,
            expected=expected,
            release=first.release,
            count=len(wrong),
        )
    elif charges or payments:
        files = ([e.server.file] if charges and e.server else []) + [log.file for log in e.clients]
        yield found(
            6, "rho-as-charged", "pass", [Place(file) for file in files[:5]], charges=charges, payments=payments
        )


def _mispriced(
    file: str, entries: Iterable[Charge | Payment], plans: Mapping[str, PrivacyPlan]
) -> list[tuple[str, Charge | Payment, float | None]]:
    """(file, entry, right price) of what costs something else than its plan says; run "" = of a server's charges."""
    prices = {
        (run, kind): None if plan.epsilon is None else plan.mechanism(kind).rho
        for run, plan in plans.items()
        for kind in plan.full()
    }
    wrong: list[tuple[str, Charge | Payment, float | None]] = []
    for entry in entries:
        name = (entry.run if isinstance(entry, Payment) else "", entry.release)
        if name in prices and not _same(entry.rho, prices[name]):
            wrong.append((file, entry, prices[name]))
    return wrong


def _same(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else close(one, other)
