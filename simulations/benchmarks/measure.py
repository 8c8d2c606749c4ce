"""What every measurement has in common: one core, repeats, their spread, and the machine they were taken on."""

from __future__ import annotations

import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from shared.errors import RunError

T = TypeVar("T")

THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_UNIT: Final = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
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
    versions = {name: _version(name) for name in packages}
    return Machine(_cpu(), _cores(), os.getloadavg()[0], platform.python_version(), versions)


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - seldom asked for, and slow

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


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


def peak() -> int:
    """Bytes that this process held at most; without /proc, a bound that the size of its parent is part of."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


@contextmanager
def own_peak() -> Iterator[list[int]]:
    """Watch this process's memory, pages of mapped files aside, which the system may drop whenever it needs the room.

    Yields:
        A list of one number: the most bytes that were held at any of the readings, twenty a second.
    """
    most, over = [_own()], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            most[0] = max(most[0], _own())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()
        most[0] = max(most[0], _own())


def in_child(module: str, *args: str) -> dict[str, Any]:
    """What a module prints as JSON in a fresh process: one thread, its own peak of memory, nobody else's caches.

    Args:
        module: run as ``python -m``; the last line of its standard output is the result.
        args: of its command line.

    Raises:
        RunError: it failed; with its last words.
    """
    return figures_of("the measured process", [sys.executable, "-m", module, *args])


def figures_of(
    whose: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    limit: float | None = None,
) -> dict[str, Any]:
    """What a process prints as JSON in the last line of its standard output; it has one thread for arithmetic.

    Args:
        whose: the process, for sentences.
        command: its command line.
        environment: beside that of this process.
        folder: that it works in.
        limit: seconds that it may take.

    Raises:
        RunError: it cannot be started, takes too long, fails, or prints no figures; with its last words.
    """
    try:
        done = subprocess.run(  # noqa: S603 - programs of this project
            command,
            env={**os.environ, **dict.fromkeys(THREADS, "1"), **(environment or {})},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=limit,
        )
    except OSError as error:
        raise RunError(f"{whose} cannot be started ({error})") from error
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{whose} did not end within {limit:,.0f} seconds") from error
    if done.returncode:
        last = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        raise RunError(f"{whose} ended with {done.returncode}: {last[:1000]}")
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError) as error:
        raise RunError(f"{whose} printed no figures, but {done.stdout[-100:]!r}") from error


def bar_of(what: str, value: float, sign: str, bound: float) -> dict[str, Any]:
    """A bar of the project beside what was measured, and whether it is met.

    Args:
        what: is measured.
        value: the figure.
        sign: "<", "<=" or ">=".
        bound: the bar.
    """
    met = {"<": value < bound, "<=": value <= bound, ">=": value >= bound}[sign]
    return {"what": what, "value": value, "bar": f"{sign} {bound:g}", "met": met}


def _own() -> int:
    return _status("RssAnon") or peak()


def _status(name: str) -> int:
    """Bytes of an entry of this process's status; 0 where the system has none."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition(f"{name}:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
