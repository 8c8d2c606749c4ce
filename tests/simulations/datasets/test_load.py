from __future__ import annotations

import pytest

from shared.errors import ConfigError, DataError
from simulations.datasets import DATASETS, load_dataset


def test_a_name_that_is_neither_preset_nor_folder_lists_the_presets(tmp_path):
    with pytest.raises(ConfigError, match="'ml-10k' is neither a folder nor one of ml-100k, online-retail, synthetic"):
        load_dataset("ml-10k", cache=tmp_path)


def test_a_source_that_is_no_folder_is_named(tmp_path):
    for name in DATASETS:
        with pytest.raises(DataError, match="nowhere: no such folder"):
            load_dataset(name, cache=tmp_path, source=tmp_path / "nowhere")


def test_own_folders_are_read_with_their_column_map(tmp_path):
    (tmp_path / "interactions.csv").write_text("who,item\nu,a\n", encoding="utf-8")
    (tmp_path / "items.csv").write_text("id,text\na,pen\n", encoding="utf-8")
    data = load_dataset(str(tmp_path), cache=tmp_path, columns={"user": "who"})
    assert (data.users, data.items.titles) == (("u",), ("pen",))


def test_the_synthetic_seed_is_passed_on(tmp_path):
    one, other = (load_dataset("synthetic", cache=tmp_path, seed=seed) for seed in (1, 2))
    assert one.items != other.items
