"""Clause 10, hazards: what the plan's arithmetic leaves open and whether it is said, and what no ledger can show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shared.audit.evidence import Evidence
from shared.audit.findings import Finding
from shared.audit.found import at, found, kinds_named, plan_of, plan_place, printed, short
from shared.privacy.plan import PrivacyPlan

UNSEEN: Final = ("timing", "error-paths", "access", "code")


def hazard_findings(e: Evidence) -> list[Finding]:
    """Clause 10."""
    return list(_hazards(e))


def _hazards(e: Evidence) -> Iterator[Finding]:
    plan = plan_of(e)
    if plan is not None:
        yield _arithmetic(e, plan)
        yield _unit_said(e, plan)
    if "simulation" in kinds_named(e):
        yield _folder(e)
    yield from (found(10, name, "cannot tell") for name in UNSEEN)


def _arithmetic(e: Evidence, plan: PrivacyPlan) -> Finding:
    if plan.trust != "local":
        return found(10, "arithmetic", "pass", plan_place(e))
    if e.printed is None:
        return found(10, "float", "cannot tell")
    said = printed(e, "not_covered")
    marked = isinstance(said, list) and any("float" in short(sentence, 300).lower() for sentence in said)
    return found(10, "float", "pass" if marked else "fail", at(e.printed.file))


def _unit_said(e: Evidence, plan: PrivacyPlan) -> Finding:
    """One event is less than a person; whoever promises it says so where people read it."""
    if plan.unit == "user":
        return found(10, "user-level", "pass", plan_place(e))
    if e.printed is None:
        return found(10, "event-level", "cannot tell")
    said = printed(e, "unit")
    if said == "interaction":
        return found(10, "event-level", "pass", at(e.printed.file))
    return found(10, "event-level", "fail", at(e.printed.file), printed=short(said))


def _folder(e: Evidence) -> Finding:
    if e.printed is None:
        return found(10, "simulation-folder", "cannot tell")
    said = printed(e, "kind")
    if said == "simulation":
        return found(10, "simulation-folder", "pass", at(e.printed.file))
    return found(10, "simulation-folder", "fail", at(e.printed.file), said=short(said))
