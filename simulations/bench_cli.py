"""``fedrecall-sim bench``: figures beside the peers, taken in the same run on the same machine."""

from __future__ import annotations

import json
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
