"""One door to every data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from shared.errors import ConfigError, DataError
from simulations.datasets.dataset import Dataset
from simulations.datasets.folders import load_folder
from simulations.datasets.movielens import load_movielens
from simulations.datasets.online_retail import load_online_retail, tidy
from simulations.datasets.parsed import parsed
from simulations.datasets.synthetic import synthetic_dataset
from simulations.download import Say, silent
from simulations.fetch import fetch_ml100k, fetch_online_retail

ZIPF: Final = "zipf"  # made to any size, and so not held in memory: simulations/world.py
DATASETS: Final = ("ml-100k", "online-retail", "synthetic", ZIPF)


def load_dataset(
    name_or_folder: str,
    *,
    cache: Path,
    source: Path | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    say: Say = silent,
) -> Dataset:
    """Load a preset by name, or a person's own folder.

    Args:
        name_or_folder: one of ``DATASETS``, else a folder (see ``folders``).
        cache: where downloads are kept.
        source: a folder to take a preset's files from instead of the network (``--from``).
        columns: for own folders, ours -> theirs.
        seed: of the synthetic data; other data sets ignore it.
        say: gets licence and progress sentences.

    Raises:
        ConfigError: neither a preset nor a folder.
        FetchError: a preset's files are not there and cannot be fetched.
        DataError: files that cannot be read.
    """
    if source is not None and not source.is_dir():
        raise DataError(f"{source}: no such folder")
    if name_or_folder == "ml-100k":
        folder = fetch_ml100k(cache, source, say)
        return _parsed(folder, ("ml-100k.inter", "ml-100k.item"), cache, load_movielens)
    if name_or_folder == "online-retail":
        folder = _online_retail_folder(cache, source, say)
        if source is not None:
            return load_online_retail(folder)
        return _parsed(folder, ("interactions.parquet", "items.csv"), cache, load_online_retail)
    if name_or_folder == ZIPF:
        raise ConfigError(f"data {ZIPF!r} is made for runs alone; its yardsticks stand in the run's table")
    if name_or_folder == "synthetic":
        return synthetic_dataset(seed)
    folder = Path(name_or_folder).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"data {name_or_folder!r} is neither a folder nor one of {', '.join(DATASETS)}")
    return load_folder(folder, columns)


def _parsed(folder: Path, names: Sequence[str], cache: Path, load: Callable[[Path], Dataset]) -> Dataset:
    return parsed([folder / name for name in names], cache, lambda: load(folder))


def _online_retail_folder(cache: Path, source: Path | None, say: Say) -> Path:
    if source is not None:
        return source
    folder = cache / "online-retail"
    if not (folder / "interactions.parquet").exists():
        tidy(fetch_online_retail(cache, say), folder, say)
    return folder
