from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from shared.errors import DataError
from simulations.datasets import load
from simulations.datasets import parsed as parsing
from simulations.datasets.movielens import load_movielens
from simulations.datasets.parsed import parsed
from simulations.datasets.synthetic import synthetic_dataset

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n2\t1\t5\t10\n1\t2\t1\t20\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
ITEM += "1\tÉté\t1999\tDrama War\n2\tunkonwn\tx\tunknown\n"
NOT_READING = {"shared.errors", "shared.files", "simulations.download", "simulations.datasets.xlsx"}


@pytest.fixture
def folder(tmp_path):
    """Two films and two ratings as RecBole writes them."""
    (tmp_path / "ml-100k.inter").write_text(INTER, encoding="utf-8")
    (tmp_path / "ml-100k.item").write_text(ITEM, encoding="utf-8")
    return tmp_path


def files(folder):
    return [folder / "ml-100k.inter", folder / "ml-100k.item"]


def same(one, other):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())
        else:
            assert a == b
            assert type(a) is type(b)


def test_a_data_set_that_was_parsed_before_is_the_same_to_the_bit(folder):
    made = parsed(files(folder), folder / "cache", lambda: load_movielens(folder))
    again = parsed(files(folder), folder / "cache", lambda: pytest.fail("parsed twice"))
    same(made, load_movielens(folder))
    same(again, made)


def test_nothing_is_lost_of_notes_missing_ratings_and_categories(folder):
    data = synthetic_dataset(0)
    for _ in range(2):
        same(parsed(files(folder), folder / "cache", lambda: data), data)


def test_other_bytes_are_parsed_anew(folder):
    parsed(files(folder), folder / "cache", lambda: load_movielens(folder))
    (folder / "ml-100k.inter").write_text(INTER.replace("\t5\t", "\t4\t"), encoding="utf-8")
    data = parsed(files(folder), folder / "cache", lambda: load_movielens(folder))
    assert data.rating[0] == 0.75


def test_what_cannot_be_parsed_is_not_kept(folder):
    (folder / "ml-100k.inter").write_text(INTER.replace("\t5\t", "\tfive\t"), encoding="utf-8")
    with pytest.raises(DataError, match="no number"):
        parsed(files(folder), folder / "cache", lambda: load_movielens(folder))
    assert not (folder / "cache").exists()


def test_a_kept_file_of_other_columns_is_made_anew(folder):
    made = parsed(files(folder), folder / "cache", lambda: load_movielens(folder))
    (path,) = (folder / "cache" / "parsed").iterdir()
    np.savez(path, user=np.zeros(2, np.int32))
    same(parsed(files(folder), folder / "cache", lambda: load_movielens(folder)), made)


def test_a_persons_own_folder_leaves_nothing_in_the_cache(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "interactions.csv").write_text("user,item\nu,a\n", encoding="utf-8")
    (folder / "mine" / "items.csv").write_text("id,text\na,pen\n", encoding="utf-8")
    load.load_dataset(str(folder / "mine"), cache=folder / "cache")
    assert not (folder / "cache").exists()


def test_the_key_covers_every_module_that_reads_data():
    code = set(parsing._CODE)
    waiting, seen = {"simulations.datasets.movielens", "simulations.datasets.online_retail"}, set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        tree = ast.parse(Path(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
        used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        own = {module for module in used if module.split(".")[0] in {"shared", "simulations"}}
        waiting |= own - seen - NOT_READING
    assert seen == code
