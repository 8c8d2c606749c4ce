"""``fedrecall-sim``: the researcher's command. Only this file prints, reads arguments and sets exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from shared.terminal import PlainCommand, run_commands
from simulations.attack_cli import attack_command
from simulations.bench_cli import bench_app
from simulations.cold_cli import adapt_command, cold_command
from simulations.compression_cli import compression_command
from simulations.frontier_cli import frontier_command
from simulations.options import AsJson, DataFolder, From, Quiet, Sets, Source
from simulations.policy_cli import policy_app
from simulations.silo_cli import silos_command
from simulations.sweep_cli import sweep_command

NO_QUORUM: Final = 5
_TOO_FEW = {
    "no quorum": "too few clients answered in three rounds in a row",
    "no contexts": "too few clients answered in round 0, or it was cut short, and encoder linear needs what it brings",
}


app: Final = typer.Typer(
    name="fedrecall-sim",
    help="Simulate federated, differentially private recommendation on one machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
bench_app.command("compression", cls=PlainCommand)(compression_command)
app.add_typer(bench_app, name="bench")
app.add_typer(policy_app, name="policy")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.")]


@app.command("run", cls=PlainCommand)
def run_command(
    source: Source = "ml-100k",
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; default runs/<preset>-<n>.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")] = None,
    data: DataFolder = None,
    from_: From = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard logs to DIR/tensorboard.")
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases (extra: wandb).")] = False,
) -> None:
    """Train, measure and adapt; write a folder with the model, the ledgers and a report."""
    from simulations.config import resolve  # noqa: PLC0415 - heavy imports wait until the arguments are right

    config = resolve(source, sets=sets or [], seed=seed, data=data)
    folder = out or _next_folder(config.preset)
    with (
        _kept(folder),
        _screen(quiet=quiet or as_json, folder=folder, tensorboard=tensorboard, wandb=wandb) as screen,
    ):
        if config.engine == "ray":
            from simulations.ray_engine import run_on_ray  # noqa: PLC0415 - as above

            summary = run_on_ray(config, folder, cache=_cache(), source=from_, screen=screen)
        else:
            from simulations.run import new_run  # noqa: PLC0415 - as above

            summary = new_run(config, folder, cache=_cache(), source=from_, screen=screen)
    _end(summary, folder, as_json=as_json)


@app.command("resume", cls=PlainCommand)
def resume_command(
    folder: Folder,
    from_: From = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted run from its last checkpoint."""
    from simulations.run import resume_run  # noqa: PLC0415 - heavy

    with _kept(folder), _screen(quiet=quiet or as_json, folder=folder) as screen:
        summary = resume_run(folder, cache=_cache(), source=from_, screen=screen)
    _end(summary, folder, as_json=as_json)


@app.command("baselines", cls=PlainCommand)
def baselines_command(
    source: Source = "ml-100k",
    split: Annotated[str | None, typer.Option("--split", help="rs, ts or loo; default the preset's.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the private baselines' noise.", min=0)] = 0,
    data: DataFolder = None,
    from_: From = None,
    as_json: AsJson = False,
) -> None:
    """Popularity, TF-IDF, ItemKNN, EASE, iALS and the private peers, under the same protocol."""
    from simulations.baselines import run_baselines, table  # noqa: PLC0415 - heavy
    from simulations.config import resolve  # noqa: PLC0415 - heavy
    from simulations.datasets import load_dataset, split_dataset  # noqa: PLC0415 - heavy

    sets = [f'data.split="{split}"'] if split else []
    config = resolve(source, sets=sets, data=data)
    with _screen(quiet=as_json) as screen:
        dataset = load_dataset(
            config.data.name, cache=_cache(), source=from_, columns=config.data.columns or None, say=screen.say
        )
        results = run_baselines(
            dataset,
            split_dataset(dataset, config.data.split),
            delta=config.privacy.delta,
            epsilons=(8.0, 4.0, 2.0, 1.0),
            seed=seed,
            progress=screen.say,
        )
    if as_json:
        head = {"preset": config.preset, "split": config.data.split, "delta": config.privacy.delta, "seed": seed}
        typer.echo(json.dumps({**head, "unit": "user", "adjacency": "zero-out", "test": results}))
    else:
        typer.echo(f"{dataset.name}, split {config.data.split}, full ranking, test items; private rows: unit user,")
        typer.echo(f"adjacency zero-out, trust central, delta {config.privacy.delta:g}, one-off release, seed {seed}")
        typer.echo(table(results))


@app.command("presets", cls=PlainCommand)
def presets_command(as_json: AsJson = False) -> None:
    """List the presets with what they need."""
    from simulations.config import preset_names, resolve  # noqa: PLC0415 - heavy
    from simulations.fetch import estimate  # noqa: PLC0415 - heavy

    rows = {name: resolve(name) for name in preset_names()}
    if as_json:
        typer.echo(json.dumps({name: config.model_dump(mode="json") for name, config in rows.items()}))
        return
    for name, config in rows.items():
        typer.echo(f"{name}: split {config.data.split}, {config.rounds} rounds, epsilon {config.privacy.epsilon}")
        for line in estimate(config.data.name, _cache(), model=config.model.text_encoder).splitlines():
            typer.echo(f"    {line}")


