"""Noise as executed, against the plan: who drew it and from where, how much of it lies in every sum, and for whom.

Clauses 4 (recipients, trust, collusion, dropout) and 5 (events); ``hazards.py`` adds clause 10. Nothing here sees a
vector: what a ledger says of its noise is compared with what the plan asks for and with who answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

from shared.audit.evidence import Charge, Evidence, Payment, Pin, ServerLog, Sum
from shared.audit.executed import bound
from shared.audit.findings import Finding, Place
from shared.audit.found import (
    at,
    charge_of,
    close,
    found,
    kinds_named,
    most_charged,
    number,
    plan_of,
    plan_place,
    printed,
    standing_of,
)
from shared.audit.hazards import hazard_findings
from shared.privacy import accounting
from shared.privacy.plan import PrivacyPlan, Release

SEEDED_DAYS: Final = "2020-01-01"  # a seeded simulation writes 1970; no deployment is older than this project


def noise_findings(e: Evidence) -> list[Finding]:
    """What the ledgers say of noise, dropouts and recipients: clauses 4, 5 and 10."""
    parts = [_kind(e), _sources(e), _clock(e), _shares(e), iter(hazard_findings(e))]
    if e.server is None:
        parts += [iter([found(4, "server-ledger", "cannot tell"), found(5, "server-ledger", "cannot tell")])]
    else:
        parts += [_recipients(e), _masking(e), _collusion(e, e.server), _dropouts(e.server)]
        parts += [_survivors(e.server), _sums(e.server), _aborted(e.server), _pins(e, e.server)]
    return list(chain.from_iterable(parts))


def _recipients(e: Evidence) -> Iterator[Finding]:
    plan = plan_of(e)
    if plan is None:
        return
    if plan.epsilon is None:
        yield found(4, "recipients-none", "fail", plan_place(e))
        return
    values = {}
    if plan.trust == "distributed":
        values = {"colluders": plan.colluders, "smallest": plan.smallest_cohort, "honest": plan.honest}
    yield found(4, f"recipients-{plan.trust}", "pass", plan_place(e), **values)


def _masking(e: Evidence) -> Iterator[Finding]:
    """Whether somebody says that sums were masked: no ledger shows a mask."""
    plan, said = plan_of(e), printed(e, "secure_aggregation")
    if not isinstance(said, str) or plan is None or e.printed is None:
        yield found(4, "masking", "cannot tell")
        return
    word, places = said.split(":")[0].strip()[:40], at(e.printed.file)
    if word == "real" or (word == "not needed" and plan.trust == "local"):
        yield found(4, "masking", "pass", places, said=word)
    elif word == "ideal" and standing_of(e) == "simulation":
        yield found(4, "masking-ideal", "pass", places)
    else:
        yield found(4, "masking", "fail", places, said=word, kind=standing_of(e))


def _collusion(e: Evidence, server: ServerLog) -> Iterator[Finding]:
    """What is left if everybody else belongs to the server must stand beside the claim, and be large enough."""
    plan = server.plan
    if plan is None or plan.epsilon is None:
        return
    least = _alone(plan, server)
    if least is None and e.printed is None:
        yield found(4, "collusion-central", "cannot tell", plan_place(e))
        return
    if e.printed is None or "epsilon_if_others_collude" not in e.printed.content:
        yield found(4, "collusion", "cannot tell", recomputed=least)
        return
    told, places = number(printed(e, "epsilon_if_others_collude")), at(e.printed.file)
    if least is None:
        against = printed(e, "epsilon_claims")
        server_claim = number(against.get("server")) if isinstance(against, dict) else None
        wrong = server_claim if told is None else told
        yield found(4, "collusion-central", "pass" if wrong is None else "fail", places, printed=wrong)
        return
    holds = told is not None and told >= least * (1.0 - 1e-9)
    yield found(4, "collusion", "pass" if holds else "fail", places, printed=told, recomputed=least)


def _alone(plan: PrivacyPlan, server: ServerLog) -> float | None:
    """As ``shared.privacy.plan.claims`` has it; without its other claims, whose grid hostile charges could blow up."""
    counts = most_charged(server)
    if plan.trust == "distributed":
        return accounting.epsilon_by_zcdp(plan.honest * plan.spent(counts), plan.delta)
    return None if plan.trust == "central" else bound(plan.claimed(counts), plan.delta)


def _dropouts(server: ServerLog) -> Iterator[Finding]:
    """Whoever was asked answered, declined or failed; nobody else did."""
    charges, wrong = charge_of(server), []
    for made in server.sums:
        charge = charges.get((made.round, made.attempt, made.release))
        if charge is None:
            continue
        gone, asked = (*made.declined, *made.failed), set(charge.cohort)
        if len(set(gone)) < len(gone) or not asked.issuperset(gone) or len(asked) - len(gone) != made.survivors:
            wrong += [charge.line, made.line]
    if wrong:
        yield found(4, "dropouts", "fail", at(server.file, wrong), count=len(wrong) // 2)
        return
    yield found(
        4,
        "dropouts",
        "pass",
        at(server.file, [made.line for made in server.sums if made.declined or made.failed]),
        sums=len(server.sums),
        declined=sum(len(made.declined) for made in server.sums),
        failed=sum(len(made.failed) for made in server.sums),
    )


def _survivors(server: ServerLog) -> Iterator[Finding]:
    """Shares are sized for the smallest cohort: a sum of fewer has less noise than was promised."""
    used = [made for made in server.sums if not made.aborted]
    if server.plan is None or not used:
        yield found(5, "cohort-survivors", "cannot tell")
        return
    smallest, least = server.plan.smallest_cohort, min(made.survivors for made in used)
    few = [made.line for made in used if made.survivors < smallest]
    if few:
        yield found(
            5,
            "cohort-survivors",
            "fail",
            at(server.file, few),
            survivors=least,
            smallest=smallest,
            count=len(few),
        )
    else:
        yield found(5, "cohort-survivors", "pass", at(server.file), smallest=smallest, least=least)


def _sums(server: ServerLog) -> Iterator[Finding]:
    """The noise that a result states is the plan's, for as many survivors as answered."""
    plan = server.plan
    if plan is None or not server.sums:
        yield found(5, "noise-in-sum", "cannot tell")
        return

    def expected(made: Sum) -> float:
        return plan.sum_sigma(made.release, min(max(0, made.survivors), plan.population))

    wrong = [made for made in server.sums if not close(made.sum_sigma, expected(made))]
    if not wrong:
        yield found(5, "noise-in-sum", "pass", at(server.file), sums=len(server.sums))
        return
    first = wrong[0]
    yield found(
        5,
        "noise-in-sum",
        "fail",
        at(server.file, [made.line for made in wrong]),
        stated=first.sum_sigma,
        expected=expected(first),
        release=first.release,
        count=len(wrong),
    )


