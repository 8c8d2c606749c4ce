"""``fedrecall-sim silos``: a few organisations adapt the text model together."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.errors import ConfigError
from simulations.options import AsJson, From


def silos_command(
    source: Annotated[str, typer.Argument(metavar="[PRESET|CONFIG.toml]", help="Whose data.")] = "online-retail",
    epsilon: Annotated[
        list[float] | None, typer.Option("--epsilon", help="A promise to train under, beside none; default 8.")
    ] = None,
    silos: Annotated[int, typer.Option("--silos", min=2, help="Organisations.")] = 4,
    customers: Annotated[int, typer.Option("--customers", min=2, help="Customers of all of them together.")] = 600,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of federated averaging.")] = 6,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Of the adapters; fewer numbers need less noise.")] = 2,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of the server's Adam.")] = 0.01,
    head: Annotated[
        str, typer.Option("--head", help='Train on top of whitened text vectors, "whiten", or of plain ones, "none".')
    ] = "whiten",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for ledgers and adapters; must be new.")] = None,
    from_: From = None,
    as_json: AsJson = False,
) -> None:
    """LoRA on the text model, trained by a few silos on their customers, with and without privacy; some minutes."""
    from rich.console import Console  # noqa: PLC0415 - heavy imports wait until the arguments are right

    from simulations.config import resolve  # noqa: PLC0415 - as above
    from simulations.download import cache_folder  # noqa: PLC0415 - as above
    from simulations.silo_world import SiloSettings  # noqa: PLC0415 - as above
    from simulations.silos import compare_silos  # noqa: PLC0415 - as above

    if head not in {"whiten", "none"}:
        raise ConfigError(f'--head {head!r}: must be "whiten" or "none"')
    progress = Console(stderr=True, highlight=False, quiet=as_json)
    settings = SiloSettings(
        silos=silos,
        customers=customers,
        rounds=rounds,
        rank=rank,
        learning_rate=learning_rate,
        head=head,
        seed=seed,
    )
    if not 0 < learning_rate <= 100:
        raise ConfigError(f"--learning-rate {learning_rate}: must be above 0 and at most 100")
    result = compare_silos(
        resolve(source),
        settings,
        [None, *(epsilon or [8.0])],
        out or _next(source),
        cache=cache_folder(),
        source=from_,
        say=lambda sentence: progress.print(sentence, markup=False),
    )
    if as_json:
        typer.echo(json.dumps({**result, "settings": asdict(settings)}))
    else:
        _show(result, Console(highlight=False))


def _next(source: str) -> Path:
    number = 1
    while (folder := Path("runs") / f"silos-{Path(source).stem}-{number}").exists():
        number += 1
    return folder


def _show(result: dict[str, Any], console: Any) -> None:  # noqa: ANN401 - rich is imported late
    from rich.box import SIMPLE  # noqa: PLC0415 - heavy
    from rich.table import Table  # noqa: PLC0415 - as above

    runs = result["runs"]
    table = Table(
        title=f"{result['preset']}: text alone, validation (oracle)",
        caption=f"{result['silos']} silos, {result['customers']} customers, {runs[0]['parameters']:,} parameters, "
        f"{runs[0]['rounds']} rounds; inside = the silos' customers, outside = people whom no silo has",
        box=SIMPLE,
    )
    table.add_column("")
    for where in ("inside", "outside"):
        for what in ("loss", "ndcg@10", "recall@20"):
            table.add_column(f"{what}\n{where}", justify="right")
    rows = [("plain text model", result["plain"]), ("before", runs[0]["before"])]
    rows += [
        ("after, no privacy" if run["epsilon"] is None else f"after, epsilon {run['epsilon']:.2f}", run["after"])
        for run in runs
    ]
    for name, row in rows:
        cells = [
            f"{row[where][what]:.4f}" for where in ("silos", "outsiders") for what in ("loss", "ndcg@10", "recall@20")
        ]
        table.add_row(name, *cells)
    console.print(table)
    for run in runs:
        for sentence in run["covers"]:
            console.print(sentence, markup=False)
        console.print(f"{run['secure_aggregation']}; {run['processor_seconds']:.0f} s of processor time", markup=False)
    console.print(f"Ledgers and adapters: {result['folder']}", markup=False)
