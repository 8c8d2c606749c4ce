"""A sweep from its grid to its outcomes, in one folder: what is finished there stays, what began goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from server.job import check_promise
from server.resuming import alone
from shared.errors import RunError
from shared.files import write_atomically
from simulations.baselines.run import LARGEST_DENSE
from simulations.frontier.rows import METRICS, VALID, Outcome, collect
from simulations.frontier.runs import RUNS, check_run, digest, finished, outcome_of, remarks_of, stamp_of
from simulations.report.wording import duration
from simulations.sweep.child import Order
from simulations.sweep.dispatch import Begun, Ended, Orders, log_of
from simulations.sweep.grid import Planned
from simulations.sweep.page import Failure
from simulations.sweep.rows import Section
from simulations.sweep.yardsticks import yardsticks

LOCK: Final = ".lock"
RUNS_FOLDER, YARDSTICKS_FOLDER = "runs", "yardsticks"
Dispatch = Callable[[Orders, Begun], Iterator[Ended]]
"""Carries orders out: ``simulations.sweep.dispatch``."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What a sweep found.

    Attributes:
        sections: one a preset and split, ours first, then the yardsticks.
        remarks: what a reader must know about single runs: early ends, other code.
        failures: runs that did not end well; the same command tries them again.
    """

    sections: tuple[Section, ...]
    remarks: tuple[str, ...]
    failures: tuple[Failure, ...]


def answer(
    runs: Sequence[Planned], folder: Path, dispatch: Dispatch, *, cache: Path, source: Path | None, say: Say
) -> Answer:
    """Run whatever is missing, beside the yardsticks.

    Args:
        runs: of the grid.
        folder: of the sweep; what it holds of the same configurations is reused.
        dispatch: where runs happen.
        cache: of downloads and text vectors.
        source: folder to take a preset's files from.
        say: gets a sentence as work goes on.

    Raises:
        FedrecallError: with one sentence, before anything runs: a promise that cannot be kept, wrong data, a folder in
            use or of something else.
        KeyboardInterrupt: passed on; the same sweep goes on from there.
    """
    _check_folder(folder)
    for run in runs:
        check_promise(run.config)
        check_run(_folder(folder, run), run.config, "this sweep")
    (folder / RUNS_FOLDER).mkdir(parents=True, exist_ok=True)
    with alone(folder / LOCK, f"{folder}: another process works on this sweep"):
        beside = _yardsticks(runs, folder, cache, source, say)
        failures = _carried_out(runs, folder, dispatch, source, say)
    code, found, remarks = digest(RUNS), dict[str, list[Outcome]](), list[str]()
    for run in runs:
        path = _folder(folder, run)
        summary = None if run.name in failures else finished(path)
        if summary is None:
            continue
        stamp = stamp_of(path)
        remarks += remarks_of(run.name, summary, stamp.exists() and stamp.read_text("utf-8") == code)
        outcome = outcome_of(run.row, run.epsilon, run.seed, summary)
        valid = {metric: float(summary["valid"][metric]) for metric in METRICS}
        found.setdefault(_place(run), []).append(replace(outcome, metrics={**outcome.metrics, VALID: valid}))
    sections = [
        Section(run.config.preset, run.config.data.split, collect([*found.get(place, []), *beside[place]]))
        for place, run in {_place(run): run for run in runs}.items()
    ]
    remarks += [
        f"{section.name}: {row.name} is not fitted to more than {LARGEST_DENSE:,} items; its row is empty."
        for section in sections
        for row in section.rows
        if not row.metrics
    ]
    return Answer(tuple(sections), tuple(remarks), tuple(Failure(name, why) for name, why in failures.items()))


def unfinished(runs: Sequence[Planned], folder: Path) -> list[Planned]:
    """What is still to be run of a sweep."""
    return [run for run in runs if finished(_folder(folder, run)) is None]


def _place(run: Planned) -> str:
    """What a section is of."""
    return f"{run.config.preset}-{run.config.data.split}"


def _folder(folder: Path, run: Planned) -> Path:
    return folder.absolute() / RUNS_FOLDER / run.name


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose another --out")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    if names and RUNS_FOLDER not in names:
        raise RunError(f"{folder}: not empty, and no sweep: it holds {min(names)}; choose another --out")


def _yardsticks(
    runs: Sequence[Planned], folder: Path, cache: Path, source: Path | None, say: Say
) -> dict[str, list[Outcome]]:
    """Section -> outcomes of its yardsticks; every text model that its runs read is fetched on the way."""
    seeds = tuple(dict.fromkeys(run.seed for run in runs))
    out: dict[str, list[Outcome]] = {}
    seen: list[object] = []
    for run in runs:
        model = run.config.model
        reads = (run.config.data, run.config.evaluation, model.text_encoder, model.adaptation, model.vectors)
        if reads in seen:
            continue
        seen.append(reads)
        kept = folder / YARDSTICKS_FOLDER
        out[_place(run)] = yardsticks(run.config, seeds, kept, cache=cache, source=source, say=say)
    return out


def _carried_out(
    runs: Sequence[Planned], folder: Path, dispatch: Dispatch, source: Path | None, say: Say
) -> dict[str, str]:
    """Carry out what is not finished: name -> why it failed, of those that did."""
    todo = unfinished(runs, folder)
    if len(todo) < len(runs):
        say(f"{len(runs) - len(todo)} of {len(runs)} runs are there already")
    code = digest(RUNS)
    orders: dict[str, Order] = {}
    for run in todo:
        path = _folder(folder, run)
        if not (path / "config.toml").exists():
            # Before the run: one that goes on under other code keeps the stamp of the code it began with.
            write_atomically(stamp_of(path), code.encode())
        config = run.config.model_dump(mode="json")
        orders[run.name] = Order(str(path), config, str(source.absolute()) if source else "")
    failures: dict[str, str] = {}
    began = time.monotonic()
    for done, (name, why) in enumerate(dispatch(orders, lambda name: say(f"begun: {name}")), 1):
        left = (time.monotonic() - began) / done * (len(todo) - done)
        say(
            f"{done} of {len(todo)}: {name} {'ended' if why is None else f'FAILED: {why}'}; about {duration(left)} left"
        )
        if why is not None:
            failures[name] = f"{why}; see {RUNS_FOLDER}/{log_of(orders[name]).name}"
    return failures
