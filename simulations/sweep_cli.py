"""``fedrecall-sim sweep``: many runs at once, their tables, and plots with confidence intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shared.errors import ConfigError
from simulations.options import AsJson, DataFolder, Epsilons, From, Quiet, Seeds

if TYPE_CHECKING:
    from simulations.sweep.dispatch import Begun, Ended, Orders
    from simulations.sweep.grid import Grid

SOME_FAILED: Final = 6


def sweep_command(
    source: Annotated[
        str | None, typer.Argument(metavar="[PRESET|CONFIG.toml]", help="Where --presets names none: default ml-100k.")
    ] = None,
    presets: Annotated[str, typer.Option("--presets", help="Presets' names or TOML files, with commas.")] = "",
    seeds: Seeds = "0..4",
    epsilons: Epsilons = "none,8,4,2,1",
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE[,VALUE]", help="A configuration key; every value is run."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the sweep; default runs/sweep-<presets>. Finished runs are reused."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", help="Runs at once; default the cores, or those of the cluster.", min=1)
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help='Run on a Ray cluster: "auto" or HOST:PORT.')
    ] = None,
    data: DataFolder = None,
    from_: From = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Every preset, value, epsilon and seed, in processes or on Ray; tables and plots with intervals."""
    from simulations.config import DEFAULT_PRESET  # noqa: PLC0415 - heavy imports wait until the arguments are right
    from simulations.frontier.rows import parse_epsilons, parse_seeds  # noqa: PLC0415 - as above
    from simulations.sweep.grid import Grid, parse_axes  # noqa: PLC0415 - as above

    named = [name.strip() for name in presets.split(",") if name.strip()]
    if named and source:
        raise ConfigError(f"{source} --presets {presets}: name all presets in one place, --presets {source},{presets}")
    grid = Grid(
        tuple(named or [source or DEFAULT_PRESET]),
        parse_axes(sets or ()),
        parse_epsilons(epsilons),
        parse_seeds(seeds),
        data,
    )
    _sweep(grid, out, jobs, ray, from_, quiet=quiet, as_json=as_json)


def _sweep(
    grid: Grid, out: Path | None, jobs: int | None, ray: str | None, source: Path | None, *, quiet: bool, as_json: bool
) -> None:
    """Run what is missing of a grid, and say what came of all of it."""
    from simulations.download import cache_folder  # noqa: PLC0415 - heavy imports wait until the arguments are right
    from simulations.frontier.publish import circumstances  # noqa: PLC0415 - as above
    from simulations.screen import open_screen  # noqa: PLC0415 - as above
    from simulations.sweep.dispatch import cores, in_processes, on_ray  # noqa: PLC0415 - as above
    from simulations.sweep.grid import planned  # noqa: PLC0415 - as above
    from simulations.sweep.page import terminal  # noqa: PLC0415 - as above
    from simulations.sweep.publish import publish  # noqa: PLC0415 - as above
    from simulations.sweep.runs import answer, unfinished  # noqa: PLC0415 - as above

    runs = planned(grid)
    folder = out or Path("runs") / "-".join(["sweep", *dict.fromkeys(run.config.preset for run in runs)])

    def here(orders: Orders, begun: Begun) -> Iterator[Ended]:
        return in_processes(orders, jobs or cores(), begun)

    # A wrong address is said before yardsticks are fitted; a sweep that is done asks for no cluster.
    cluster = on_ray(ray, jobs) if ray is not None and unfinished(runs, folder) else None
    with open_screen(quiet=quiet or as_json) as screen, cluster or nullcontext(here) as dispatch:
        where = f"on Ray at {ray}" if ray else f"{min(jobs or cores(), len(runs))} at once"
        screen.say(f"{len(runs)} runs, {where}, into {folder}")
        try:
            found = answer(runs, folder, dispatch, cache=cache_folder(), source=source, say=screen.say)
        except KeyboardInterrupt:
            typer.echo(f"fedrecall-sim: what is done stays in {folder}; the same command goes on from there", err=True)
            raise
        result = publish(found, grid, folder, circumstances())
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(terminal(found.sections, found.remarks, found.failures))
        typer.echo(f"\nPage: {folder / 'sweep.md'}")
    if found.failures:
        raise typer.Exit(SOME_FAILED)
