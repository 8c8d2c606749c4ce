"""The runs of a frontier, one after the other, in one folder; what is finished there is reused, what began goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from server.job import check_promise
from shared.config import keys, read_toml, validate
from shared.errors import ConfigError, RunError
from shared.files import write_atomically
from simulations.config import SimulationConfig, resolve
from simulations.datasets.load import ZIPF
from simulations.frontier.peers import peers
from simulations.frontier.reweighed import judged_anew, only_weights
from simulations.frontier.rows import BOTH, METRICS, OURS, TRAIN, TUNED, Claim, Epsilon, Outcome, said
from simulations.run import Screen, new_run, resume_run
from simulations.world import World, load_world

_TUNED: Final = "tuned-"
MADE: Final = ".code"  # beside a run's folder: digest of the code that made it
_ROOT: Final = Path(__file__).parents[2]
PEERS: Final = (
    "simulations/baselines",
    "simulations/datasets",
    "shared/recall/metrics.py",
    "shared/privacy/accounting.py",
    *("simulations/seeding.py", "simulations/world.py"),  # who is asked
)
RUNS: Final = (
    *("client", "server", "shared", "simulations/datasets"),
    *(f"simulations/{name}.py" for name in ("aggregation", "config", "engine", "finish", "mending", "model")),
    *(f"simulations/{name}.py" for name in ("numbered", "run", "seeding", "trending", "world")),
)
_UNUSED: Final = "shared/audit"  # reads what runs leave behind; none of them imports it


@dataclass(frozen=True)
class Question:
    """What a frontier asks.

    Attributes:
        source: a preset's name or a TOML file.
        sets: ``key=value`` pairs on top of it, for every run.
        tuned: further pairs for a second set of runs, marked as tuned on this data; none leaves that set out.
        epsilons, seeds: each pair of them is a run.
        data: a folder that overrides the preset's data.
    """

    source: str
    sets: tuple[str, ...]
    tuned: tuple[str, ...]
    epsilons: tuple[Epsilon, ...]
    seeds: tuple[int, ...]
    data: Path | None = None

    @property
    def base(self) -> SimulationConfig:
        """The configuration that all runs share, as it is before epsilon and seed are put in."""
        return resolve(self.source, sets=self.sets, data=self.data)


@dataclass(frozen=True)
class Answer:
    """What a frontier found.

    Attributes:
        outcomes: ours first, then the peers'.
        remarks: what a reader must know about single runs: early ends, other code, a sample of people.
    """

    outcomes: tuple[Outcome, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Planned:
    """One run to be: its folder, its configuration, and what it is one of.

    ``trained`` is the folder whose model it is of: its own, but where it differs from another run in weights alone.
    """

    folder: Path
    trained: Path
    name: str
    epsilon: Epsilon
    config: SimulationConfig


Screens = Callable[[Path], AbstractContextManager[Screen]]


def answer(question: Question, folder: Path, *, cache: Path, source: Path | None, screens: Screens) -> Answer:
    """Run whatever is missing, then the peers.

    Args:
        question: what is asked.
        folder: of all runs; what it holds of the same configurations is reused.
        cache: of downloads and text vectors.
        source: folder to take a preset's files from.
        screens: opens a screen for one folder.

    Raises:
        FedrecallError: with one sentence, before anything runs where the question or the folder is wrong.
        KeyboardInterrupt: passed on; the same question goes on from there.
    """
    planned = tuple(_planned(question, folder))
    check_folder(folder)
    for run in planned:
        check_promise(run.config)
        check_run(run.folder, run.config, "this frontier")
    code, clock, worlds = digest(RUNS), _Clock(), _worlds(cache, source)
    outcomes, remarks = [], []
    for number, run in enumerate(planned):
        place = f"run {number + 1} of {len(planned)}: {run.folder.name}"
        if run.trained != run.folder:
            with screens(folder) as screen:
                screen.say(f"{place}: the model of {run.trained.name} under other weights")
                summary = judged_anew(run.trained, finished(run.trained) or {}, run.config, worlds(run, screen))
            outcomes.append(outcome_of(run.name, run.epsilon, int(summary["seed"]), summary))
            continue
        with screens(run.folder) as screen:
            summary = finished(run.folder)
            if summary is None:
                screen.say(place + clock.left(len(planned) - number))
                began = time.monotonic()
                if not (run.folder / "config.toml").exists():
                    # Before the run: one that goes on under other code keeps the stamp of the code it began with.
                    write_atomically(stamp_of(run.folder), code.encode())
                summary = _made_now(run, cache, source, screen)
                clock = _Clock(clock.seconds + time.monotonic() - began, clock.runs + 1)
            else:
                screen.say(f"{place} is there already")
        stamp = stamp_of(run.folder)
        remarks += remarks_of(run.folder.name, summary, stamp.exists() and stamp.read_text("utf-8") == code)
        outcomes.append(outcome_of(run.name, run.epsilon, int(summary["seed"]), summary))
    if any(run.trained != run.folder for run in planned):
        remarks.append("Tuned rows are the models of the rows above them under other weights: training reads none.")
    with screens(folder) as screen:
        further = (question.epsilons, question.seeds, folder, digest(PEERS))
        beside = peers(question.base, *further, cache=cache, source=source, say=screen.say)
    return Answer((*outcomes, *beside), tuple(remarks))


def _planned(question: Question, folder: Path) -> Iterator[_Planned]:
    """All runs: largest epsilon first, all its seeds."""
    if question.base.engine != "inprocess":
        raise ConfigError(f'engine = "{question.base.engine}": a frontier runs in one process; leave it "inprocess"')
    if question.base.data.name == ZIPF:
        raise ConfigError(
            f'data "{ZIPF}": private peers would be fitted to some of its people alone, under the noise that all of '
            "them need; fedrecall-sim sweep has no such peers"
        )
    for pair in (*question.sets, *question.tuned):
        for key, option in (("privacy.epsilon", "--epsilons"), ("seed", "--seeds")):
            if pair.partition("=")[0].strip() == key:
                raise ConfigError(f"--set {pair}: a frontier goes through several; name them with {option}")
    variants = [(OURS, "", "", question.sets)]
    if question.tuned:
        trained = "" if only_weights(question.base, question.tuned) else _TUNED
        variants.append((TUNED, _TUNED, trained, question.sets + question.tuned))
    for name, prefix, trained, sets in variants:
        for epsilon in question.epsilons:
            for seed in question.seeds:
                written = "privacy.epsilon=" + ('"none"' if epsilon is None else repr(epsilon))
                config = resolve(question.source, sets=[*sets, written], seed=seed, data=question.data)
                run = f"epsilon-{said(epsilon)}-seed-{seed}"
                yield _Planned(folder / (prefix + run), folder / (trained + run), name, epsilon, config)


def _worlds(cache: Path, source: Path | None) -> Callable[[_Planned, Screen], Callable[[], World]]:
    """How the data of a run is come by: read when it is first needed, once a seed."""
    read: dict[object, World] = {}

    def worlds(run: _Planned, screen: Screen) -> Callable[[], World]:
        def world() -> World:
            if run.config.seed not in read:
                read[run.config.seed] = load_world(run.config, cache, source, screen.say)
            return read[run.config.seed]

        return world

    return worlds


def check_folder(folder: Path) -> None:
    """Nothing but a frontier is in the folder.

    Raises:
        RunError: something else is.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose another --out")
    ours = ("peers-seed-", "epsilon-", "tuned-epsilon-")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    # A kill leaves the draft of one of our files, named after it behind a dot.
    strange = [name for name in names if not name.lstrip(".").startswith(ours)]
    if strange:
        raise RunError(f"{folder}: not empty, and no frontier: it holds {min(strange)}; choose another --out")


