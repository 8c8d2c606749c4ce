"""``fedrecall-sim frontier``: how much recall a stated epsilon buys, beside its peers, reproduced by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from simulations.options import AsJson, DataFolder, Epsilons, From, Quiet, Seeds, Sets


def frontier_command(
    source: Annotated[str, typer.Argument(metavar="PRESET|CONFIG.toml", help="A preset's name or a TOML file.")],
    epsilons: Epsilons = "none,8,4,2,1",
    seeds: Seeds = "0,1,2",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the runs; default runs/frontier-<preset>. Finished runs are reused."),
    ] = None,
    results: Annotated[Path, typer.Option("--results", help="Folder of table, plot and page.")] = Path("docs/results"),
    sets: Sets = None,
    tuned: Annotated[
        list[str] | None,
        typer.Option(
            "--tuned", metavar="KEY=VALUE", help="Run everything again with this on top, marked as tuned on these data."
        ),
    ] = None,
    data: DataFolder = None,
    from_: From = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Recall against epsilon: every epsilon and seed of a preset, beside its peers; minutes a run."""
    from simulations.download import cache_folder  # noqa: PLC0415 - heavy imports wait until the arguments are right
    from simulations.frontier.page import command, table  # noqa: PLC0415 - as above
    from simulations.frontier.publish import check_writable, circumstances, publish  # noqa: PLC0415 - as above
    from simulations.frontier.rows import collect, headline, parse_epsilons, parse_seeds  # noqa: PLC0415 - as above
    from simulations.frontier.runs import Question, answer  # noqa: PLC0415 - as above
    from simulations.screen import open_screen  # noqa: PLC0415 - as above

    question = Question(
        source, tuple(sets or ()), tuple(tuned or ()), parse_epsilons(epsilons), parse_seeds(seeds), data
    )
    folder = out or Path("runs") / f"frontier-{question.base.preset}"
    check_writable(results)
    try:
        found = answer(
            question,
            folder,
            cache=cache_folder(),
            source=from_,
            screens=lambda path: open_screen(quiet=quiet or as_json, folder=path),
        )
    except KeyboardInterrupt:
        typer.echo(f"fedrecall-sim: what is finished stays in {folder}; the same command goes on from there", err=True)
        raise
    rows = collect(found.outcomes)
    asked = command(question, from_folder=from_ is not None)
    result = publish(rows, question.base, asked, found.remarks, results, circumstances())
    if as_json:
        typer.echo(json.dumps(result))
        return
    lines = [table(rows, headline(rows)), *found.remarks, f"Page: {results / question.base.preset}.md"]
    typer.echo("\n".join(lines))
