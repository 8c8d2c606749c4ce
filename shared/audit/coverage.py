"""What the claim covers: every kind of release, the metrics, tuning, earlier runs; and what it does not.

Clauses 3 (accesses covered) and 12 (what only an officer can fill in).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from shared.audit.evidence import Evidence, ServerLog
from shared.audit.findings import Finding, Outcome, Place
from shared.audit.found import at, found, kinds_named, number, plan_of, printed, short, standing_of

OFFICER: Final = ("purpose", "retention", "deletion", "sign-off")  # no ledger knows them
ORACLE: Final = ("test", "valid", "test_reading_train", "baselines")  # of a summary: what a simulation alone can know
ALWAYS: Final = ("enrolment", "several-devices", "poisoning", "timing", "error-paths", "access", "code", "deletion")


def coverage_findings(e: Evidence) -> list[Finding]:
    """What was accessed and whether it was charged: clauses 3 and 12."""
    parts = [_kinds(e), _outside(e), _tuning(e), _earlier(e)]
    if e.server is None:
        parts.append(iter([found(3, "server-ledger", "cannot tell")]))
    else:
        parts += [_decisions(e.server), _ending(e, e.server)]
    if plan_of(e) is not None:
        parts.append(iter([found(3, "clip-fixed", "pass", at(e.server.file, [1]) if e.server else ())]))
    parts.append(found(12, name, "cannot tell") for name in OFFICER)
    return list(chain.from_iterable(parts))


def not_covered(e: Evidence) -> list[str]:
    """Keys of what the claim leaves open, the gravest first; ``texts.py`` has a sentence for each."""
    plan = plan_of(e)
    masking = short(printed(e, "secure_aggregation"))
    open_ = {
        "no-privacy": plan is not None and plan.epsilon is None,
        "against-server": plan is not None and plan.trust == "central",
        "event-level": plan is not None and plan.unit == "interaction",
        "collusion-beyond": plan is not None and plan.trust == "distributed",
        "sums-unmasked": masking.startswith("ideal"),
        "single-client-central": plan is not None and plan.trust == "central" and plan.smallest_cohort < 2,
        "amplification-readers": plan is not None and plan.sampling is not None,
        "float-local": plan is not None and plan.trust == "local",
        "oracle-folder": "simulation" in kinds_named(e),
        "tuning": printed(e, "covers_tuning") is not True,
        "other-runs": bool(_others(e)),
    }
    return [*(key for key, holds in open_.items() if holds), *ALWAYS]


def _kinds(e: Evidence) -> Iterator[Finding]:
    """Whatever kind of release a ledger shows, the plan accounts for."""
    plan = plan_of(e)
    if plan is None:
        yield found(3, "kinds-covered", "cannot tell")
        return
    run = None if e.server is None else e.server.run
    seen = dict.fromkeys(charge.release for charge in e.server.charges) if e.server else {}
    for log in e.clients:
        seen |= dict.fromkeys(payment.release for payment in log.payments if run in (None, payment.run))
    extra = [kind for kind in seen if plan.mechanism(kind).participations == 0]
    if not extra:
        yield found(3, "kinds-covered", "pass", at(e.server.file, [1]) if e.server else (), kinds=", ".join(seen))
        return
    places: list[Place] = []
    if e.server is not None:
        places += at(e.server.file, [charge.line for charge in e.server.charges if charge.release in extra])
    yield found(3, "kinds-covered", "fail", places, kinds=", ".join(extra), count=len(extra))


def _decisions(server: ServerLog) -> Iterator[Finding]:
    """A decision tells numbers of a measurement that was charged, summed and not aborted; each of its own."""
    decisions = [(line, event) for line, event in server.events if event.get("type") == "decision"]
    paid = Counter(made.round for made in server.sums if made.release == "measurement" and not made.aborted)
    first: dict[int, int] = {}
    for made in server.sums:
        if made.release == "measurement" and not made.aborted:
            first.setdefault(made.round, made.line)
    told: Counter[object] = Counter()
    free: list[tuple[int, object]] = []
    for line, event in decisions:
        if event.get("sight") is None and event.get("estimate") is None:
            continue
        round_ = event.get("round")
        name = round_ if isinstance(round_, int) else None
        told[name] += 1
        if name is None or told[name] > paid[name] or first[name] >= line:
            free.append((line, round_))
    if free:
        rounds = ", ".join(dict.fromkeys(short(round_, 20) for _, round_ in free[:5]))
        lines = [line for line, _ in free]
        yield found(3, "metrics-charged", "fail", at(server.file, lines), rounds=rounds, count=len(free))
    else:
        lines = [line for line, _ in decisions]
        yield found(3, "metrics-charged", "pass", at(server.file, lines), decisions=len(decisions))


def _ending(e: Evidence, server: ServerLog) -> Iterator[Finding]:
    """The recall that the end of a run, or its summary, tells of the model is one that a decision holds."""
    told = [(at(server.file, [line]), event.get("model")) for line, event in server.ends]
    if e.printed is not None:
        told.append((at(e.printed.file), e.printed.content.get("model")))
    seen = {(event.get("round"), _value(event, "sight", "recall")) for _, event in server.events if _is(event)}
    seen = {one for one in seen if one[1] is not None}  # a decision that tells nothing vouches for nothing
    checked = 0
    for places, model in told:
        if not isinstance(model, Mapping) or model.get("estimate") is None:
            continue
        checked += 1
        round_ = model.get("round")
        if not isinstance(round_, int) or (round_, _value(model, "estimate")) not in seen:
            yield found(3, "ending-charged", "fail", places, round=short(round_, 20))
            return
    if checked:
        yield found(3, "ending-charged", "pass", told[0][0])


def _is(event: Mapping[str, Any]) -> bool:
    return event.get("type") == "decision" and isinstance(event.get("round"), int)


def _value(event: Mapping[str, Any], *path: str) -> float | None:
    """The ``value`` at the end of a path of keys; None where there is none."""
    inner: object = event
    for name in (*path, "value"):
        inner = inner.get(name) if isinstance(inner, Mapping) else None
    return number(inner)


def _outside(e: Evidence) -> Iterator[Finding]:
    """A simulation has an oracle's metrics, and says so; in a deployment they are a release that nobody paid for."""
    if standing_of(e) == "simulation":
        return
    if e.printed is None:
        yield found(3, "metrics-outside", "cannot tell")
        return
    names = [name for name in ORACLE if e.printed.content.get(name) is not None]
    outcome: Outcome = "fail" if names else "pass"
    values = {"names": ", ".join(names)} if names else {}
    yield Finding(3, "metrics-outside", outcome, values, at(e.printed.file))


