"""The claim against a bound recomputed from what was executed; clauses 1 and 6.

A printed epsilon must be at least the PLD upper bound of the client that spent most. Nothing else is a claim: an
estimate that is one percent lower fails as an edited number does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from shared.audit.accountants import accountant_findings
from shared.audit.evidence import Evidence, ServerLog
from shared.audit.executed import Executed, bound, executed, kinds_of, rho_by_client, sampled_of
from shared.audit.findings import Finding, Outcome, Place
from shared.audit.found import at, found, number, plan_of, printed, short
from shared.audit.over_time import Curve, curves
from shared.audit.records import plan_of as read_plan
from shared.privacy import accounting
from shared.privacy.plan import PrivacyPlan, Release
from shared.privacy.plan import printed as printed_bound

__all__ = ["Curve", "budget_findings", "epsilon_by_kind", "epsilon_over_time", "recomputed"]

SLACK: Final = 1e-6  # relative: what versions of numerical libraries may differ by
MOST_EPSILON: Final = 500.0  # without amplification; beyond, a grid fits no memory
MOST_KINDS: Final = 64  # different sampled releases, which a run with the noise that it planned has four of
MOST_STEPS: Final = 10_000_000  # sampled releases that a composition is computed for
PARAMETERS: Final = ("participations", "rounds", "unit", "trust")


def budget_findings(e: Evidence) -> list[Finding]:
    """What is claimed, against what is so."""
    runs = executed(e)
    parts = [_plan_holds(e), _delta(e), _parameters(e), _no_privacy(e)]
    parts += [_claims(e, run) for run in runs if run.plan.epsilon is not None]
    parts += [_per_kind(e, run) for run in runs if run.plan.epsilon is not None]
    parts += [accountant_findings(e, runs)]
    made = list(chain.from_iterable(parts))
    if not any(finding.check.startswith("claim-") for finding in made):
        made.append(found(1, "claim-is-bound", "cannot tell"))
    return made


def epsilon_over_time(e: Evidence) -> tuple[Curve, ...]:
    """For the server's run; without its ledger, for the one run of the clients' ledgers, none if they are several."""
    runs = [run for run in executed(e) if run.exchanges]
    return curves(runs[0]) if len(runs) == 1 else ()


def epsilon_by_kind(e: Evidence) -> dict[Release, float] | None:
    """What each kind of release would cost alone, for the client that spent most on it; None as above."""
    runs = [run for run in executed(e) if run.exchanges]
    return _by_kind(runs[0], runs[0].plan.delta) if len(runs) == 1 and runs[0].plan.epsilon is not None else None


def recomputed(e: Evidence) -> float | None:
    """The PLD upper bound for the client that spent most, at the plan's delta; None as above."""
    runs = [run for run in executed(e) if run.exchanges]
    if len(runs) != 1 or runs[0].plan.epsilon is None:
        return None
    return _worst(runs[0], runs[0].plan.delta)


def _worst(run: Executed, delta: float) -> float:
    return bound(max(rho_by_client(run.exchanges).values(), default=0.0), delta)


def _by_kind(run: Executed, delta: float) -> dict[Release, float]:
    spent = {kind: rho_by_client(run.exchanges, kind) for kind in kinds_of(run.exchanges)}
    return {kind: bound(max(rhos.values(), default=0.0), delta) for kind, rhos in spent.items()}


# --- claims


