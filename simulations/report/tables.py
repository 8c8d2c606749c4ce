"""What the page says in rows: headline, quality, costs, examples. Pure functions of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from simulations.report import charts
from simulations.report.figures import spark
from simulations.report.folder import Json, Run, dig, mapping, number, strings
from simulations.report.wording import count, data_size, duration, fixed, upper

METRICS = (
    "recall@20",
    "ndcg@10",
    "coverage@20",
    "effective_coverage@20",
    "gini@20",
    "head_share@20",
    "ndcg@10:low",
    "ndcg@10:middle",
    "ndcg@10:high",
    "gap@10",
)
BASELINES = {
    "popularity": ("Popularity", "the floor, without privacy"),
    "tfidf": ("TF-IDF", "public text only"),
    "itemknn": ("ItemKNN", "without privacy"),
    "ials": ("iALS", "without privacy"),
    "ease": ("EASE", "the ceiling, without privacy"),
    "dp_ease": ("DP-EASE", "the private peer"),
    "private_popularity": ("Private popularity", "private"),
}


@dataclass(frozen=True)
class Tile:
    """One headline metric: its value on test, a strip chart, and the references beside it."""

    name: str
    value: str
    svg: Markup | None
    beside: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Row:
    """One row of the quality table; ``mine`` marks the run's own rows."""

    name: str
    note: str
    measured_on: str
    cells: tuple[str, ...]
    mine: bool


@dataclass(frozen=True)
class Cost:
    """One line of the cost table."""

    name: str
    total: str
    typical: str
    svg: Markup | None


@dataclass(frozen=True)
class Recommendation:
    """One recommended item with its score and the parts that make it up."""

    title: str
    score: str
    because: str
    held_out: bool
    parts: str
    svg: Markup


def baseline_name(key: str) -> tuple[str, str]:
    """Return the name for people of a baseline, and what it is."""
    known = BASELINES.get(key.lower().replace("-", "_"))
    return known or (key, "")


def result(run: Run) -> str:
    """Say the test result in one sentence, beside popularity and the non-private ceiling."""
    said = (
        _beside(run, "recall@20", "EASE, the ceiling without privacy,"),
        _beside(run, "coverage@20", "EASE"),
    )
    known = " and ".join(part for part in said if part)
    if known:
        asked = str(mapping(run.summary).get("asked") or "")  # runs from before samples have none
        return f"On test items{asked and ' '}{asked}, {known}."
    return "There is no test result in this folder: test items are used once, when a run has ended."


def tiles(run: Run) -> tuple[Tile, ...]:
    """Return the three headline metrics with their references."""
    found = []
    for metric in ("recall@20", "ndcg@10", "coverage@20"):
        value = number(dig(run.summary, "test", metric))
        marks = [
            (baseline_name(key)[0], mark)
            for key in ("popularity", "ease")
            if (mark := number(dig(run.summary, "baselines", key, metric))) is not None
        ]
        label = f"{metric} {fixed(value)}" + "".join(f", {name} {fixed(mark)}" for name, mark in marks)
        beside = tuple((name, fixed(mark)) for name, mark in marks)
        if value is not None:
            found.append(Tile(metric, fixed(value), charts.strip(value, marks, label=label), beside))
    return tuple(found)


def quality(run: Run) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """Return the columns that anything was measured in, and a row for the run (test, valid) and each baseline."""
    own = [(split, mapping(dig(run.summary, split))) for split in ("test", "valid")]
    others = sorted(_baselines(run), key=lambda pair: number(pair[1].get("recall@20")) or 0.0)
    seen = {key for _, metrics in [*own, *others] for key, value in metrics.items() if number(value) is not None}
    columns = tuple(metric for metric in METRICS if metric in seen)
    columns += tuple(sorted(key for key in seen - set(METRICS) if "epsilon" not in key))

    def cells(metrics: Json) -> tuple[str, ...]:
        return tuple(fixed(metrics.get(column)) for column in columns)

    rows = [
        Row("This run", "oracle, simulation only", split, cells(metrics), mine=True)
        for split, metrics in own
        if metrics
    ]
    for key, metrics in others:
        name, note = baseline_name(key)
        if number(metrics.get("epsilon")) is not None:
            note = f"private, ε = {upper(metrics['epsilon'])}"
        rows.append(Row(name, note, "test", cells(metrics), mine=False))
    return columns, tuple(rows)


def plane_points(run: Run) -> tuple[tuple[str, Json], ...]:
    """Return (name, metrics) of the run on test, then of each baseline."""
    own = ("this run, test", mapping(dig(run.summary, "test")))
    return (own, *((baseline_name(key)[0], metrics) for key, metrics in _baselines(run)))


def costs(run: Run) -> tuple[Cost, ...]:
    """Return rows of what the run cost: clients, bytes, time; only what was recorded."""
    rows = []
    for name, keys, write in (
        ("Clients asked", ("cohort", "asked"), count),
        ("Clients answered", ("cohort", "answered"), count),
        ("Clients declined", ("cohort", "declined"), count),
        ("Clients failed", ("cohort", "failed"), count),
        ("Bytes from clients", ("bytes", "up"), data_size),
        ("Bytes to clients", ("bytes", "down"), data_size),
        ("Time", ("seconds",), duration),
        ("of which training", ("train_seconds",), duration),
    ):
        values = [value for record in run.rounds if (value := number(dig(record, *keys))) is not None]
        if values:
            rows.append(Cost(name, write(sum(values)), write(median(values)), spark(values, name)))
    return tuple(rows)