@app.command("prepare", cls=PlainCommand)
def prepare_command(
    source: Source = "ml-100k",
    sets: Sets = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the stores; FEDRECALL_HOME of flwr run.")] = Path(
        "stores"
    ),
    clients: Annotated[int | None, typer.Option("--clients", help="Only the first N clients.", min=1)] = None,
    data: DataFolder = None,
    from_: From = None,
) -> None:
    """Write client stores, catalogue and service description for `flwr run`."""
    from simulations.config import resolve  # noqa: PLC0415 - heavy
    from simulations.prepare import prepare  # noqa: PLC0415 - heavy

    config = resolve(source, sets=sets or [], data=data)
    with _screen(quiet=False) as screen:
        count = prepare(config, out, cache=_cache(), source=from_, clients=clients, say=screen.say)
    typer.echo(f"{count} client stores in {out}. Next:")
    typer.echo(f"    export FEDRECALL_HOME={out.resolve()} FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1")
    typer.echo(f'    flwr run . local --federation-config "num-supernodes={count}" --stream')


@app.command("compare", cls=PlainCommand)
def compare_command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of finished runs.")],
    as_json: AsJson = False,
) -> None:
    """Put runs side by side; runs that differ in their seed only are averaged."""
    from simulations.compare import compare, table  # noqa: PLC0415 - heavy

    rows = compare(folders)
    typer.echo(json.dumps(rows) if as_json else table(rows))


@app.command("recommend", cls=PlainCommand)
def recommend_command(
    folder: Folder,
    user: Annotated[str, typer.Option("--user", help="The user's id, as the data has it.")],
    shown: Annotated[int, typer.Option("--count", help="How many items.", min=1, max=1000)] = 10,
    diversity: Annotated[
        float | None, typer.Option("--diversity", help="Instead of the policy's, 0 to 1.", min=0, max=1)
    ] = None,
    age: Annotated[
        int | None, typer.Option("--age", help="The user's age; unknown bars what has an age limit.", min=0, max=150)
    ] = None,
    rules: Annotated[Path | None, typer.Option("--rules", help="A TOML file with the device's own item rules.")] = None,
    from_: From = None,
    as_json: AsJson = False,
) -> None:
    """What a user would be shown under the run's model and policy, with scores and reasons."""
    from simulations.serve import recommend_from  # noqa: PLC0415 - heavy

    with _screen(quiet=as_json) as screen:
        answer = recommend_from(
            folder,
            user,
            shown,
            diversity=diversity,
            age=age,
            rules=rules,
            cache=_cache(),
            source=from_,
            say=screen.say,
        )
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
        return
    typer.echo(
        f"User {answer['user']}, policy version {answer['policy_version']}; newest: {'; '.join(answer['history'][:3])}"
    )
    for place, item in enumerate(answer["recommendations"], 1):
        parts = ", ".join(f"{group} {value:+.2f}" for group, value in item["parts"].items())
        typer.echo(f"{place:3d}. {item['title']}  {item['score']:.2f} ({parts})")
        if item["because"]:
            typer.echo(f"       {item['because']}")


for name, command in (
    ("attack", attack_command),
    ("frontier", frontier_command),
    ("cold", cold_command),
    ("adapt", adapt_command),
    ("silos", silos_command),
    ("sweep", sweep_command),
):
    app.command(name, cls=PlainCommand)(command)


def main() -> None:
    """Entry point."""
    run_commands(app)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """On Ctrl-C, say what is kept, when something is."""
    try:
        yield
    except KeyboardInterrupt:
        if (folder / "config.toml").exists():
            typer.echo(f"fedrecall-sim: finished rounds are kept; go on with: fedrecall-sim resume {folder}", err=True)
        raise


def _cache() -> Path:
    from simulations.download import cache_folder  # noqa: PLC0415 - heavy

    return cache_folder()


def _screen(*, quiet: bool, folder: Path | None = None, tensorboard: bool = False, wandb: bool = False) -> Any:  # noqa: ANN401 - a context manager of Screen
    from simulations.screen import open_screen  # noqa: PLC0415 - rich is heavy

    return open_screen(quiet=quiet, folder=folder, tensorboard=tensorboard, wandb=wandb)


def _next_folder(preset: str) -> Path:
    runs = Path("runs")
    number = 1
    while (runs / f"{preset}-{number}").exists():
        number += 1
    return runs / f"{preset}-{number}"


def _end(summary: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    from simulations.screen import result_table  # noqa: PLC0415 - rich is heavy

    if as_json:
        typer.echo(json.dumps(summary))
    else:
        result_table(summary, folder)
        typer.echo(f"Report: {folder / 'report.html'}")
    why = _TOO_FEW.get(summary["stopped"])
    if why is not None:
        typer.echo(f"fedrecall-sim: {why}; the run ended early", err=True)
        raise typer.Exit(NO_QUORUM)


if __name__ == "__main__":
    main()
