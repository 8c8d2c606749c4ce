"""The whole audit: every check on the evidence, the outcome of every clause, and one verdict.

Rules of the verdict:

1. One finding that fails fails its clause and the run, whatever else passes.
2. What no ledger can ever show (``BEYOND``: timing, access, purpose, retention, ...) is listed as "cannot tell" for the
   officer to fill in; it decides neither a clause that has other checks nor the verdict.
3. Anything else that the evidence leaves open (a client's ledger or the keys are missing, no attack was made) makes the
   verdict "cannot tell".
4. What a run is, simulation or deployment, comes from its plan, and it is judged as that; where ledgers disagree it
   passes as neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from shared.audit.budget import Curve, budget_findings, epsilon_over_time, recomputed
from shared.audit.chain_checks import chain_findings
from shared.audit.coverage import coverage_findings, not_covered
from shared.audit.empirical import empirical_findings
from shared.audit.evidence import Evidence, Standing
from shared.audit.findings import CLAUSES, EXIT_CODES, OUTCOMES, Finding, Outcome, Value, worst
from shared.audit.found import claimed_of, number, plan_of, printed, standing_of
from shared.audit.noise_checks import noise_findings
from shared.audit.participation import Spend, participation_findings, spend
from shared.privacy.plan import PrivacyPlan

VERDICT: Final = 11  # its clause
BEYOND: Final = frozenset(
    {"timing", "error-paths", "access", "code", "enrolments", "renewal", "purpose", "retention", "deletion", "sign-off"}
)
OF_CHARGES: Final = ("metrics-charged", "dropouts", "aborted-charged", "order", "gaps", "decisions", "replays")
"""Checks that go through charges, and pass where there is none."""


@dataclass(frozen=True)
class Report:
    """All that an audit found.

    Attributes:
        subject: the run's folder or the ledger, as the auditor named it.
        command: what to type to see this again.
        run: id of the run; "" = the evidence names none.
        standing: what it was judged as.
        plan: what is promised; None = it cannot be read, or clients' ledgers name several.
        verdict: clause 11, in one finding.
        outcomes: by clause, those left out absent.
        findings: of clauses 1 to 10 and 12, in their order.
        claimed: epsilon as people are told; None = no claim.
        delta: as people are told.
        recomputed: the upper bound from what was executed, for the person that paid most; None = it cannot be told.
        epsilon_over_time: by kind of release and together.
        spend: per person; None = no ledger tells.
        not_covered: keys of what the claim leaves open.
        attack: content of ``attack.json``; None = there is none, or it was left out.
        files: (name, lines read) of every ledger.
        version: of the auditor.
    """

    subject: str
    command: str
    run: str
    standing: Standing
    plan: PrivacyPlan | None
    verdict: Finding
    outcomes: Mapping[int, Outcome]
    findings: tuple[Finding, ...]
    claimed: float | None
    delta: float | None
    recomputed: float | None
    epsilon_over_time: tuple[Curve, ...]
    spend: Spend | None
    not_covered: tuple[str, ...]
    attack: Mapping[str, Any] | None
    files: tuple[tuple[str, int], ...]
    version: str

    @property
    def outcome(self) -> Outcome:
        """Of the whole audit."""
        return self.verdict.outcome

    @property
    def exit_code(self) -> int:
        """Of the command: 0 pass, 3 fail, 4 cannot tell."""
        return EXIT_CODES[self.outcome]

    def of(self, clause: int) -> tuple[Finding, ...]:
        """The findings of one clause."""
        return tuple(finding for finding in (*self.findings, self.verdict) if finding.clause == clause)


def verify(e: Evidence, *, subject: str = "", command: str = "") -> Report:
    """Audit what the ledgers say.

    Args:
        e: as :func:`shared.audit.reading.read_evidence` made it, or by hand.
        subject, command: as in :class:`Report`; the page prints them.
    """
    findings = all_findings(e)
    return Report(
        subject=subject,
        command=command,
        run=_run(e),
        standing=standing_of(e),
        plan=plan_of(e),
        verdict=(verdict := _verdict(e, findings)),
        outcomes=_outcomes(findings, verdict),
        findings=findings,
        claimed=claimed_of(e),
        delta=_delta(e),
        recomputed=recomputed(e),
        epsilon_over_time=epsilon_over_time(e),
        spend=spend(e),
        not_covered=tuple(not_covered(e)),
        attack=e.attack if e.empirical else None,
        files=_files(e),
        version=_version(),
    )


def all_findings(e: Evidence) -> tuple[Finding, ...]:
    """Every check but the verdict, by clause; within one the worst first, and what no ledger shows last."""
    found = [
        *e.reading,
        *budget_findings(e),
        *participation_findings(e),
        *coverage_findings(e),
        *noise_findings(e),
        *chain_findings(e),
        *empirical_findings(e),
    ]
    if not e.empirical:
        found = [finding for finding in found if finding.clause != 9]
    if e.server is not None and not e.server.charges:
        # Nothing was asked, or nothing could be read: that nothing of it is wrong is no evidence.
        found = [finding for finding in found if not (finding.check in OF_CHARGES and finding.outcome == "pass")]

    def place(finding: Finding) -> tuple[int, bool, int]:
        return finding.clause, finding.check in BEYOND, OUTCOMES.index(finding.outcome)

    return tuple(sorted(found, key=place))


def _outcomes(findings: tuple[Finding, ...], verdict: Finding) -> dict[int, Outcome]:
    outcomes: dict[int, Outcome] = {}
    for clause in CLAUSES:
        of = [finding for finding in findings if finding.clause == clause]
        decided = [finding for finding in of if finding.check not in BEYOND]
        if of:
            outcomes[clause] = worst(finding.outcome for finding in decided or of)
    return dict(sorted({**outcomes, VERDICT: verdict.outcome}.items()))


def _verdict(e: Evidence, findings: tuple[Finding, ...]) -> Finding:
    """One finding, made for one sentence that needs no statistics."""
    standing, plan = standing_of(e), plan_of(e)
    decided = [finding for finding in findings if finding.check not in BEYOND]
    outcome = worst(finding.outcome for finding in decided)
    if outcome == "pass" and (standing == "unknown" or plan is None):
        outcome = "cannot tell"
    at_fault = [finding for finding in decided if finding.outcome == outcome]
    clauses = ", ".join(map(str, sorted({finding.clause for finding in at_fault})))
    claimed = claimed_of(e)
    values: dict[str, Value]
    if outcome == "pass":
        unit = None if plan is None else plan.unit
        values = {"epsilon": claimed, "delta": _delta(e), "unit": unit, "open": len(findings) - len(decided)}
    elif outcome == "fail":
        values = {"epsilon": claimed, "failed": len(at_fault), "clauses": clauses}
    else:
        values = {"epsilon": claimed, "unsure": len(at_fault), "clauses": clauses}
    return Finding(VERDICT, f"verdict-{standing}", outcome, values)


def _run(e: Evidence) -> str:
    if e.server is not None:
        return e.server.run
    runs = {pin.run for log in e.clients for pin in log.pins}
    return runs.pop() if len(runs) == 1 else ""


def _delta(e: Evidence) -> float | None:
    told, plan = number(printed(e, "delta")), plan_of(e)
    return told if told is not None or plan is None else plan.delta


def _files(e: Evidence) -> tuple[tuple[str, int], ...]:
    server = () if e.server is None else ((e.server.file, e.server.lines),)
    return (*server, *((log.file, log.lines) for log in e.clients))


def _version() -> str:
    try:
        return version("fedrecall")
    except PackageNotFoundError:  # the folder of the source alone
        return "unknown"