def facts(run: Run) -> tuple[tuple[str, str], ...]:
    """Return the run's sizes and settings as rows (name, value); only what the summary records."""
    summary = mapping(run.summary)
    written = {
        "Users": count(summary.get("users")),
        "Clients": count(summary.get("clients")),
        "Items": count(summary.get("items")),
        "Parameters": count(summary.get("parameters")),
        "Split": str(summary.get("split") or "—"),
        "Seed": str(summary.get("seed") if summary.get("seed") is not None else "—"),
        "Wall time": duration(summary.get("wall_seconds")),
        "Client updates": count(summary.get("client_updates")),
        "Updates a second": fixed(summary.get("client_updates_per_second"), 1),
        "Peak memory": f"{count(summary.get('peak_rss_mb'))} MB" if number(summary.get("peak_rss_mb")) else "—",
    }
    return tuple((name, value) for name, value in written.items() if value != "—")


def trending(run: Run) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """Return what trending was looked for in, and a row (round, items listed, precision, recall) for each refresh."""
    found = mapping(dig(run.summary, "trending"))
    made = found.get("refreshes")
    rows = tuple(
        (count(one.get("round")), count(one.get("listed")), fixed(one.get("precision")), fixed(one.get("recall")))
        for one in (made if isinstance(made, list) else ())
        if isinstance(one, dict)
    )
    people, last = count(found.get("people")), count(found.get("people_of_item_20"))
    precision, recall, popular = (
        fixed(found.get(name)) for name in ("precision@20", "recall@20", "popularity_precision@20")
    )
    said = (
        f"On {found.get('day', '—')}, window {count(found.get('window_days'))} days: {people} people had come to "
        f"something, {last} to the item in place 20. Means over refreshes: precision@20 {precision}, recall@20 "
        f"{recall}. The 20 items most popular over all time have precision@20 {popular}."
    )
    return said, rows


def examples_absent(run: Run) -> str:
    """Say why no example is shown; empty when examples may be shown. Examples of non-public data are never shown."""
    public = dig(run.summary, "public_data")
    if public is False:
        return "This data is not public, so no real person's examples are shown."
    if run.examples is None:
        return "This folder holds no examples: they are written for public data only, when a run has ended."
    if public is not True:
        return "The summary does not say that this data is public, so no real person's examples are shown."
    return "" if run.examples else "The run wrote no examples."


def part_names(run: Run) -> tuple[str, ...]:
    """Return the names of all score parts, so that a part keeps its colour through the page."""
    names = {
        str(name): None
        for example in run.examples or ()
        for one in _recommended(example)
        for name in mapping(one.get("parts"))
    }
    return tuple(names)


def recommendations(example: Json, names: Sequence[str]) -> tuple[Recommendation, ...]:
    """Return one person's recommendations; the bars share a scale, so that they compare within the person.

    Args:
        example: one object of ``examples.json``.
        names: all part names, in colour order.
    """
    parted = [
        [(str(name), value) for name, raw in mapping(one.get("parts")).items() if (value := number(raw)) is not None]
        for one in _recommended(example)
    ]
    negative, positive = (
        max((sum(max(sign * value, 0.0) for _, value in parts) for parts in parted), default=0.0) for sign in (-1, 1)
    )
    found = []
    for one, parts in zip(_recommended(example), parted, strict=True):
        said = ", ".join(f"{name} {value:+.2f}" for name, value in parts)
        coloured = [(name, value, names.index(name)) for name, value in parts]
        found.append(
            Recommendation(
                title=str(one.get("title") or "untitled"),
                score=fixed(one.get("score"), 2),
                because=str(one.get("because") or ""),
                held_out=one.get("held_out") is True,
                parts=said,
                svg=charts.bars(coloured, extent=(negative, positive), label=f"score parts: {said or 'none'}"),
            )
        )
    return tuple(found)


def people(run: Run) -> tuple[tuple[str, tuple[str, ...], tuple[Recommendation, ...]], ...]:
    """Return (user, history titles, recommendations) of every example that may be shown."""
    if examples_absent(run):
        return ()
    names = part_names(run)
    return tuple(
        (str(example.get("user", "")), strings(example.get("history")), recommendations(example, names))
        for example in run.examples or ()
    )


def _recommended(example: Json) -> tuple[Json, ...]:
    found = example.get("recommendations")
    return tuple(one for one in found if isinstance(one, dict)) if isinstance(found, list) else ()


def _baselines(run: Run) -> tuple[tuple[str, Json], ...]:
    found = mapping(dig(run.summary, "baselines"))
    return tuple((str(key), metrics) for key, metrics in found.items() if isinstance(metrics, dict))


def _beside(run: Run, metric: str, ceiling: str) -> str:
    value = number(dig(run.summary, "test", metric))
    if value is None:
        return ""
    names = {"popularity": "popularity", "ease": ceiling}
    known = [(name, number(dig(run.summary, "baselines", key, metric))) for key, name in names.items()]
    beside = "; ".join(f"{name} {fixed(mark)}" for name, mark in known if mark is not None)
    return f"{metric} is {fixed(value)}" + (f" ({beside})" if beside else "")