def _claims(e: Evidence, run: Executed) -> Iterator[Finding]:
    """Every printed number against the bound for the party that it names."""
    if not run.exchanges:
        return
    delta = _told_delta(e, run.plan)
    least = _worst(run, run.plan.delta)
    told: list[tuple[str, float | None, float | None, Place]] = [
        ("plan.epsilon", run.plan.epsilon, least, Place(run.file, (run.line,)))
    ]
    if e.printed is not None:
        place, said = Place(e.printed.file), printed(e, "epsilon")
        least = _worst(run, delta)
        yield from _missing(number(said), least, place)
        told.append(("epsilon", number(said), least, place))
        least_of = _bounds(run, e.server, delta, least)
        told += [
            (f"epsilon_claims.{name}", number(value), least_of.get(name), place)
            for name, value in _printed_claims(e).items()
            if name != "if_others_collude"  # clause 4
        ]
    given = [(name, claim, bound_, place) for name, claim, bound_, place in told if claim is not None]
    unread = [*_unread(e)]
    for name, said in unread:
        yield found(1, "claim-unreadable", "fail", [told[-1][3]], claim=name, printed=said)
    impossible = [one for one in given if one[2] is None]
    low = [one for one in given if one[2] is not None and not claim_holds(one[1], one[2])]
    for name, claim, _, place in impossible:
        yield found(1, "claim-impossible", "fail", [place], claim=name, printed=claim)
    for name, claim, bound_, place in low:
        yield found(1, "claim-is-bound", "fail", [place], claim=name, printed=claim, recomputed=bound_)
    if not low and not impossible and not unread:
        places = list(dict.fromkeys(place for *_, place in given))
        smallest = min(claim for name, claim, _, _ in given if not name.endswith("_amplified"))
        yield found(
            1, "claim-is-bound", "pass", places, claims=len(given), printed=smallest, recomputed=_worst(run, delta)
        )


def claim_holds(claim: float, least: float) -> bool:
    """Whether a printed epsilon is at least the bound, up to the rounding of libraries; a NaN holds nothing."""
    return claim >= least * (1.0 - SLACK)


def _missing(claim: float | None, least: float, place: Place) -> Iterator[Finding]:
    if claim is None:
        yield found(1, "claim-missing", "fail", [place], claim="epsilon", recomputed=least)


def _unread(e: Evidence) -> Iterator[tuple[str, str]]:
    """(name, in short) of printed claims that are no numbers: whoever reads them may take them for some."""
    for name in ("epsilon_claims", "claims"):
        said = printed(e, name)
        if isinstance(said, Mapping):
            for key, value in said.items():
                if value is not None and number(value) is None:
                    yield f"{name}.{str(key)[:40]}", short(value)
        elif said is not None:
            yield name, short(said)


def _printed_claims(e: Evidence) -> Mapping[str, Any]:
    for name in ("epsilon_claims", "claims"):
        said = printed(e, name)
        if isinstance(said, Mapping):
            return {str(key)[:40]: value for key, value in said.items()}
    return {}


def _bounds(run: Executed, server: ServerLog | None, delta: float, least: float) -> dict[str, float | None]:
    """Party -> the least that may be claimed against it; None = nothing may be."""
    everyone = None if run.plan.trust == "central" else least
    amplified = None if server is None else _amplified(run, server, delta, least)
    return {"everyone": everyone, "recipients": least, "recipients_amplified": amplified, "server": everyone}


def _amplified(run: Executed, server: ServerLog, delta: float, least: float) -> float | None:
    """Of every exchange, whoever was drawn; nothing once a round was aborted: that shows who was drawn."""
    rate = run.plan.sampling
    if run.plan.trust != "central" or rate is None or any(made.aborted for made in server.sums):
        return None
    events = sampled_of(run.exchanges, rate)
    if math.isinf(least) or least > MOST_EPSILON:
        return least  # next to no noise: what is left of it by chance makes no claim
    if sum(event.times for event in events) > MOST_STEPS or len(events) > MOST_KINDS:
        return least
    try:
        return printed_bound(lambda below: accounting.epsilon_sampled(events, below), delta)
    except (ArithmeticError, ValueError, MemoryError):  # multipliers that nobody would run with
        return least


def _per_kind(e: Evidence, run: Executed) -> Iterator[Finding]:
    if e.printed is None or not run.exchanges:
        return
    said, place = printed(e, "epsilon_by_kind"), at(e.printed.file)
    if not isinstance(said, Mapping):
        yield found(1, "claim-per-kind", "cannot tell", place)
        return
    low = []
    for kind, least in _by_kind(run, _told_delta(e, run.plan)).items():
        claim = number(said.get(kind))
        if claim is None or not claim_holds(claim, least):
            low.append(found(1, "claim-per-kind", "fail", place, release=kind, printed=claim, recomputed=least))
    yield from low or [found(1, "claim-per-kind", "pass", place, kinds=", ".join(kinds_of(run.exchanges)))]


