"""Generated data of any size: repeatable, the same part by part, held out as every other data set, read as written."""

from __future__ import annotations

import ast
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from shared.errors import DataError
from shared.history import NOT_INTERESTED
from simulations.datasets import archive as archives
from simulations.datasets import zipf
from simulations.datasets.archive import TEST, VALID, Archive
from simulations.datasets.split import split_dataset
from simulations.datasets.zipf import Sizes, sampled, zipf_archive, zipf_items
from simulations.download import silent

SIZES = Sizes(users=250, items=3000, rows=20, seed=3, split="ts")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(zipf, "PART", 100)


@pytest.fixture
def made(tmp_path):
    return zipf_archive(SIZES, tmp_path, silent)


def rows_of(archive):
    return [archive.rows(user) for user in range(archive.users)]


def test_histories_have_the_length_that_was_asked_for_and_no_item_twice(made):
    lengths = [len(rows["item"]) for rows in rows_of(made)]
    assert made.users == SIZES.users
    assert np.mean(lengths) == pytest.approx(SIZES.rows, rel=0.15)
    assert min(lengths) >= SIZES.rows // 3
    for rows in rows_of(made):
        assert len(set(rows["item"].tolist())) == len(rows["item"])
        assert (np.diff(rows["time"]) >= 0).all()
        assert 0 <= rows["item"].min() <= rows["item"].max() < SIZES.items


def test_a_users_rows_do_not_depend_on_how_many_users_there_are(made, tmp_path):
    fewer = zipf_archive(Sizes(200, SIZES.items, SIZES.rows, SIZES.seed, "ts"), tmp_path, silent)
    for user in range(200):
        for name, values in fewer.rows(user).items():
            np.testing.assert_array_equal(values, made.rows(user)[name])


def test_another_seed_makes_other_people_and_the_same_seed_the_same(made, tmp_path):
    again = zipf_archive(SIZES, tmp_path / "again", silent)
    other = zipf_archive(Sizes(250, 3000, 20, 4, "ts"), tmp_path, silent)
    items = [np.concatenate([rows["item"] for rows in rows_of(one)]).tolist() for one in (made, again, other)]
    assert items[0] == items[1] != items[2]


@pytest.mark.parametrize("protocol", ["rs", "ts", "loo"])
def test_what_is_held_out_is_what_the_protocol_says(protocol, tmp_path):
    sizes = Sizes(150, 3000, 20, 3, protocol)
    archive = zipf_archive(sizes, tmp_path, silent)
    dataset, split = sampled(archive, zipf_items(sizes), np.arange(150), protocol)
    again = split_dataset(dataset, protocol)
    np.testing.assert_array_equal(split.valid, again.valid)
    np.testing.assert_array_equal(split.test, again.test)
    assert (split.train ^ split.valid ^ split.test).all()


def test_a_client_holds_train_and_validation_rows_and_never_a_test_item(made):
    for user in range(made.users):
        rows, history = made.rows(user), made.history(user)
        np.testing.assert_array_equal(history.item, rows["item"][rows["part"] != TEST])
        np.testing.assert_array_equal(history.item[history.held_out], rows["item"][rows["part"] == VALID])
        test = made.test(user)
        assert not np.isin(test, history.item).any()
        assert set(test) == set(rows["item"][(rows["part"] == TEST) & (rows["kind"] != NOT_INTERESTED)])


