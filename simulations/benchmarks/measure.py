"""What every measurement has in common: one core, repeats, their spread, and the machine they were taken on."""

from __future__ import annotations

import gc
import os
import platform
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Machine:
    """Where and on what a figure was taken.

    Attributes:
        cpu: its name, as the system gives it.
        cores: those this process may use.
        load: load average over one minute when the measurements began; above about 1, somebody else was working too.
        python: version of the interpreter.
        packages: versions of the libraries that the figures depend on.
    """

    cpu: str
    cores: int
    load: float
    python: str
    packages: dict[str, str]


@dataclass(frozen=True)
class Spread:
    """Repeats of one figure: the median, and the smallest and largest seen."""

    median: float
    low: float
    high: float
    repeats: int


def spread_of(values: list[float]) -> Spread:
    """Median and range of at least one value."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def machine(*packages: str) -> Machine:
    """This machine, now.

    Args:
        packages: distributions whose versions belong beside the figures.
    """
    from importlib.metadata import version  # noqa: PLC0415 - asked for once, and slow

    versions = {name: version(name) for name in packages}
    return Machine(_cpu(), _cores(), os.getloadavg()[0], platform.python_version(), versions)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, its threads included, on one core; where the system cannot, nothing happens."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def repeated(function: Callable[[], T], repeats: int, *, warm: bool = True) -> list[T]:
    """Results of ``repeats`` calls, after one that is not counted; garbage of one call is not paid for by the next."""
    out: list[T] = []
    for number in range(repeats + warm):
        gc.collect()
        result = function()
        if number >= warm:
            out.append(result)
    return out


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except OSError:
        return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