def _aborted(server: ServerLog) -> Iterator[Finding]:
    """A round that came to nothing was charged all the same: every result has its charge before it."""
    charges = charge_of(server)
    free = []
    for made in server.sums:
        charge = charges.get((made.round, made.attempt, made.release))
        if charge is None or charge.line >= made.line:
            free.append(made.line)
    if free:
        yield found(5, "aborted-charged", "fail", at(server.file, free), count=len(free))
        return
    aborted = [made.line for made in server.sums if made.aborted]
    unfinished = len(server.charges) - len(server.sums)
    yield found(
        5,
        "aborted-charged",
        "pass",
        at(server.file, aborted),
        aborted=len(aborted),
        charged=len(aborted) + max(0, unfinished),
    )


def _shares(e: Evidence) -> Iterator[Finding]:
    """Each client's own noise is that of the plan that it pinned."""
    count, wrong, places = 0, 0, list[Place]()
    first: tuple[float, float, Release] | None = None
    for log in e.clients:
        expected = _share_sigmas(log.pins, None if e.server is None else e.server.plan)
        lines = []
        for payment in log.payments:
            sigma = expected.get((payment.run, payment.release), expected.get(("", payment.release)))
            if sigma is None:
                continue  # a payment without a pin is told by the checks of the chain
            count += 1
            if not close(payment.share_sigma, sigma):
                lines.append(payment.line)
                first = first or (payment.share_sigma, sigma, payment.release)
        if lines:
            wrong += len(lines)
            places += at(log.file, lines)
    if first is not None:
        stated, right, release = first
        yield found(5, "share", "fail", places, stated=stated, expected=right, release=release, count=wrong)
    elif count:
        yield found(5, "share", "pass", [Place(log.file) for log in e.clients[:5]], payments=count)
    else:
        yield found(5, "share", "cannot tell")


