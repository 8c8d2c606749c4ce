"""Data sets: fetch, read, aggregate, split; all of them as one row per (user, item) pair."""

from __future__ import annotations

from simulations.datasets.dataset import PROTOCOLS, Dataset, Items, Protocol, Split
from simulations.datasets.load import DATASETS, load_dataset
from simulations.datasets.split import split_dataset

__all__ = ["DATASETS", "PROTOCOLS", "Dataset", "Items", "Protocol", "Split", "load_dataset", "split_dataset"]
