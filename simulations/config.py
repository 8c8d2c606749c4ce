"""Configuration of a simulation: what a server needs, plus data, seed and engine; presets are TOML files next door."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from shared.config import Config, Section, assignments, merged, read_toml, validate
from shared.errors import ConfigError

DEFAULT_PRESET: Final = "ml-100k"


class Data(Section):
    """Which behaviour, and how it is split."""

    name: str = Field(
        "ml-100k", description="ml-100k, online-retail, synthetic, zipf, or a folder of atomic, CSV or Parquet files"
    )
    split: Literal["rs", "ts", "loo"] = Field("rs", description="protocol: random, by time, leave one out")
    columns: dict[str, str] = Field(default_factory=dict, description="own folders: our column -> theirs")
    users: int = Field(100_000, ge=1, le=10_000_000, description="data zipf: users")
    items: int = Field(1_000, ge=100, le=10_000_000, description="data zipf: items")
    rows: int = Field(20, ge=2, le=1000, description="data zipf: rows of a user's history on average")


class Evaluation(Section):
    """Whom the oracle and the final test ask."""

    users: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        "all", description='"all", or a seeded sample of so many users; the summary says so'
    )


class SimulationConfig(Config):
    """A resolved configuration; stored with the run as ``config.toml``."""

    preset: str = Field(DEFAULT_PRESET, pattern=r"^\w[\w.-]*$", description="the preset it started from; a name")
    data: Data = Data()
    evaluation: Evaluation = Evaluation()
    seed: int | Literal["none"] = Field(
        0, description='of everything random, at least 0; "none" = the operating system, not repeatable'
    )
    engine: Literal["inprocess", "ray"] = Field(
        "inprocess", description="Flower grid: in this process, or flwr run on Ray"
    )
    secure_aggregation: Literal["real", "ideal"] = Field(
        "real",
        description='"ideal" = the same sums without masks, for large simulations; engine ray always masks',
    )
    users_per_client: int = Field(1, ge=1, le=1_000_000, description="users that one client holds")


def preset_names() -> list[str]:
    """Names of the presets that ship."""
    folder = resources.files("simulations") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def resolve(
    source: str, *, sets: Sequence[str] = (), seed: int | None = None, data: Path | None = None
) -> SimulationConfig:
    """Defaults, then preset or file, then ``--data``, ``--set`` and ``--seed``.

    Args:
        source: a preset's name or a TOML file.
        sets: ``key=value`` pairs.
        seed: overrides the file's.
        data: a folder that overrides ``data.name``.

    Raises:
        ConfigError: unknown preset or key, or a value out of bounds.
    """
    raw = _source(source)
    over: dict[str, Any] = {}
    if data is not None:
        over = {"preset": data.resolve().name, "data": {"name": str(data.resolve())}}
    over = merged(over, assignments(sets))
    if seed is not None:
        over["seed"] = seed
    config = validate(SimulationConfig, merged(raw, over), source)
    if config.seed != "none" and config.seed < 0:
        raise ConfigError(f'{source}: seed = {config.seed}: must be 0 or larger, or "none"')
    return config


def _source(source: str) -> dict[str, Any]:
    if source in preset_names():
        text = resources.files("simulations") / "presets" / f"{source}.toml"
        with resources.as_file(text) as path:
            return {"preset": source, **read_toml(path)}
    if source.endswith(".toml") or Path(source).exists():
        return {"preset": Path(source).stem, **read_toml(Path(source))}
    raise ConfigError(f"{source!r} is neither a preset ({', '.join(preset_names())}) nor a TOML file")
