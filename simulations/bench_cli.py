"""``fedrecall-sim bench``: figures beside the peers, taken in the same run on the same machine.

Every command measures, telling on standard error what, and prints a table or, for scripts, JSON and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from shared.terminal import PlainCommand
from simulations.options import AsJson, From
from simulations.sweep_cli import SOME_FAILED

if TYPE_CHECKING:
    from rich.console import Console

bench_app: Final = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@bench_app.callback()
def bench() -> None:
    """Measure this machine: every figure beside a peer or a bound, in the same run."""


@bench_app.command("updates", cls=PlainCommand)
def updates_command(
    peers: Annotated[bool, typer.Option("--peers", help="Beside pfl and Flower's Ray simulation, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Client updates a CPU-second, beside the machine's bound; with --peers beside pfl and Flower with Opacus."""
    from simulations.benchmarks import updates, updates_table  # noqa: PLC0415 - heavy

    report(partial(updates.measure, peers=peers), updates_table.show, as_json=as_json)


@bench_app.command("secagg", cls=PlainCommand)
def secagg_command(
    peers: Annotated[
        bool, typer.Option("--peers", help="The peer's session of 1,000 clients, too: ten minutes more.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Secure aggregation beside Flower's SecAgg+: time, bytes, memory; about four minutes."""
    from simulations.benchmarks import secagg, secagg_table  # noqa: PLC0415 - heavy

    report(partial(secagg.measure, peers=peers), secagg_table.show, as_json=as_json)


@bench_app.command("recall", cls=PlainCommand)
def recall_command(
    items: Annotated[
        list[int] | None, typer.Option("--items", min=1000, help="Size of a catalogue; may be given more than once.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The best items for one person beside numpy, faiss, usearch; two minutes, for a million items half an hour."""
    from simulations.benchmarks import recall, recall_table  # noqa: PLC0415 - heavy

    plan = recall.Plan(tuple(items)) if items else recall.Plan()
    report(partial(recall.measure, plan=plan), recall_table.show, as_json=as_json)


@bench_app.command("memory", cls=PlainCommand)
def memory_command(as_json: AsJson = False) -> None:
    """Peak of memory from 1,000 to 1,000,000 simulated users; about a minute."""
    from simulations.benchmarks import scale, scale_table  # noqa: PLC0415 - heavy

    report(scale.measure_memory, scale_table.show, as_json=as_json)


@bench_app.command("scale", cls=PlainCommand)
def scale_command(as_json: AsJson = False) -> None:
    """Rounds of up to 10,000 of a million users, and up to a million items; about five minutes."""
    from simulations.benchmarks import scale, scale_table  # noqa: PLC0415 - heavy

    report(scale.measure_scale, scale_table.show, as_json=as_json)


@bench_app.command("startup", cls=PlainCommand)
def startup_command(as_json: AsJson = False) -> None:
    """Time to help texts and to the first round of a run; about a minute."""
    from simulations.benchmarks import startup  # noqa: PLC0415 - heavy

    report(startup.measure, startup.show, as_json=as_json)


@bench_app.command("all", cls=PlainCommand)
def all_command(
    peers: Annotated[bool, typer.Option("--peers", help="All peers, also those that take their time.")] = False,
    as_json: AsJson = False,
) -> None:
    """Everything above, one after another: updates, secagg, recall, memory, scale, startup; a quarter of an hour.

    What fails does not stop the others; the exit code is 6 then.
    """
    from simulations.benchmarks import everything  # noqa: PLC0415 - heavy

    parts = everything.parts(peers=peers)
    measure, show = partial(everything.measure, every=parts), partial(everything.show, every=parts)
    result = report(measure, show, as_json=as_json)
    if any(everything.FAILED in part for part in result.values()):
        raise typer.Exit(SOME_FAILED)


@bench_app.command("measurement", cls=PlainCommand)
def measurement_command(
    run: Annotated[Path | None, typer.Option("--run", help="Measure this ml-100k run's own lists, too.")] = None,
    from_: Annotated[Path | None, typer.Option("--from", help="Take ml-100k's files from this folder.")] = None,
    reports: Annotated[int, typer.Option("--reports", min=2, help="Simulated reports a row.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Calibration of measurements: how often a 95 % bar holds the truth, on ml-100k; about ten minutes."""
    from simulations.benchmarks import measurement, measurement_table  # noqa: PLC0415 - heavy
    from simulations.download import cache_folder  # noqa: PLC0415 - as above

    plan = measurement.Plan(reports=reports)
    measure = partial(measurement.measure, cache=cache_folder(), source=from_, run=run, plan=plan)
    report(measure, measurement_table.show, as_json=as_json)


@bench_app.command("device", cls=PlainCommand)
def device_command(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    from_: From = None,
    as_json: AsJson = False,
) -> None:
    """Time of one list, its reasons and one event on a device, under a run's model; seconds."""
    from simulations.benchmarks import device  # noqa: PLC0415 - heavy
    from simulations.download import cache_folder  # noqa: PLC0415 - as above

    cache = cache_folder()
    report(lambda say: device.measure(run, cache=cache, source=from_, say=say), device.show, as_json=as_json)


@bench_app.command("audit", cls=PlainCommand)
def audit_command(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of the run that is audited.")] = 10_000,
    clients: Annotated[int, typer.Option("--clients", min=2, help="Clients, each with a ledger and a key.")] = 1_000,
    cohort: Annotated[int, typer.Option("--cohort", min=2, help="Clients asked in each round.")] = 10,
    as_json: AsJson = False,
) -> None:
    """The audit of a long run's ledgers: time and memory beside reading their JSON; about two minutes."""
    from simulations.benchmarks import audit  # noqa: PLC0415 - heavy

    report(partial(audit.measure, plan=audit.Plan(rounds, clients, cohort)), audit.show, as_json=as_json)


@bench_app.command("vault", cls=PlainCommand)
def vault_command(
    events: Annotated[int, typer.Option("--events", min=1, help="Events in the vault.")] = 1_000_000,
    items: Annotated[int, typer.Option("--items", min=1, help="Items of the catalogue.")] = 100_000,
    as_json: AsJson = False,
) -> None:
    """A device's sealed store: import, query, forget and prove it, beside SQLite in clear; about a minute."""
    from simulations.benchmarks import vault  # noqa: PLC0415 - heavy

    report(partial(vault.measure, plan=vault.Plan(events, items)), vault.show, as_json=as_json)


@bench_app.command("serving", cls=PlainCommand)
def serving_command(
    items: Annotated[
        list[int] | None, typer.Option("--items", min=1000, help="Size of a catalogue; may be given more than once.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A device's lists, events, reasons and restart beside their bars; minutes, for a million items ten or more."""
    from simulations.benchmarks import serving  # noqa: PLC0415 - heavy

    report(partial(serving.measure, sizes=items or [10_000, 100_000]), serving.show, as_json=as_json)


def report(
    measure: Callable[[Callable[[str], None]], dict[str, Any]],
    show: Callable[[dict[str, Any], Console], None],
    *,
    as_json: bool,
) -> dict[str, Any]:
    """Measure, then print.

    Args:
        measure: takes the figures as JSON values; handed what tells of progress.
        show: prints them for a person.
        as_json: JSON instead, and no progress.

    Returns:
        The figures.
    """
    from rich.console import Console  # noqa: PLC0415 - heavy

    progress = Console(stderr=True, highlight=False, quiet=as_json)
    result = measure(lambda sentence: progress.print(sentence, markup=False))
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result, Console(highlight=False))
    return result