def test_popularity_is_skewed_and_people_keep_to_a_few_shelves(made):
    items = np.concatenate([rows["item"] for rows in rows_of(made)])
    counts = np.sort(np.bincount(items, minlength=SIZES.items))[::-1]
    assert counts[: SIZES.items // 10].sum() > 0.3 * counts.sum()
    shelf = zipf._shelf_of(SIZES)
    top = [np.sort(np.bincount(shelf[rows["item"]]))[::-1][:3].sum() / len(rows["item"]) for rows in rows_of(made)]
    assert np.mean(top) > 0.6


def test_items_of_one_wording_share_their_text_and_titles_differ():
    items = zipf_items(Sizes(1, 40_000, 20, 0, "ts"))
    assert len(set(items.titles)) == len(set(items.ids)) == 40_000
    assert len(set(map(id, items.texts))) == len(set(items.texts)) < 16_000


def test_pages_that_are_let_go_are_read_again(made, monkeypatch):
    before = [made.rows(user)["item"].tolist() for user in range(made.users)]
    monkeypatch.setattr(archives, "PAGES_OF", 2)
    assert [made.rows(user)["item"].tolist() for user in range(made.users)] == before


def test_an_interrupted_writing_leaves_nothing_behind(tmp_path):
    def parts():
        yield from list(zipf._parts(SIZES))[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archives.write_archive(tmp_path / "some.arrow", parts())
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_written_over(made, tmp_path):
    script = "import sys; from simulations.datasets import archive, zipf\n"
    script += "def parts():\n    yield from zipf._parts(zipf.Sizes(20, 200, 20, 0, 'ts'))\n"
    script += "    print('begun', flush=True); sys.stdin.read()\n"
    script += "archive.write_archive(__import__('pathlib').Path(sys.argv[1]), parts())"
    path = tmp_path / "killed" / "some.arrow"
    path.parent.mkdir()
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        os.kill(process.pid, signal.SIGKILL)
    assert len(list(path.parent.iterdir())) == 1
    archives.write_archive(path, zipf._parts(SIZES))
    assert list(path.parent.iterdir()) == [path]
    np.testing.assert_array_equal(Archive(path).rows(7)["item"], made.rows(7)["item"])


def test_a_full_disk_is_a_sentence_and_leaves_nothing_but_the_lock(tmp_path, monkeypatch):
    def full(sizes, parts=zipf._parts):
        yield next(parts(sizes))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipf, "_parts", full)
    with pytest.raises(DataError, match=r"zipf: cannot be written \(No space left on device\)"):
        zipf_archive(SIZES, tmp_path, silent)
    assert [path.suffix for path in (tmp_path / "zipf").iterdir()] == [".lock"]


def test_two_who_want_the_same_data_make_it_once(tmp_path, monkeypatch):
    made = []

    def slowly(sizes, parts=zipf._parts):
        made.append(sizes)
        time.sleep(0.2)
        return parts(sizes)

    monkeypatch.setattr(zipf, "_parts", slowly)
    both = [threading.Thread(target=zipf_archive, args=(SIZES, tmp_path, silent)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert made == [SIZES]


def test_other_code_makes_other_data_in_place_of_the_older(made, tmp_path, monkeypatch):
    other = zipf_archive(Sizes(50, 3000, 20, 4, "ts"), tmp_path, silent)
    before = set((tmp_path / "zipf").glob("*.arrow"))
    monkeypatch.setattr(zipf, "code_of", lambda *_modules: [b"changed"])
    zipf_archive(SIZES, tmp_path, silent)
    after = set((tmp_path / "zipf").glob("*.arrow"))
    assert (len(before), len(after), len(before & after)) == (2, 2, 1)
    assert (made.users, other.users) == (250, 50)
    assert len(made.rows(249)["item"])  # whoever has the older one open reads on


def test_the_key_covers_every_module_that_makes_data():
    tree = ast.parse(Path(zipf.__file__).read_text(encoding="utf-8"))
    used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    own = {module for module in used if module.split(".")[0] in {"client", "shared", "simulations"}}
    assert own - {"shared.errors", "shared.kept", "simulations.download"} < set(zipf._CODE)


@pytest.mark.parametrize("content", [b"", b"no arrow file", b"ARROW1\0\0" * 50])
def test_something_else_than_an_archive_is_a_sentence(content, tmp_path):
    path = tmp_path / "broken.arrow"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.arrow: not a readable archive"):
        Archive(path)