def check_run(folder: Path, config: SimulationConfig, asker: str) -> None:
    """The folder of a run is new, or holds the same configuration.

    Args:
        folder, config: of the run to be.
        asker: who wants it, for the sentence.

    Raises:
        RunError: another one; names a key.
    """
    path = folder / "config.toml"
    if not path.exists():
        return
    there = validate(SimulationConfig, read_toml(path), str(path))
    if there == config:
        return
    old, new = there.model_dump(mode="json"), config.model_dump(mode="json")
    key = next(key for key in keys(SimulationConfig) if _at(old, key) != _at(new, key))
    raise RunError(
        f"{folder}: holds a run with {key} = {_at(old, key)!r}, {asker} asks for {_at(new, key)!r}; choose another "
        "--out"
    )


def _at(tree: Mapping[str, Any], key: str) -> object:
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value


def finished(folder: Path) -> dict[str, Any] | None:
    """The summary of a run that has ended."""
    if not (folder / "report.html").exists():
        return None
    return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def _made_now(run: _Planned, cache: Path, source: Path | None, screen: Screen) -> dict[str, Any]:
    if (run.folder / "config.toml").exists():
        return dict(resume_run(run.folder, cache=cache, source=source, screen=screen))
    return dict(new_run(run.config, run.folder, cache=cache, source=source, screen=screen))


