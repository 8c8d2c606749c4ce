"""``fedrecall-sim cold`` and ``adapt``: what happens on a device with a new item, and with a new event."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from simulations.options import AsJson, DataFolder, From, Sets, Source

Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random, the held-out items too.")]
Out = Annotated[Path | None, typer.Option("--out", help="Keep the run in this folder.")]


def cold_command(
    source: Source = "ml-100k",
    sets: Sets = None,
    seed: Seed = None,
    out: Out = None,
    data: DataFolder = None,
    from_: From = None,
    as_json: AsJson = False,
) -> None:
    """Hold a tenth of the items out, train, and recommend them by their texts; as long as a run."""
    from simulations.cold import cold_run, table  # noqa: PLC0415 - heavy imports wait until the arguments are right
    from simulations.config import resolve  # noqa: PLC0415 - as above
    from simulations.download import cache_folder  # noqa: PLC0415 - as above
    from simulations.screen import open_screen  # noqa: PLC0415 - as above

    config = resolve(source, sets=sets or [], seed=seed, data=data)
    with _folder(out) as folder, open_screen(quiet=as_json) as screen:
        result = cold_run(config, folder, cache=cache_folder(), source=from_, screen=screen)
    typer.echo(json.dumps(result) if as_json else table(result))


def adapt_command(
    source: Source = "ml-100k",
    sets: Sets = None,
    seed: Seed = None,
    out: Out = None,
    data: DataFolder = None,
    from_: From = None,
    as_json: AsJson = False,
) -> None:
    """Train on a split by time, then let every device learn from its own next events; as long as a run."""
    from simulations.adapt import adapt_run, table  # noqa: PLC0415 - heavy imports wait until the arguments are right
    from simulations.config import resolve  # noqa: PLC0415 - as above
    from simulations.download import cache_folder  # noqa: PLC0415 - as above
    from simulations.screen import open_screen  # noqa: PLC0415 - as above

    config = resolve(source, sets=[*(sets or []), "data.split=ts"], seed=seed, data=data)
    with _folder(out) as folder, open_screen(quiet=as_json) as screen:
        result = adapt_run(config, folder, cache=cache_folder(), source=from_, screen=screen)
    typer.echo(json.dumps(result) if as_json else table(result))


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Where the run goes: a folder that stays, or one that goes when all is told."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="fedrecall-") as folder:
        yield Path(folder) / "run"
