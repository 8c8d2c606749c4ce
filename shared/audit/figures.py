"""The charts and tables of the page, from a report, in one language: what was spent, by whom, what attacks showed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from shared.audit import charts
from shared.audit.charts import Line, Mark, Row
from shared.audit.findings import Value
from shared.audit.texts import Language, number, term, word
from shared.audit.verify import Report
from shared.privacy.plan import RELEASES

STYLES: Final = {name: f"kind-{name}" for name in (*RELEASES, "all")}
Table = list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A chart, and the same numbers as a table; both may be empty."""

    chart: Markup | None
    table: Table


def over_time(report: Report, language: Language) -> Figure:
    """Epsilon by round: a line a kind of release, and all together."""
    curves = sorted(report.epsilon_over_time, key=lambda curve: curve.kind == "all")
    lines = [Line(term(c.kind, language), STYLES[c.kind], c.rounds, c.epsilon) for c in curves if c.rounds]
    ends = [(line.name, line.y[-1]) for line in lines]
    claimed = report.claimed
    if not lines:
        return Figure(None, [])
    label = _said(
        "over_time_label",
        language,
        first=int(min(line.x[0] for line in lines)),
        last=int(max(line.x[-1] for line in lines)),
        epsilon=ends[-1][1],
        claimed=claimed,
    )
    chart = charts.steps(lines, _claimed(claimed, language), label=label, x_name=_said("round", language))
    return Figure(chart, [[name, number(value, language, "up")] for name, value in ends])


def spending(report: Report, language: Language) -> Figure:
    """How many persons spent how much; the table: how often the most frequent one took part, and K."""
    spend = report.spend
    if spend is None:
        return Figure(None, [])
    label = _said(
        "spend_label",
        language,
        persons=spend.persons,
        least=spend.least,
        median=spend.median,
        most=spend.most,
        cap=spend.cap,
    )
    marks = [Mark(f"{_said('most', language)} {number(spend.most, language, 'up')}", "most-line", spend.most)]
    if spend.cap is not None:
        marks.append(Mark(f"{_said('cap', language)} {number(spend.cap, language, 'up')}", "claimed-line", spend.cap))
    names = (_said("epsilon", language), _said("persons", language))
    chart = charts.histogram(spend.bins, marks, label=label, names=names)
    counts = [[term(kind, language), str(most), str(k)] for kind, (most, k) in spend.participations.items()]
    return Figure(chart, counts)


def empirical(report: Report, language: Language) -> Figure:
    """Lower bounds and estimates against the claim, with the most that each attack could have shown."""
    canaries = _part(report.attack, "canaries")
    bounds = [one for one in _list(canaries, "bounds") if _float(one.get("epsilon")) is not None]
    estimates = [one for one in _list(canaries, "estimates") if _float(one.get("epsilon")) is not None]
    if not bounds and not estimates:
        return Figure(None, [])
    drawn = [_bound_row(one, language) for one in bounds]
    drawn += [Row(_method(one, language), point=_float(one.get("epsilon"))) for one in estimates]
    legend = [(_said("bound_key", language), "bar"), (_said("undecided_key", language), "reach")]
    legend += [(_said("power_cap", language), "tick")]
    legend += [(_said("estimate_key", language), "point")] if estimates else []
    label = _said(
        "empirical_label",
        language,
        bounds=len(bounds),
        largest=max((row.bar or 0.0 for row in drawn), default=0.0),
        claimed=report.claimed,
        cap=max((row.tick or 0.0 for row in drawn), default=0.0),
    )
    chart = charts.rows(drawn, _claimed(report.claimed, language), legend, label=label)
    confidence = _float(canaries.get("confidence"))
    return Figure(chart, [_bound_cells(one, confidence, language) for one in bounds])


def membership(report: Report, language: Language) -> Figure:
    """Advantage of membership inference by mode, with its interval and the most that epsilon allows."""
    rows = []
    for one in _list(_part(report.attack, "imia"), "modes"):
        low, point, high = (_float(one.get(name)) for name in ("low", "advantage", "high"))
        if low is not None and point is not None and high is not None:
            name = term(str(one.get("mode"))[:40], language)
            rows.append(Row(name, reach=(max(low, 0.0), high), point=max(point, 0.0), tick=_float(one.get("implied"))))
    legend = [(_said("membership", language), "point"), (_said("allowed_key", language), "tick")]
    chart = charts.rows(rows, [], legend, label=_said("membership_label", language), most=1.0)
    return Figure(chart, [])


def _bound_row(bound: Mapping[str, Any], language: Language) -> Row:
    epsilon, cap = _float(bound.get("epsilon")) or 0.0, _float(bound.get("power_cap"))
    reach = None if cap is None or cap < epsilon else (epsilon, cap)
    return Row(_method(bound, language), bar=max(epsilon, 0.0), reach=reach, tick=cap)


def _bound_cells(bound: Mapping[str, Any], confidence: float | None, language: Language) -> list[str]:
    def shown(value: float | None, spec: str) -> str:
        return "-" if value is None else number(value, language, spec)

    right, guesses = (_float(bound.get(name)) for name in ("right", "guesses"))
    return [
        _method(bound, language),
        shown(_float(bound.get("epsilon")), "down"),
        shown(_float(bound.get("power_cap")), "down"),
        f"{shown(right, '.0f')} / {shown(guesses, '.0f')}",
        shown(confidence, "%"),
        term(str(bound.get("assumes") or "-")[:300], language),
    ]


def _method(one: Mapping[str, Any], language: Language) -> str:
    comma = "，" if language == "zh" else ", "
    return comma.join(term(str(one.get(name))[:60], language) for name in ("method", "view"))


def _claimed(claimed: float | None, language: Language) -> list[Mark]:
    if claimed is None:
        return []
    return [Mark(_said("claimed_line", language, claimed=claimed), "claimed-line", claimed)]


def _said(key: str, language: Language, /, **values: Value) -> str:
    return word("page", key, **values).of(language)


def _part(attack: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    part = {} if attack is None else attack.get(name)
    return part if isinstance(part, Mapping) else {}


def _list(part: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """At most 20 entries that are objects: the file may be anybody's."""
    found = part.get(name)
    return [one for one in found if isinstance(one, Mapping)][:20] if isinstance(found, list) else []


def _float(value: object) -> float | None:
    """A finite number; None = anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e9:
        return None
    return float(value)