@dataclass(frozen=True)
class _Clock:
    """How long the runs took that were made so far."""

    seconds: float = 0.0
    runs: int = 0

    def left(self, runs: int) -> str:
        """How long ``runs`` more may take; nothing is said before the first."""
        if not self.runs:
            return ""
        return f", about {max(1, round(self.seconds / self.runs * runs / 60))} min left before the peers"


def remarks_of(name: str, summary: Mapping[str, Any], same_code: bool) -> list[str]:
    """What a reader must know about a run: made by other code, ended early, measured on some people alone."""
    out = [] if same_code else [f"{name} was made by an earlier state of the code."]
    if summary["stopped"] != "finished":
        done = f"after {summary['rounds_done']} of {summary['rounds']} rounds"
        out.append(f"{name} ended early ({summary['stopped']}, {done}).")
    if asked := summary.get("asked"):  # runs from before samples have none
        out.append(f"{name} was measured on items {asked}; what stands beside it likewise.")
    return out


def stamp_of(run: Path) -> Path:
    """A file of its own for every run, so that processes with different seeds can share a frontier's folder."""
    return run.with_name(run.name + MADE)


def outcome_of(name: str, epsilon: Epsilon, seed: int, summary: Mapping[str, Any]) -> Outcome:
    """A run's summary as an outcome."""
    metrics = {BOTH: {metric: float(summary["test"][metric]) for metric in METRICS}}
    if "test_reading_train" in summary:
        metrics[TRAIN] = {metric: float(summary["test_reading_train"][metric]) for metric in METRICS}
    if summary["epsilon"] is None:
        return Outcome(name, epsilon, seed, metrics, Claim(None))
    tuning = "covered" if summary["covers_tuning"] else "not covered"
    if name == TUNED:
        tuning = "not covered: hyper-parameters were chosen on this data set's validation items"
    claim = Claim(
        epsilon=float(summary["epsilon"]),
        unit=str(summary["unit"]),
        adjacency=str(summary["adjacency"]),
        trust=str(summary["trust"]),
        delta=float(summary["delta"]),
        accountant=str(summary["accountant"]),
        covers=str(summary["covers"]),
        tuning=tuning,
    )
    return Outcome(name, epsilon, seed, metrics, claim)


def digest(parts: Sequence[str]) -> str:
    """SHA-256 over the code and presets under the given paths, hex; what no run imports is left out."""
    found = hashlib.sha256()
    for part in parts:
        root = _ROOT / part
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.suffix in {".py", ".toml"})
        for path in files:
            if path.is_relative_to(_ROOT / _UNUSED):
                continue
            found.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()
