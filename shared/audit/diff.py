"""Two audits side by side: the clauses, the checks and the numbers in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shared.audit.findings import CLAUSES, Finding, Value
from shared.audit.verify import Report
from shared.privacy.plan import plan_to_dict


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same.

    Attributes:
        what: "clause 5", "5 source" (a check), "claimed", "plan.update.clip", ...
        a, b: what each audit has; None = nothing.
    """

    what: str
    a: Value
    b: Value


def diff(a: Report, b: Report) -> tuple[Difference, ...]:
    """What differs: the verdict first, then clauses, checks, numbers of the audit, of the plan and of the spending."""
    sides = [dict(_told(report)) for report in (a, b)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    pairs = ((name, sides[0].get(name), sides[1].get(name)) for name in names)
    return tuple(Difference(name, left, right) for name, left, right in pairs if not _same(left, right))


def _told(report: Report) -> Iterator[tuple[str, Value]]:
    yield "verdict", report.outcome
    yield "judged as", report.standing
    yield from ((f"clause {clause}", report.outcomes.get(clause)) for clause in CLAUSES)
    yield from _checks(report.findings)
    yield "claimed", report.claimed
    yield "delta", report.delta
    yield "recomputed", report.recomputed
    for curve in report.epsilon_over_time:
        yield f"epsilon.{curve.kind}", max(curve.epsilon, default=None)
        yield f"rounds.{curve.kind}", max(curve.rounds, default=None)
    yield from _flat("plan", None if report.plan is None else plan_to_dict(report.plan))
    yield from _flat("spend", None if report.spend is None else asdict(report.spend))
    yield from ((f"not covered: {key}", "listed") for key in report.not_covered)
    yield "ledgers", len(report.files)
    yield "lines", sum(lines for _, lines in report.files)


def _checks(findings: tuple[Finding, ...]) -> Iterator[tuple[str, Value]]:
    """Each check once, with its worst outcome: findings come the worst first."""
    seen: dict[str, Value] = {}
    for finding in findings:
        seen.setdefault(f"{finding.clause} {finding.check}", finding.outcome)
    yield from seen.items()


def _flat(name: str, value: Any) -> Iterator[tuple[str, Value]]:  # noqa: ANN401 - fields of any record
    """A record's numbers and words by their path; long rows of numbers, a histogram say, are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif isinstance(value, tuple | list):
        if len(value) <= 2:
            for place, inner in enumerate(value):
                yield from _flat(f"{name}.{place}", inner)
    elif value is None or isinstance(value, str | int | float):
        yield name, value


def _same(left: Value, right: Value) -> bool:
    return left == right or (left != left and right != right)  # noqa: PLR0124 - NaN is the same as NaN