def _no_privacy(e: Evidence) -> Iterator[Finding]:
    plan = plan_of(e)
    if plan is None or plan.epsilon is not None:
        return
    claim = number(printed(e, "epsilon"))
    if claim is not None and e.printed is not None:
        yield found(1, "claim-without-noise", "fail", at(e.printed.file), claim="epsilon", printed=claim)
    else:
        yield found(1, "claim-none", "fail", _plan_places(e))


# --- delta, the plan and its parameters


def _told_delta(e: Evidence, plan: PrivacyPlan) -> float:
    """The delta that the printed numbers stand beside; the plan's where none or no probability is printed."""
    told = number(printed(e, "delta"))
    return told if told is not None and 1e-100 <= told < 1.0 else plan.delta


def _delta(e: Evidence) -> Iterator[Finding]:
    """Below one in all people, or publishing somebody passes; and the one that the noise was made for."""
    plan = plan_of(e)
    if plan is None:
        return
    users = number(printed(e, "users"))
    asked = {client for charge in e.server.charges for client in charge.cohort} if e.server else set()
    told = int(users) if users is not None and 0 <= users < 1e15 else 0
    people = max(plan.population, len(asked), told)
    outcome: Outcome = "pass" if plan.delta * people < 1.0 else "fail"
    yield found(1, "delta-below", outcome, _plan_places(e), delta=plan.delta, people=people)
    if e.printed is None:
        return
    said, place = number(printed(e, "delta")), at(e.printed.file)
    if said is None:
        yield found(1, "delta-as-planned", "cannot tell", place)
    elif math.isclose(said, plan.delta, rel_tol=1e-9):
        yield found(1, "delta-as-planned", "pass", place, delta=said)
    else:
        yield found(1, "delta-as-planned", "fail", place, printed=said, planned=plan.delta)


def _parameters(e: Evidence) -> Iterator[Finding]:
    """Whoever reads the claim finds the parameters beside it, and they are the plan's."""
    plan = plan_of(e)
    if plan is None or e.printed is None:
        return
    planned: dict[str, int | str] = {"participations": plan.update.participations, "rounds": plan.rounds}
    planned |= {"unit": plan.unit, "trust": plan.trust}
    place, said = at(e.printed.file), {name: printed(e, name) for name in PARAMETERS}
    wrong = [name for name in PARAMETERS if said[name] is not None and said[name] != planned[name]]
    missing = [name for name in PARAMETERS if said[name] is None]
    for name in wrong:
        yield found(1, "parameters", "fail", place, name=name, printed=str(said[name])[:40], planned=planned[name])
    if missing:
        yield found(1, "parameters", "cannot tell", place, missing=", ".join(missing))
    elif not wrong:
        yield found(1, "parameters", "pass", place, participations=plan.update.participations, rounds=plan.rounds)


def _plan_holds(e: Evidence) -> Iterator[Finding]:
    """Every plan that a ledger names keeps its promise, by its own numbers."""
    named: list[tuple[Mapping[str, Any], str, int]] = []
    if e.server is not None and e.server.key is not None:
        named.append((e.server.named, e.server.file, 1))
    named += [(pin.named, log.file, pin.line) for log in e.clients for pin in log.pins]
    known: dict[str, Finding | None] = {}
    for raw, file, line in named:
        spelling = json.dumps(raw, sort_keys=True)
        if spelling not in known:
            plan, why = read_plan(raw)
            known[spelling] = None if plan is not None else _broken(why, at(file, [line]))
    broken = [finding for finding in known.values() if finding is not None]
    if broken:
        yield from broken[:5]
        return
    plan = plan_of(e)
    if plan is not None:
        yield found(1, "plan-keeps-promise", "pass", _plan_places(e), epsilon=plan.epsilon, delta=plan.delta)


def _broken(why: str, places: tuple[Place, ...]) -> Finding:
    return found(1, "plan-keeps-promise", "fail", places, why=why)


def _plan_places(e: Evidence) -> tuple[Place, ...]:
    if e.server is not None:
        return at(e.server.file, [1])
    return tuple(Place(log.file, (pin.line,)) for log in e.clients[:1] for pin in log.pins[:1])