def _share_sigmas(pins: Sequence[Pin], server: PrivacyPlan | None) -> dict[tuple[str, Release], float]:
    """(run, kind of release) -> what a share must be; run "" = where no plan was pinned."""
    plans = {pin.run: pin.plan for pin in pins if pin.plan is not None}
    if server is not None:
        plans.setdefault("", server)
    return {(run, kind): plan.share_sigma(kind) for run, plan in plans.items() for kind in plan.full()}


def _sources(e: Evidence) -> Iterator[Finding]:
    """Noise comes from the operating system, drawn by the party that the trust names; seeded in simulations alone."""
    named, plan = set(kinds_named(e)), plan_of(e)
    simulated = named == {"simulation"}
    drawn = {"os", "seeded"} if simulated else {"os"}
    server_draws = plan is not None and plan.trust == "central"
    wrong: list[Charge | Payment] = []
    places: list[Place] = []
    seeded = False
    if e.server is not None:
        allowed = drawn if server_draws else {"clients"}
        wrong += [charge for charge in e.server.charges if charge.noise_source not in allowed]
        places += at(e.server.file, [charge.line for charge in wrong]) if wrong else []
        seeded = server_draws and any(charge.noise_source == "seeded" for charge in e.server.charges)
    for log in e.clients:
        bad = [payment for payment in log.payments if payment.noise_source not in drawn]
        places += at(log.file, [payment.line for payment in bad]) if bad else []
        wrong += bad
        seeded = seeded or any(payment.noise_source == "seeded" for payment in log.payments)
    kind = "simulation" if simulated else "deployment"
    if wrong:
        yield found(
            5,
            "source",
            "fail",
            places[:5],
            found=wrong[0].noise_source[:40],
            expected=", ".join(sorted(drawn)) if isinstance(wrong[0], Payment) or server_draws else "clients",
            count=len(wrong),
        )
    elif not any(log.payments for log in e.clients) and not (server_draws and e.server and e.server.charges):
        yield found(5, "source", "cannot tell")
    elif seeded:
        yield found(5, "source-seeded", "pass")
    else:
        yield found(5, "source", "pass", kind=kind)


def _clock(e: Evidence) -> Iterator[Finding]:
    """A seeded simulation has no clock; a deployment that has none either is not what it says."""
    if set(kinds_named(e)) == {"simulation"}:
        return
    days = [(payment.day, log.file, payment.line) for log in e.clients for payment in log.payments]
    if not days:
        return
    old = [(file, line) for day, file, line in days if day < SEEDED_DAYS]
    earliest = min(day for day, _, _ in days)
    if old:
        file = old[0][0]
        lines = [line for name, line in old if name == file]
        yield found(5, "clock", "fail", at(file, lines), day=earliest[:10], count=len(old))
    else:
        yield found(5, "clock", "pass", earliest=earliest[:10])


def _kind(e: Evidence) -> Iterator[Finding]:
    named = kinds_named(e)
    if not named:
        return
    places = tuple(chain.from_iterable(named.values()))
    if len(named) == 1:
        yield found(5, "kind-as-judged", "pass", places, kind=next(iter(named)))
    else:
        yield found(5, "kind-as-judged", "fail", places, kinds=", ".join(sorted(named))[:100])


def _pins(e: Evidence, server: ServerLog) -> Iterator[Finding]:
    """Every client holds the run to the plan, the catalogue and the key that the server's ledger names."""
    agree, wrong, places = 0, dict[str, None](), list[Place]()
    for log in e.clients:
        for pin in log.pins:
            if pin.run != server.run:
                continue
            different = _different(pin, server)
            agree += not different
            if different:
                wrong |= dict.fromkeys(different)
                places += [*at(log.file, [pin.line]), *at(server.file, [1])]
    if wrong:
        yield found(5, "plans-agree", "fail", places[:6], what=", ".join(wrong), count=len(places) // 2)
    elif agree:
        yield found(5, "plans-agree", "pass", at(server.file, [1]), ledgers=agree)
    else:
        yield found(5, "plans-agree", "cannot tell")


def _different(pin: Pin, server: ServerLog) -> list[str]:
    same = {
        "plan": dict(pin.named) == dict(server.named) and pin.plan == server.plan,
        "catalogue": pin.catalogue == server.catalogue,
        "server": server.key is None or pin.server == server.key,
        "kind": server.kind is None or pin.kind == server.kind,
    }
    return [what for what, agrees in same.items() if not agrees]
