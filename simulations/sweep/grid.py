"""What a sweep asks, and the runs that answer it: every preset, value, epsilon and seed with every other one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

from shared.errors import ConfigError
from simulations.config import SimulationConfig, resolve
from simulations.frontier.rows import OURS, Epsilon, said

MOST_RUNS: Final = 10_000
_LONGEST: Final = 60  # characters of settings in a folder's name
_OPTIONS: Final = {"privacy.epsilon": "--epsilons", "seed": "--seeds"}
_SHARED: Final = ("data", "evaluation")  # sections that all rows of a table share: its yardsticks are of one choice
_OPENING, _CLOSING = "[{", "]}"


@dataclass(frozen=True)
class Axis:
    """A key and the values that it takes in turn, spelt as the command line has them."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """What a sweep asks.

    Attributes:
        sources: presets' names or TOML files.
        axes: keys on top of them; those of one value hold for every run.
        epsilons, seeds: see ``simulations.frontier.rows``.
        data: a folder that overrides the source's data.
    """

    sources: tuple[str, ...]
    axes: tuple[Axis, ...]
    epsilons: tuple[Epsilon, ...]
    seeds: tuple[int, ...]
    data: Path | None = None

    @property
    def settings(self) -> list[tuple[tuple[str, str], ...]]:
        """Every choice of a value for every key; one empty choice where there are no keys."""
        return [
            tuple(choice) for choice in product(*([(axis.key, value) for value in axis.values] for axis in self.axes))
        ]


@dataclass(frozen=True)
class Planned:
    """One run to be.

    Attributes:
        name: of its folder; no other run of the sweep has it.
        row: the recommender that it is a seed of: ours, and the settings that the sweep varies.
        epsilon, seed: asked for.
        config: resolved.
    """

    name: str
    row: str
    epsilon: Epsilon
    seed: int
    config: SimulationConfig


def parse_axes(pairs: Sequence[str]) -> tuple[Axis, ...]:
    """Read ``["training.rate=0.1,0.2", ...]``; commas within quotes, brackets and braces belong to a value.

    Raises:
        ConfigError: no key or no value, a key or a value that stands there twice, a key with an option of its own,
            several values of a key that changes what is measured.
    """
    axes: dict[str, Axis] = {}
    for pair in pairs:
        key, equals, text = (part.strip() for part in pair.partition("="))
        values = tuple(_values(text))
        if not equals or not key or not all(values):
            raise ConfigError(f"--set {pair}: expected key=value or key=value,value; for example --set policy.k=10,20")
        if key in _OPTIONS:
            raise ConfigError(f"--set {pair}: a sweep goes through several; name them with {_OPTIONS[key]}")
        if key in axes:
            raise ConfigError(f"--set {pair}: {key} stands there twice; list its values in one --set")
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise ConfigError(f"--set {pair}: {twice} stands there twice")
        if len(values) > 1 and key.partition(".")[0] in _SHARED and key != "data.split":
            raise ConfigError(
                f"--set {pair}: rows of one table are of the same data and people; one value a sweep, each with its "
                "own --out"
            )
        axes[key] = Axis(key, values)
    return tuple(axes.values())


def _values(text: str) -> Iterator[str]:
    """Split at commas outside quotes and brackets."""
    depth, quote, begun = 0, "", 0
    for at, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in _OPENING or sign in _CLOSING:
            depth += 1 if sign in _OPENING else -1
        elif sign == "," and depth == 0:
            yield text[begun:at].strip()
            begun = at + 1
    yield text[begun:].strip()


def planned(grid: Grid) -> tuple[Planned, ...]:
    """All runs of a sweep: by source, settings, epsilon from the largest down, and seed.

    Raises:
        ConfigError: a source, key or value that cannot be, or two runs that would be one; before anything runs.
    """
    count = len(grid.sources) * len(grid.settings) * len(grid.epsilons) * len(grid.seeds)
    if count > MOST_RUNS:
        raise ConfigError(f"{count:,} runs: a sweep is of {MOST_RUNS:,} at most; leave values, epsilons or seeds out")
    varied = {axis.key for axis in grid.axes if len(axis.values) > 1}
    runs = [
        _run(grid, source, settings, [pair for pair in settings if pair[0] in varied], epsilon, seed)
        for source in grid.sources
        for settings in grid.settings
        for epsilon in grid.epsilons
        for seed in grid.seeds
    ]
    names, known = set[str](), dict[str, str]()
    for run in runs:
        if run.config.engine != "inprocess":
            raise ConfigError(f'engine = "{run.config.engine}": a run of a sweep is one process; leave it "inprocess"')
        if run.name in names:
            which = "one preset with --data" if grid.data else "presets and files that differ in their names"
            raise ConfigError(f"two runs would be called {run.name}: name {which}")
        written = run.config.model_dump_json()
        if same := known.get(written):
            raise ConfigError(f"{same} and {run.name} are the same run, spelt differently; name one of them")
        names.add(run.name)
        known[written] = run.name
    return tuple(runs)


def _run(
    grid: Grid,
    source: str,
    settings: Sequence[tuple[str, str]],
    varied: Sequence[tuple[str, str]],
    epsilon: Epsilon,
    seed: int,
) -> Planned:
    written = "privacy.epsilon=" + ('"none"' if epsilon is None else repr(epsilon))
    sets = [f"{key}={value}" for key, value in settings]
    config = resolve(source, sets=[*sets, written], seed=seed, data=grid.data)
    told = [f"{key}={value}" for key, value in varied]
    parts = [config.preset, *([_tag(told)] if told else []), f"epsilon-{said(epsilon)}", f"seed-{seed}"]
    return Planned("-".join(parts), ", ".join([OURS, *told]), epsilon, seed, config)


def _tag(told: Sequence[str]) -> str:
    """Settings as part of a folder's name; where they do not fit one, cut and told apart by a digest."""
    whole = ",".join(told)
    cut = re.sub(r"[^\w.,=-]", "_", whole)[:_LONGEST]
    return whole if cut == whole else f"{cut}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
