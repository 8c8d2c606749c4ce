"""What the page and the JSON show of a report, made ready: sentences in both languages, evidence, commands. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from shared.audit.findings import CLAUSES, Finding, Outcome, Place
from shared.audit.texts import LANGUAGES, Text, both, clause_title, number, term, word
from shared.audit.verify import BEYOND, Report

SHOWN: Final = 5  # ledgers named one by one
_COUNTED: Final[dict[Outcome, str]] = {"pass": "passed", "fail": "failed", "cannot tell": "unsure"}
_OF_RUN: Final = ("ledger.jsonl", "clients.jsonl")  # names inside a run's folder, as findings have them
_HOME: Final = "home/clients/"  # as above, of a deployment tried on one machine


@dataclass(frozen=True)
class FindingView:
    """A finding in words.

    Attributes:
        beyond: no ledger can ever show it; an officer must judge.
        evidence: one text a file.
        explain: the command that says its first line in words; "" = it points at no line.
    """

    finding: Finding
    said: Text
    outcome: Outcome
    beyond: bool
    evidence: tuple[Text, ...]
    explain: str


@dataclass(frozen=True)
class ClauseView:
    """A clause with all of its findings; ``outcome`` None = left out, or nothing to look at."""

    number: int
    name: str
    title: Text
    outcome: Outcome | None
    counts: Text
    findings: tuple[FindingView, ...]
    command: str


def clauses(report: Report) -> tuple[ClauseView, ...]:
    """All twelve."""
    return tuple(_clause(report, clause) for clause in CLAUSES)


def facts(report: Report) -> list[tuple[Text, Text]]:
    """(name, value) of what is audited and claimed, for the head of the page."""
    plan, epsilon = report.plan, report.claimed
    told = [
        ("subject", _same(report.subject or "-")),
        ("run", _same(report.run or "-")),
        ("standing", _term(report.standing)),
        ("claimed", _number(epsilon, "up")),
        ("recomputed", _number(report.recomputed, "up4")),
        ("delta", _small(report.delta)),
    ]
    if plan is not None:
        told += [("protects", _term(plan.unit)), ("trust", _term(plan.trust)), ("population", _number(plan.population))]
    told += [("version", _same(f"fedrecall {report.version}")), ("exit", _same(str(report.exit_code)))]
    return [(word("page", name), value) for name, value in told]


def files(report: Report) -> list[Text]:
    """What was read: the first ledgers by name, the rest together."""
    named = [word("page", "file_lines", file=file, lines=lines) for file, lines in report.files[:SHOWN]]
    rest = report.files[SHOWN:]
    if rest:
        named.append(word("page", "more_files", count=len(rest), lines=sum(lines for _, lines in rest)))
    return named


def upper(value: float | None) -> Text:
    """An upper bound of epsilon."""
    return _number(value, "up")


def path_of(report: Report, place: Place) -> str:
    """A finding's file as it can be typed where the audit ran: names inside a run's folder are put behind it."""
    inside = place.file in _OF_RUN or place.file.startswith(_HOME)
    return f"{report.subject.rstrip('/')}/{place.file}" if inside and place.file != report.subject else place.file


def _clause(report: Report, clause: int) -> ClauseView:
    found = tuple(_finding(report, finding) for finding in report.of(clause))
    return ClauseView(
        number=clause,
        name=CLAUSES[clause],
        title=Text(*(clause_title(clause, language) for language in LANGUAGES)),
        outcome=report.outcomes.get(clause),
        counts=_counts(found),
        findings=found,
        command=_command(report, clause),
    )


def _counts(found: tuple[FindingView, ...]) -> Text:
    """How many of each outcome; those that no ledger can show apart."""
    outcomes = ["beyond" if one.beyond else _COUNTED[one.outcome] for one in found]
    said = [
        word("page", name, count=outcomes.count(name)) for name in (*_COUNTED.values(), "beyond") if name in outcomes
    ]
    return Text(", ".join(text.en for text in said), "，".join(text.zh for text in said))


def _command(report: Report, clause: int) -> str:
    if not report.command or clause == report.verdict.clause:
        return report.command
    return f"{report.command} --clause {clause}"


def _finding(report: Report, finding: Finding) -> FindingView:
    lines = [(place, place.lines[0]) for place in finding.places if place.lines]
    explain = (
        shlex.join(["fedrecall-audit", "explain", f"{path_of(report, lines[0][0])}:{lines[0][1]}"]) if lines else ""
    )
    return FindingView(
        finding=finding,
        said=both(finding),
        outcome=finding.outcome,
        beyond=finding.check in BEYOND,
        evidence=tuple(_evidence(place) for place in finding.places),
        explain=explain,
    )


def _evidence(place: Place) -> Text:
    if not place.lines:
        return _same(place.file)
    lines = ", ".join(map(str, place.lines))
    return word("page", "lines", file=place.file, lines=lines)


def _same(said: str) -> Text:
    return Text(said, said)


def _term(name: str) -> Text:
    return Text(*(term(name, language) for language in LANGUAGES))


def _small(value: float | None) -> Text:
    """A probability as a person says it."""
    if value is None or not 1e-300 < value < 1.0:  # the inverse of less is no number
        return _number(value)
    return word("page", "small", value=value, ones=round(1.0 / value))


def _number(value: float | None, spec: str = "") -> Text:
    if value is None:
        return word("terms", "none given")
    return Text(*(number(value, language, spec) for language in LANGUAGES))
