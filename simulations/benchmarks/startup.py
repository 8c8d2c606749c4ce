"""How long one waits: for the help text of every command, and for the first task of a run whose data are in the cache.

Every figure is of a fresh process, from before it is started: until it has ended for help, until the first task is
handed to the Grid for a run.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from shared.errors import RunError
from simulations.benchmarks.measure import bar_of, in_child, machine, spread_of
from simulations.benchmarks.tables import bars_table, cell_of, machine_line
from simulations.download import Say

PROGRAMS: Final = {
    "fedrecall-audit": "shared.audit.cli",
    "fedrecall-client": "client.cli",
    "fedrecall-server": "server.cli",
    "fedrecall-sim": "simulations.cli",
}
PRESET: Final = "ml-100k"
REPEATS: Final = 3
HELP_BAR, RUN_BAR = 0.5, 10.0  # seconds
Taken = dict[str, float]  # "seconds" of the clock and "cpu_seconds"


class _Sent(BaseException):
    """The first task is on its way: nothing of a run goes on, not even its handlers of errors."""


def measure(say: Say) -> dict[str, Any]:
    """Seconds to help texts and to a run's first task.

    Args:
        say: told what is being measured.

    Raises:
        RunError: a help text failed, or a run ended before its first task; data that are nowhere, for instance.
    """
    where = machine("numpy", "typer", "flwr", "dp-accounting")
    helps: list[dict[str, Any]] = []
    for program, module in PROGRAMS.items():
        say(f"help texts of {program}")
        taken = {" ".join(words): _help_taken(module, words) for words in commands(module)}
        slowest = max(taken, key=lambda name: taken[name]["seconds"])
        helps.append({"program": program, "slowest": slowest, **_spreads(list(taken.values()))})
    say(f"{PRESET} to its first task")
    _first_task()  # fills the cache
    runs = [_first_task() for _ in range(REPEATS)]
    run = {"preset": PRESET, **_spreads(runs)}
    return {
        "help": helps,
        "run": run,
        "bars": [
            bar_of("slowest help text, s", max(row["seconds"]["high"] for row in helps), "<", HELP_BAR),
            bar_of(f"{PRESET} to its first task, s", run["seconds"]["median"], "<", RUN_BAR),
        ],
        "machine": asdict(where),
        "load_after": os.getloadavg()[0],
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print what :func:`measure` returned."""
    helps = Table(title="Help texts, each command once in a process of its own", box=SIMPLE)
    for name in ("program", "commands", "median s", "CPU s", "slowest s", "slowest command"):
        helps.add_column(name, justify="left" if name in {"program", "slowest command"} else "right")
    for row in result["help"]:
        taken = row["seconds"]
        figures = (
            str(taken["repeats"]),
            f"{taken['median']:.2f}",
            f"{row['cpu_seconds']['median']:.2f}",
            f"{taken['high']:.2f}",
        )
        helps.add_row(row["program"], *figures, row["slowest"] or "--help alone")
    console.print(helps)
    run = result["run"]
    console.print(
        f"fedrecall-sim run {run['preset']}, cache warm, to its first task: {cell_of(run['seconds'])} s, "
        f"of the processor {cell_of(run['cpu_seconds'])} s",
        markup=False,
    )
    console.print(bars_table(result["bars"]))
    console.print(machine_line(result), markup=False)


def commands(module: str) -> list[tuple[str, ...]]:
    """The words of every command of a program and of its groups; () is the program itself.

    Args:
        module: that holds its ``app``.
    """
    return list(_below(typer.main.get_command(import_module(module).app), ()))


def _below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:  # noqa: ANN401 - click's, untyped here
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from _below(inner, (*words, name))


def _spreads(taken: Sequence[Taken]) -> dict[str, Any]:
    """Of the clock and of the processor; the second does not mind who else is working."""
    return {name: asdict(spread_of([one[name] for one in taken])) for name in ("seconds", "cpu_seconds")}


def _help_taken(module: str, words: tuple[str, ...]) -> Taken:
    began, used = time.monotonic(), _of_children()
    done = subprocess.run([sys.executable, "-m", module, *words, "--help"], capture_output=True, check=False)  # noqa: S603 - own commands
    if done.returncode:
        raise RunError(f"python -m {' '.join((module, *words))} --help ended with {done.returncode}")
    return {"seconds": time.monotonic() - began, "cpu_seconds": _of_children() - used}


def _of_children() -> float:
    """Seconds of the processor that ended children of this process took."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _first_task() -> Taken:
    with tempfile.TemporaryDirectory() as folder:
        return in_child(__name__, str(Path(folder) / "run"), repr(time.time()))


def _until_first_task(folder: str, began: float) -> Taken:
    """The run command itself in this process, up to its first task.

    Args:
        folder: of the run; not there yet.
        began: ``time.time()`` before this process was started.
    """
    from simulations import cli, engine  # noqa: PLC0415 - their import is part of what is measured

    def sent(*_: object) -> NoReturn:
        raise _Sent

    setattr(engine.InProcessGrid, "push_messages", sent)  # noqa: B010 - this process ends here
    try:
        cli.app(["run", PRESET, "--out", folder, "--quiet"], standalone_mode=False)
    except _Sent:
        return {"seconds": time.time() - began, "cpu_seconds": time.process_time()}
    raise RuntimeError("the run ended without a task")


if __name__ == "__main__":
    print(json.dumps(_until_first_task(sys.argv[1], float(sys.argv[2]))))  # noqa: T201 - read by the parent
