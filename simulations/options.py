"""Options that several commands of ``fedrecall-sim`` have in common, in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[str, typer.Argument(metavar="[PRESET|CONFIG.toml]", help="A preset's name or a TOML file.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the result.")]
From = Annotated[Path | None, typer.Option("--from", help="Take the preset's data files from this folder.")]
DataFolder = Annotated[
    Path | None,
    typer.Option("--data", help="A folder of RecBole atomic files, CSV or Parquet instead of the preset's data."),
]
Epsilons = Annotated[str, typer.Option("--epsilons", help='Target epsilons; "none" = no DP.')]
Seeds = Annotated[str, typer.Option("--seeds", help="Seeds; numbers are means over them.")]
