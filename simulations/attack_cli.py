"""``fedrecall-sim attack``: what an adversary gets out of a run, measured; what the auditor's clause 9 rests on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from simulations.options import AsJson, From, Quiet


def attack_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    canaries: Annotated[
        int, typer.Option("--canaries", help="Canary users of the lower bounds; more see more and take longer.")
    ] = 5000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of canaries, coins and noise.", min=0)] = 0,
    data: Annotated[
        Path | None, typer.Option("--data", help="The run's data, if they are elsewhere than when it ran.")
    ] = None,
    from_: From = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Lower bounds, record and replay, noise, membership: write RUN/attack.json for fedrecall-audit; two minutes."""
    from simulations.attack.run import attack, check_writable, lines, write_attack  # noqa: PLC0415 - heavy imports wait
    from simulations.attack.subject import read_subject  # noqa: PLC0415 - as above
    from simulations.download import cache_folder  # noqa: PLC0415 - as above
    from simulations.screen import open_screen  # noqa: PLC0415 - as above

    check_writable(folder)
    with open_screen(quiet=quiet or as_json) as screen:
        subject = read_subject(folder, data=data, cache=cache_folder(), source=from_, say=screen.say)
        result = attack(subject, canaries=canaries, seed=seed, tell=screen.say)
    path = write_attack(result, folder)
    typer.echo(json.dumps(result) if as_json else "\n".join([*lines(result), f"Written: {path}"]))
