"""``fedrecall-sim bench``: figures beside the peers, taken in the same run on the same machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer

bench_app: Final = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@bench_app.callback()
def bench() -> None:
    """Measure this machine: every figure beside a peer or a bound, in the same run."""


@bench_app.command("secagg")
def secagg_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")] = False,
) -> None:
    """Secure aggregation beside Flower's SecAgg+: time, bytes, memory; about two minutes."""
    from rich.console import Console  # noqa: PLC0415 - heavy imports wait until the arguments are right

    from simulations.benchmarks.secagg import measure  # noqa: PLC0415 - as above
    from simulations.benchmarks.secagg_table import show  # noqa: PLC0415 - as above

    progress = Console(stderr=True, highlight=False, quiet=as_json)
    result = measure(lambda sentence: progress.print(sentence, markup=False))
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result, Console(highlight=False))


@bench_app.command("measurement")
def measurement_command(
    run: Annotated[Path | None, typer.Option("--run", help="Measure this ml-100k run's own lists, too.")] = None,
    from_: Annotated[Path | None, typer.Option("--from", help="Take ml-100k's files from this folder.")] = None,
    reports: Annotated[int, typer.Option("--reports", min=2, help="Simulated reports a row.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")] = False,
) -> None:
    """Calibration of measurements: how often a 95 % bar holds the truth, on ml-100k; about ten minutes."""
    from rich.console import Console  # noqa: PLC0415 - heavy imports wait until the arguments are right

    from simulations.benchmarks.measurement import Plan, measure  # noqa: PLC0415 - as above
    from simulations.benchmarks.measurement_table import show  # noqa: PLC0415 - as above
    from simulations.download import cache_folder  # noqa: PLC0415 - as above

    progress = Console(stderr=True, highlight=False, quiet=as_json)
    result = measure(
        lambda sentence: progress.print(sentence, markup=False),
        cache_folder(),
        source=from_,
        run=run,
        plan=Plan(reports=reports),
    )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result, Console(highlight=False))


@bench_app.command("device")
def device_command(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    from_: Annotated[Path | None, typer.Option("--from", help="Take the preset's data files from this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")] = False,
) -> None:
    """Time of one list, its reasons and one event on a device, under a run's model; seconds."""
    from rich.console import Console  # noqa: PLC0415 - heavy imports wait until the arguments are right

    from simulations.benchmarks.device import measure, show  # noqa: PLC0415 - as above
    from simulations.download import cache_folder  # noqa: PLC0415 - as above

    progress = Console(stderr=True, highlight=False, quiet=as_json)
    result = measure(
        run, cache=cache_folder(), source=from_, say=lambda sentence: progress.print(sentence, markup=False)
    )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result, Console(highlight=False))


@bench_app.command("audit")
def audit_command(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of the run that is audited.")] = 10_000,
    clients: Annotated[int, typer.Option("--clients", min=2, help="Clients, each with a ledger and a key.")] = 1_000,
    cohort: Annotated[int, typer.Option("--cohort", min=2, help="Clients asked in each round.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")] = False,
) -> None:
    """The audit of a long run's ledgers: time and memory beside reading their JSON; about two minutes."""
    from rich.console import Console  # noqa: PLC0415 - heavy imports wait until the arguments are right

    from simulations.benchmarks.audit import Plan, measure, show  # noqa: PLC0415 - as above

    progress = Console(stderr=True, highlight=False, quiet=as_json)
    result = measure(lambda sentence: progress.print(sentence, markup=False), Plan(rounds, clients, cohort))
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result, Console(highlight=False))


@bench_app.command("vault")
def vault_command(
    events: Annotated[int, typer.Option("--events", min=1, help="Events in the vault.")] = 1_000_000,
    items: Annotated[int, typer.Option("--items", min=1, help="Items of the catalogue.")] = 100_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")] = False,
) -> None:
    """A device's sealed store: import, query, forget and prove it, beside SQLite in clear; about a minute."""
    from rich.console import Console  # noqa: PLC0415 - heavy imports wait until the arguments are right

    from simulations.benchmarks.vault import Plan, measure, show  # noqa: PLC0415 - as above

    progress = Console(stderr=True, highlight=False, quiet=as_json)
    result = measure(lambda sentence: progress.print(sentence, markup=False), Plan(events, items))
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result, Console(highlight=False))


@bench_app.command("serving")
def serving_command(
    items: Annotated[
        list[int] | None, typer.Option("--items", min=1000, help="Size of a catalogue; may be given more than once.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")] = False,
) -> None:
    """A device's lists, events, reasons and restart beside their bars; minutes, for a million items ten or more."""
    from rich.console import Console  # noqa: PLC0415 - heavy imports wait until the arguments are right

    from simulations.benchmarks.serving import measure, show  # noqa: PLC0415 - as above

    progress = Console(stderr=True, highlight=False, quiet=as_json)
    result = measure(lambda sentence: progress.print(sentence, markup=False), items or [10_000, 100_000])
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result, Console(highlight=False))
