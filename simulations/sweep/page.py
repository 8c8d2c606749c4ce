"""A sweep as text: the tables of the terminal, and the page ``sweep.md``. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from simulations.compare import aligned
from simulations.frontier.page import Circumstances, claims_table, markdown
from simulations.frontier.rows import BOTH, METRICS, VALID, Claim, Epsilon, Row, said
from simulations.report.wording import upper
from simulations.sweep.grid import Grid
from simulations.sweep.rows import TABLES, Section, cell
from simulations.world import FITTED

HEAD: Final = ("", "epsilon", "printed", *METRICS, "seeds")
DRAWN: Final = (VALID, BOTH)
"""The tables that the terminal shows and that are drawn."""
_INTERVALS: Final = (
    "Means over seeds ± half of a 95 % confidence interval (Student's t); without ± there is one seed, or nothing "
    "random. Both yardsticks are without privacy: popularity is the floor, EASE the ceiling of recall and ndcg."
)


@dataclass(frozen=True)
class Failure:
    """A run that did not end well: its name, and a sentence."""

    run: str
    why: str


def command(grid: Grid) -> str:
    """The command that asks a sweep again; folders of one machine are left out of it."""
    words = ["fedrecall-sim", "sweep", "--presets", ",".join(grid.sources)]
    words += ["--epsilons", ",".join(said(epsilon) for epsilon in grid.epsilons)]
    words += ["--seeds", ",".join(str(seed) for seed in grid.seeds)]
    words += [word for axis in grid.axes for word in ("--set", f"{axis.key}={','.join(axis.values)}")]
    return " ".join(shlex.quote(word) for word in words) + (" --data FOLDER" if grid.data else "")


def terminal(sections: Sequence[Section], remarks: Sequence[str], failures: Sequence[Failure]) -> str:
    """The two tables of every section, then what is promised, then what must be known."""
    parts = []
    for section in sections:
        for on in DRAWN:
            title = f"{section.preset}, split {section.split}. {TABLES[on]}"
            parts.append(f"{title}\n{aligned([HEAD, *_lines(section.rows, on)])}")
    parts.append(_INTERVALS)
    parts += dict.fromkeys(line for section in sections for line in _promises(section.rows))
    parts += [*remarks, *(f"FAILED {failure.run}: {failure.why}" for failure in failures)]
    return "\n\n".join(parts)


def _lines(rows: Sequence[Row], on: str) -> list[list[str]]:
    return [
        [
            row.name,
            _no_dp(row.epsilon),
            "no DP" if row.claim.epsilon is None else upper(row.claim.epsilon),
            *(cell(row.metrics.get(on, {}).get(metric)) for metric in METRICS),
            str(len(row.seeds)) if on in row.metrics else "—",
        ]
        for row in rows
    ]


def _promises(rows: Sequence[Row]) -> list[str]:
    """What the printed epsilons mean, in full; in one sentence where rows promise alike."""
    alike: dict[Claim, list[str]] = {}
    for row in rows:
        if row.claim.epsilon is not None:
            alike.setdefault(replace(row.claim, epsilon=None), []).append(upper(row.claim.epsilon))
    return [
        f"Printed epsilons ({', '.join(dict.fromkeys(printed))}) are upper bounds, of one run each, per {claim.unit} "
        f"(adjacency {claim.adjacency}, trust {claim.trust}, delta {claim.delta:g}; {claim.accountant}). They cover: "
        f"{claim.covers.removesuffix('.')}. Tuning: {claim.tuning}."
        for claim, printed in alike.items()
    ]


def _no_dp(epsilon: Epsilon) -> str:
    return "no DP" if epsilon is None else said(epsilon)


def page(
    sections: Sequence[Section],
    grid: Grid,
    remarks: Sequence[str],
    failures: Sequence[Failure],
    made: Circumstances,
) -> str:
    """The whole page; plots stand beside it.

    Args:
        sections: of the sweep.
        grid: what was asked.
        remarks, failures: what must be known of single runs.
        made: where and when.
    """
    asked = command(grid)
    count = sum(len(row.seeds) for section in sections for row in section.rows if row.claim.trust)
    parts = [f"# Sweep: {', '.join(section.name for section in sections)}", f"```console\n{asked}\n```"]
    if failures:
        lines = [f"- {failure.run}: {failure.why}" for failure in failures]
        parts.append("**Some runs failed; their rows are of fewer seeds, or not there.**\n\n" + "\n".join(lines))
    parts.append(_INTERVALS)
    for section in sections:
        parts += _section(section)
    parts.append("## How to read it\n\n" + "\n".join(f"- {note}" for note in _notes(grid, count)))
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    lines = [f"{made.date}, {made.cpu}, {made.cores} cores; {versions}.", *remarks]
    parts.append("## Made\n\n" + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {section.preset}, split {section.split}"]
    for on, title in TABLES.items():
        if not any(on in row.metrics for row in section.rows):
            continue
        parts.append(f"### {title}")
        parts.append(markdown(HEAD, _lines(section.rows, on)))
        if on in DRAWN:
            parts.append(f"![{_alternative(section, on)}]({stem(section, on)}.png)")
    return [*parts, "### What is promised", claims_table(section.rows)]


def stem(section: Section, on: str) -> str:
    """File name of a plot, without its ending."""
    return f"{section.name}-{'validation' if on == VALID else 'test'}"


def _alternative(section: Section, on: str) -> str:
    """The plot in words, for people who do not see it."""
    means = ", ".join(
        f"{row.name} ({_no_dp(row.epsilon)}) {cell(row.metrics[on]['recall@20'])}"
        for row in section.rows
        if on in row.metrics
    )
    return f"recall@20, ndcg@10 and coverage@20 against epsilon; recall@20: {means}"


def _notes(grid: Grid, private: int) -> list[str]:
    notes = [
        (
            "Choose settings by the validation table. Test items are used once, at the end of each run; whoever picks "
            "the best row of a test table reports too much."
        ),
        (
            f"Both yardsticks see every history, in one place (of data zipf those of {FITTED:,} users and whoever is "
            "asked). EASE's ridge was chosen on the validation items, so its validation row flatters it."
        ),
        (
            "An interval tells how far the chance of a run (its start, its cohorts, its noise) moves a number on these "
            "data; generated data are drawn anew by each seed, other data and their split stay. It is no statement "
            "about other people."
        ),
    ]
    if private > 1:
        notes.append(
            "Each printed epsilon holds for its run alone. Run on real people, runs add up: no epsilon here covers "
            "the sweep, nor the choice of a setting by it."
        )
    if any(len(axis.values) > 1 for axis in grid.axes):
        notes.append("Rows that differ in settings are a search: report the chosen one with fresh seeds.")
    return notes
