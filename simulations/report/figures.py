"""Which charts a run gets: from round records to series.

Private estimates and oracle values are separate series with separate marks in every chart, and no series mixes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from simulations.report import charts
from simulations.report.folder import Json, Run, dig, mapping, number
from simulations.report.policies import flat
from simulations.report.wording import Privacy, fixed, upper

CURVES = (
    ("recall@20", "Recall", "the share of a person's held-out items found among the first 20"),
    ("ndcg@10", "Ranking quality", "held-out items found near the top of the first 10 count more"),
    (
        "gap@10",
        "Gap between activity groups",
        "ranking quality (ndcg@10) of the best served group minus the worst served",
    ),
    ("effective_coverage@20", "Effective coverage", "the share of the catalogue shown often enough to be measured"),
    ("coverage@20", "Coverage", "the share of the catalogue shown to anybody at all"),
    ("gini@20", "Concentration (Gini)", "0 when every item is shown equally often, 1 when one item is shown alone"),
    ("head_share@20", "Head share", "the share of exposure that the most exposed tenth of the catalogue takes"),
)
ACTIVITY = (
    ("ndcg@10:low", "short histories", "group-low"),
    ("ndcg@10:middle", "middling histories", "group-middle"),
    ("ndcg@10:high", "long histories", "group-high"),
)
NO_PLURAL = ("statistics", "trending")
METRICS = tuple(key for key, *_ in (*CURVES[:2], *ACTIVITY, *CURVES[2:]))


@dataclass(frozen=True)
class Figure:
    """A chart with its caption; ``svg`` is None when there is nothing to draw."""

    title: str
    metric: str
    svg: Markup | None
    caption: str


@dataclass(frozen=True)
class Knob:
    """A numeric policy field: its course over the rounds, or its one value."""

    name: str
    svg: Markup | None
    low: float
    high: float
    last: float


def curves(run: Run, claim: Privacy) -> tuple[Figure, ...]:
    """One figure a metric that some round measured, in the order of ``CURVES``; ``claim`` says what an estimate is."""
    found = [_curve(run, claim, metric, title, meaning) for metric, title, meaning in CURVES]
    found.insert(2, _activity(run))  # beside the ranking quality of everybody
    return tuple(figure for figure in found if figure.svg is not None)


def measured(run: Run) -> tuple[tuple[int, tuple[tuple[str, str], ...]], ...]:
    """Return the numbers behind the curves: (round, (estimate with interval, oracle) a metric of ``METRICS``)."""
    return tuple(
        (
            record["round"],
            tuple((_interval(dig(record, "estimate", key)), fixed(dig(record, "oracle", key))) for key in METRICS),
        )
        for record in run.rounds
        if record.get("estimate") or record.get("oracle")
    )


def cannot_tell(run: Run) -> tuple[tuple[str, str, str], ...]:
    """Rows (metrics, rounds, reason) of what could not be measured privately; those of one reason share a row."""
    places: dict[tuple[str, str], list[int]] = {}
    for record in run.rounds:
        for metric, reason in mapping(record.get("cannot_tell")).items():
            places.setdefault((str(metric), str(reason)), []).append(record["round"])
    shared: dict[tuple[tuple[int, ...], str], list[str]] = {}
    for (metric, reason), rounds in places.items():
        shared.setdefault((tuple(rounds), reason), []).append(metric)
    return tuple((", ".join(metrics), _span(rounds), reason) for (rounds, reason), metrics in shared.items())


def budget(run: Run) -> Figure:
    """Draw epsilon spent so far, in total and a kind: lines, since epsilons of kinds do not add up."""
    kinds = sorted({kind for record in run.rounds for kind in mapping(dig(record, "epsilon", "by_kind"))})
    series = [
        _course(run, kind if kind in NO_PLURAL else f"{kind}s", f"kind-{place % 5}", "epsilon", "by_kind", kind)
        for place, kind in enumerate(kinds)
    ]
    series.append(_course(run, "everything together", "total", "epsilon", "everyone"))
    named = [_named_with_last(one) for one in series if one.x]
    label = "Epsilon spent over rounds: " + ", ".join(one.name for one in named)
    return Figure("Epsilon spent", "epsilon", charts.line_chart(named, label=label), "")


def recall_coverage(run: Run, quality: Sequence[tuple[str, Json]]) -> Figure:
    """Draw the run's measured rounds (oracle) through the recall-coverage plane, beside the final points.

    Args:
        run: the run.
        quality: (name, metrics) of the run's own test result (first) and of each baseline.
    """
    pairs = [
        (number(dig(record, "oracle", "coverage@20")), number(dig(record, "oracle", "recall@20")))
        for record in run.rounds
    ]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    path = charts.Series("oracle", "oracle", tuple(x for x, _ in known), tuple(y for _, y in known), marker="diamond")
    points = []
    for place, (name, metrics) in enumerate(quality):
        x, y = number(metrics.get("coverage@20")), number(metrics.get("recall@20"))
        if x is not None and y is not None:
            points.append(charts.Point(name, x, y, "baseline" if place else "test"))
    said = "; ".join(f"{p.name} coverage {p.x:.3f}, recall {p.y:.3f}" for p in points)
    label = f"Recall against coverage: {len(known)} measured rounds as a path; {said or 'no final points'}"
    names = ("coverage@20", "recall@20")
    return Figure("Recall and coverage", "plane", charts.plane(path, points, label=label, names=names), "")


def knobs(run: Run) -> tuple[Knob, ...]:
    """Every numeric field of the policy (weights one by one), those that moved with a chart."""
    courses: dict[str, list[float]] = {}
    for record in run.rounds:
        for name, value in flat(mapping(record.get("policy"))).items():
            known = number(value)
            if name != "version" and known is not None:
                courses.setdefault(name, []).append(known)
    return tuple(_knob(name, values) for name, values in courses.items())


def spark(values: Sequence[float], what: str) -> Markup | None:
    """Draw the course of a cost over the rounds; None when it never changed."""
    if len(set(values)) < 2:
        return None
    label = f"{what} a round, from {values[0]:g} to {values[-1]:g}"
    return charts.sparkline(values, label=label)


def _curve(run: Run, claim: Privacy, metric: str, title: str, meaning: str) -> Figure:
    estimate, oracle = _estimate(run, claim, metric), _oracle(run, metric)
    label = f"{title}, {metric}, over rounds. {_said(estimate)} {_said(oracle)}"
    smallest = {number(dig(record, "estimate", metric, "at_least")) for record in run.rounds} - {None}
    caption = meaning
    if smallest:
        low, high = (f"{edge:g}" for edge in (min(smallest, key=_key), max(smallest, key=_key)))
        caption += f": here at least {low if low == high else f'{low} to {high}'} exposures"
    if not estimate.x and oracle.x:
        caption += "; no estimate of this one was released"
    return Figure(title, metric, charts.line_chart([oracle, estimate], label=label), f"{metric}: {caption}.")


def _activity(run: Run) -> Figure:
    """Estimates of the three groups in one chart; oracle values where a run has no estimate. Never both."""
    kind = (
        "estimate" if any(dig(record, "estimate", key) for record in run.rounds for key, *_ in ACTIVITY) else "oracle"
    )
    series = [
        replace(_group(run, kind, key, name, style), shift=shift)
        for (key, name, style), shift in zip(ACTIVITY, (-4.0, 0.0, 4.0), strict=True)
    ]
    label = f"Ranking quality by activity, {kind}, over rounds. " + " ".join(_said(one) for one in series)
    caption = "ndcg@10 of people with short, middling and long histories, a third of all people each"
    caption += "" if kind == "estimate" else "; oracle values, no estimate of these was released"
    return Figure(
        "Ranking quality by activity", "ndcg@10:activity", charts.line_chart(series, label=label), f"{caption}."
    )


def _group(run: Run, kind: str, key: str, name: str, style: str) -> charts.Series:
    if kind == "oracle":
        one = _course(run, f"{name}, oracle", style, kind, key)
        return charts.Series(one.name, style, one.x, one.y, marker="diamond")
    xs, ys, intervals = _estimates(run, key)
    return charts.Series(name, style, xs, ys, intervals, marker="circle")


def _interval(found: object) -> str:
    value, low, high = (fixed(dig(found, key)) for key in ("value", "low", "high"))
    return value if "—" in (low, high) else f"{value} ({low} to {high})"


def _key(value: float | None) -> float:
    return value or 0.0


def _estimate(run: Run, claim: Privacy, metric: str) -> charts.Series:
    xs, ys, intervals = _estimates(run, metric)
    private = claim.epsilon is not None
    name = "private estimate and its interval" if private else "estimate, not private"
    return charts.Series(name, "estimate", xs, ys, intervals, marker="circle")


def _estimates(
    run: Run, metric: str
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[tuple[float, float] | None, ...]]:
    """Rounds, values and intervals of what was estimated."""
    found = []
    for record in run.rounds:
        value, low, high = (number(dig(record, "estimate", metric, key)) for key in ("value", "low", "high"))
        if value is not None:
            interval = None if low is None or high is None else (low, high)
            found.append((float(record["round"]), value, interval))
    return tuple(x for x, _, _ in found), tuple(y for _, y, _ in found), tuple(both for *_, both in found)


def _oracle(run: Run, metric: str) -> charts.Series:
    one = _course(run, "oracle, simulation only", "oracle", "oracle", metric)
    return charts.Series(one.name, one.style, one.x, one.y, marker="diamond")


def _course(run: Run, name: str, style: str, *keys: str) -> charts.Series:
    found = [(float(record["round"]), number(dig(record, *keys))) for record in run.rounds]
    known = [(x, y) for x, y in found if y is not None]
    return charts.Series(name, style, tuple(x for x, _ in known), tuple(y for _, y in known))


def _named_with_last(one: charts.Series) -> charts.Series:
    return charts.Series(f"{one.name} {upper(one.y[-1])}", one.style, one.x, one.y)


def _said(series: charts.Series) -> str:
    if not series.x:
        return f"No {series.name.split(',')[0]}."
    first, last = fixed(series.y[0]), fixed(series.y[-1])
    return f"{series.name}: {first} in round {series.x[0]:g}, {last} in round {series.x[-1]:g}."


def _knob(name: str, values: Sequence[float]) -> Knob:
    moved = min(values) < max(values)
    label = f"{name} over rounds, from {values[0]:g} to {values[-1]:g}, between {min(values):g} and {max(values):g}"
    svg = charts.sparkline(values, label=label, step=True) if moved else None
    return Knob(name, svg, min(values), max(values), values[-1])


def _span(rounds: Sequence[int]) -> str:
    if len(rounds) == 1:
        return f"round {rounds[0]}"
    return f"{len(rounds)} rounds, {rounds[0]} to {rounds[-1]}"
