"""The frontier as a page: docs/results/<preset>.md. Pure text.

Every number stands beside its claim, its protocol and the command that made it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from simulations.config import SimulationConfig
from simulations.frontier.rows import BOTH, METRICS, OURS, READINGS, TRAIN, TUNED, Row, Spread, headline, said
from simulations.frontier.runs import Question
from simulations.report.wording import small, upper

PROTOCOLS: Final = {"rs": "random", "ts": "by time", "loo": "leave one out"}
_READS: Final = {
    TRAIN: "Reading train rows only, as published numbers do",
    BOTH: "Reading train and validation rows, as a device that serves does",
}


@dataclass(frozen=True)
class Circumstances:
    """Where and when a frontier was made.

    Attributes:
        date: the day, UTC.
        cpu, cores: of the machine.
        versions: distribution -> version.
    """

    date: str
    cpu: str
    cores: int
    versions: Mapping[str, str]


def command(question: Question, *, from_folder: bool) -> str:
    """The command that asks a question again; folders of one machine are left out of it."""
    words = ["fedrecall-sim", "frontier", question.source]
    words += ["--epsilons", ",".join(said(epsilon) for epsilon in question.epsilons)]
    words += ["--seeds", ",".join(str(seed) for seed in question.seeds)]
    for option, pairs in (("--set", question.sets), ("--tuned", question.tuned)):
        words += [word for pair in pairs for word in (option, pair)]
    shown = " ".join(shlex.quote(word) for word in words)
    return shown + (" --data FOLDER" if question.data else "") + (" --from FOLDER" if from_folder else "")


def page(
    rows: Sequence[Row], config: SimulationConfig, asked: str, remarks: Sequence[str], made: Circumstances, picture: str
) -> str:
    """The whole page.

    Args:
        rows: of the frontier.
        config: that all runs share.
        asked: the command.
        remarks: what must be known about single runs.
        made: where and when.
        picture: file name of the plot without its ending, beside the page.
    """
    first = headline(rows)
    readings = [first, *(reading for reading in READINGS if reading != first)]
    parts = [
        f"# Recall against epsilon: {config.preset}",
        f"<!-- Written by: {asked} -->",
        _head(config, asked, rows),
        f"![{alternative(rows)}]({picture}.png)",
        (
            f"The same as [SVG]({picture}.svg), [CSV]({picture}.csv), [JSON]({picture}.json). {_READS[first]}; means, "
            "and whiskers from the smallest to the largest seed."
        ),
    ]
    parts += [f"## {_READS[reading]}\n\n{table(rows, reading)}" for reading in readings if _measured(rows, reading)]
    parts += ["## What is promised\n\n" + claims_table(rows), "## How to read it\n\n" + _notes(config, rows)]
    parts.append("## Every seed\n\n" + seeds_table(rows, first))
    parts.append("## Made\n\n" + _made(made, rows, remarks))
    return "\n\n".join(parts) + "\n"


def alternative(rows: Sequence[Row]) -> str:
    """The plot in words, for people who do not see it."""
    reading = headline(rows)
    ours = ", ".join(f"{row.metrics[reading]['recall@20'].mean:.3f} {_at(row)}" for row in rows if row.name == OURS)
    flat = ", ".join(
        f"{row.name} {row.metrics[reading]['recall@20'].mean:.3f}" for row in rows if row.name in {"EASE", "popularity"}
    )
    return f"recall@20 and ndcg@10 against epsilon; recall@20 of {OURS}: {ours}; beside it, without privacy: {flat}"


def _at(row: Row) -> str:
    return "without privacy" if row.epsilon is None else f"at epsilon {said(row.epsilon)}"


def table(rows: Sequence[Row], reading: str) -> str:
    """The main table: mean over seeds, and the range where there are two seeds or more."""
    head = ["", "epsilon", "printed", *METRICS, "seeds"]
    return markdown(
        head,
        [
            [
                row.name,
                _no_dp(said(row.epsilon)),
                _no_dp(upper(row.claim.epsilon)),
                *(_number(row.metrics.get(reading, {}).get(metric)) for metric in METRICS),
                str(len(row.seeds)),
            ]
            for row in rows
        ],
    )


def claims_table(rows: Sequence[Row]) -> str:
    """What each recommender promises, in one line where all its epsilons promise alike; below it what is covered."""
    promises: dict[tuple[str, ...], list[str]] = {}
    covers: dict[tuple[str, str], None] = {}
    for row in rows:
        claim = row.claim
        if claim.epsilon is None:
            promises[row.name, "NO DIFFERENTIAL PRIVACY", "—", "—", "—", "—"] = ["none"]
            continue
        key = (row.name, claim.tuning, claim.unit, claim.adjacency, claim.trust, small(claim.delta))
        promises.setdefault(key, []).append(upper(claim.epsilon))
        covers[row.name, claim.covers] = None
    head = ["", "printed epsilon", "unit", "adjacency", "trust", "delta", "tuning"]
    lines = [[key[0], ", ".join(printed), *key[2:], key[1]] for key, printed in promises.items()]
    accountants = sorted({row.claim.accountant for row in rows if row.claim.accountant})
    listed = [f"- {name} covers: {words}" for name, words in covers]
    said_of_all = [f"- Printed epsilons are upper bounds, rounded up. {'; '.join(accountants)}."] if accountants else []
    return "\n\n".join(part for part in (markdown(head, lines), "\n".join(listed + said_of_all)) if part)


def seeds_table(rows: Sequence[Row], reading: str) -> str:
    """One line a row and seed."""
    lines = [
        [row.name, _no_dp(said(row.epsilon)), str(seed), *(_each(row, reading, metric, at) for metric in METRICS)]
        for row in rows
        for at, seed in enumerate(row.seeds)
    ]
    return markdown(["", "epsilon", "seed", *METRICS], lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose source reads well too: padded cells."""
    rows = [list(head), *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    widths = [max(3, *(len(row[at]) for row in rows)) for at in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(row) + " |" for row in padded)


def _measured(rows: Sequence[Row], reading: str) -> bool:
    return any(reading in row.metrics for row in rows)


def _no_dp(word: str) -> str:
    return "no DP" if word == "none" else word


def _number(spread: Spread | None) -> str:
    if spread is None:
        return "—"
    if len(spread.each) == 1:
        return f"{spread.mean:.4f}"
    return f"{spread.mean:.4f} ({spread.low:.4f} to {spread.high:.4f})"


def _each(row: Row, reading: str, metric: str, at: int) -> str:
    return f"{row.metrics[reading][metric].each[at]:.4f}" if reading in row.metrics else "—"


def _head(config: SimulationConfig, asked: str, rows: Sequence[Row]) -> str:
    split = f"{config.data.split} ({PROTOCOLS[config.data.split]})"
    seeds = ", ".join(str(seed) for seed in rows[0].seeds)
    return (
        f"Data `{config.preset}`, split {split}, full ranking over the catalogue, test items, used once, at the "
        f"end of each run ([protocol](../protocols.md)); {config.rounds} rounds, seeds {seeds}. Hyper-parameters come "
        f"from the configuration alone.\n\n```console\n{asked}\n```"
    )


def _notes(config: SimulationConfig, rows: Sequence[Row]) -> str:
    privacy = config.privacy
    notes = [
        (
            "Everybody is fitted on train rows alone; train and validation rows are masked. Whoever reads validation "
            "rows of a user when it ranks test items knows more, most of all on a split by time: compare within one "
            "table only."
        ),
        (
            f"Private peers: unit user, adjacency zero-out, the same delta ({small(privacy.delta)}) and accountant, "
            "all of epsilon for one release. They are central: their server sees every history, and epsilon holds "
            "against those who see what it gives out."
        ),
    ]
    if privacy.trust == "distributed":
        honest = config.cohort.smallest * (1.0 - privacy.collusion)
        factor = math.sqrt(1.0 / honest) if honest else math.inf
        notes.append(
            f"Ours holds against everybody, the server included, while up to {privacy.collusion:.0%} of a smallest "
            f"cohort ({config.cohort.smallest:.0%} of those asked) collude: the honest rest alone makes up the noise. "
            f"So where everybody answers, the sum holds {factor:.2f} times the noise that its epsilon needs; no peer "
            "pays that."
        )
    profiles = " and profiles" if config.model.encoder == "linear" else ""
    notes.append(
        f"Ours spends epsilon on every release of a run: updates, measurements, one-off statistics{profiles}; no "
        "amplification by sampling is claimed."
    )
    if config.secure_aggregation == "ideal":
        notes.append("Sums were added up without masks in these simulations; masks change no integer of them.")
    if any(row.name == TUNED for row in rows):
        notes.append(
            f'"{TUNED}" uses hyper-parameters chosen on this data set\'s own validation items: its epsilon does '
            "not cover that choice."
        )
    return "\n".join(f"- {note}" for note in notes)


def _made(made: Circumstances, rows: Sequence[Row], remarks: Sequence[str]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in asdict(made)["versions"].items())
    seeds = sorted({seed for row in rows for seed in row.seeds})
    lines = [f"{made.date}, {made.cpu}, {made.cores} cores; seeds {', '.join(map(str, seeds))}; {versions}.", *remarks]
    return "\n".join(f"- {line}" for line in lines)