def _tuning(e: Evidence) -> Iterator[Finding]:
    said = printed(e, "covers_tuning")
    places = () if e.printed is None else at(e.printed.file)
    if said is False:
        yield found(3, "tuning", "pass", places)
    elif said is True:
        yield found(3, "tuning-claimed", "cannot tell", places)
    else:
        yield found(3, "tuning", "cannot tell")


def _earlier(e: Evidence) -> Iterator[Finding]:
    """Other runs that the same ledgers paid for; the claim is of one run."""
    others = _others(e)
    if not e.clients:
        yield found(3, "earlier-runs", "cannot tell")
    elif others:
        places = tuple(chain.from_iterable(others.values()))[:5]
        yield found(3, "earlier-runs-others", "pass", places, count=len(others), runs=", ".join(others)[:100])
    else:
        yield found(3, "earlier-runs", "pass", [Place(log.file) for log in e.clients[:5]], clients=len(e.clients))


def _others(e: Evidence) -> dict[str, tuple[Place, ...]]:
    """Run -> where it was pinned, but for the run of the server's ledger, or the last one pinned without that."""
    pins = [(pin.run, log.file, pin.line) for log in e.clients for pin in log.pins]
    this = e.server.run if e.server is not None else (pins[-1][0] if pins else "")
    others: dict[str, tuple[Place, ...]] = {}
    for run, file, line in pins:
        if run != this:
            others.setdefault(run, at(file, [line]))
    return others
