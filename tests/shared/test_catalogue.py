from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.catalogue import Catalogue, load_catalogue, save_catalogue
from shared.errors import DataError
from shared.files import read_arrays, write_arrays
from shared.recall.quantised import quantise, unit_rows_of


def unit(rows):
    rows = np.asarray(rows, np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0).astype(np.float32)


def small(**changes):
    base = Catalogue(
        ids=("1", "2"),
        titles=("Toy Story", "Ménilmontant"),
        texts=("Toy Story 1995", "Ménilmontant"),
        categories=(("Comedy", "Children's"), ()),
        groups={"text": unit([[1.0, 2.0], [0.0, 3.0]]), "category": unit([[1.0], [0.0]])},
    )
    return dataclasses.replace(base, **changes)


def same(a: Catalogue, b: Catalogue) -> bool:
    words = (a.ids, a.titles, a.texts, a.categories) == (b.ids, b.titles, b.texts, b.categories)
    return (
        words and a.groups.keys() == b.groups.keys() and all(np.array_equal(a.groups[k], b.groups[k]) for k in a.groups)
    )


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def catalogues(draw):
    ids = draw(st.lists(text, unique=True, max_size=5))
    n = len(ids)
    words = st.lists(text, min_size=n, max_size=n).map(tuple)
    rows = hnp.arrays(np.float64, (n, draw(st.integers(1, 4))), elements=st.integers(-5, 5).map(float))
    return Catalogue(
        ids=tuple(ids),
        titles=draw(words),
        texts=draw(words),
        categories=draw(st.lists(st.lists(text, max_size=3).map(tuple), min_size=n, max_size=n).map(tuple)),
        groups=draw(st.dictionaries(st.sampled_from(["text", "lexical", "category"]), rows.map(unit))),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(catalogues())
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, catalogue):
    path = tmp_path / "catalogue.npz"
    save_catalogue(catalogue, path)
    assert same(load_catalogue(path), catalogue)
    assert load_catalogue(path).version() == catalogue.version()


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": ("1", "3")},
        {"titles": ("Toy Story", "")},
        {"texts": ("Toy Story 1995", "x")},
        {"categories": (("Comedy",), ("Children's",))},
        {"groups": {"text": unit([[1.0, 2.0], [0.0, -3.0]]), "category": unit([[1.0], [0.0]])}},
        {"groups": {"text": unit([[1.0, 2.0], [0.0, 3.0]])}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_version_changes_with_every_part(changes):
    assert small(**changes).version() != small().version()


def test_version_is_stable_across_processes_and_machines():
    assert small().version() == "c58b3b12d04020e180f41addb9d3e0d37ac27c1152c272e2a5fdd9e4866e8f1d"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"titles": ("one",)}, "1 titles for 2 ids"),
        ({"ids": ("7", "7")}, "'7' appears twice"),
        ({"groups": {"text": np.ones((3, 2), np.float32)}}, r"must be float32 \(2, d\)"),
        ({"groups": {"text": np.eye(2)}}, "float64"),
        ({"groups": {"text": np.full((2, 2), 2.0, np.float32)}}, "'text', item 0 has a vector of length 2.8"),
        ({"groups": {"text": np.array([[1, 0], [np.nan, 0]], np.float32)}}, "item 1 has a vector of length nan"),
    ],
)
def test_a_catalogue_that_does_not_fit_together_is_refused(changes, sentence):
    with pytest.raises(DataError, match=sentence):
        small(**changes)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere\.npz: no such file"):
        load_catalogue(tmp_path / "nowhere.npz")


def test_every_truncation_and_every_flipped_byte_is_noticed(tmp_path: Path):
    path = tmp_path / "catalogue.npz"
    save_catalogue(small(), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"catalogue\.npz: "):
            load_catalogue(path)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            loaded = load_catalogue(path)
        except DataError:
            continue
        assert same(loaded, small())  # a byte that carries no content, such as a date inside the zip


def test_a_file_rewritten_with_other_content_under_the_old_version_is_refused(tmp_path: Path):
    path = tmp_path / "catalogue.npz"
    save_catalogue(small(), path)
    arrays = read_arrays(path)
    arrays["group/text"] = arrays["group/text"][::-1].copy()
    write_arrays(path, arrays)
    with pytest.raises(DataError, match="does not match its version"):
        load_catalogue(path)


def test_pickled_content_is_never_unpickled(tmp_path: Path):
    path = tmp_path / "catalogue.npz"
    with path.open("wb") as stream:
        np.savez(stream, format=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="not a readable"):
        load_catalogue(path)


def test_a_plain_array_is_no_catalogue(tmp_path: Path):
    path = tmp_path / "array.npz"
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match="not a readable"):
        load_catalogue(path)


def test_a_crash_while_writing_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch):
    path = tmp_path / "catalogue.npz"
    save_catalogue(small(), path)

    def full_disk(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_catalogue(small(titles=("a", "b")), path)
    assert same(load_catalogue(path), small())
    assert [p.name for p in tmp_path.iterdir()] == ["catalogue.npz"]


def test_a_reader_keeps_the_old_file_while_a_new_one_is_written(tmp_path: Path):
    path = tmp_path / "catalogue.npz"
    save_catalogue(small(), path)
    before = path.read_bytes()
    with path.open("rb") as reader:
        save_catalogue(small(titles=("a", "b")), path)
        assert reader.read() == before


def test_a_catalogue_of_whole_rows_takes_a_quarter_and_comes_back_bit_for_bit(tmp_path):
    rough = unit(np.random.default_rng(0).standard_normal((200, 384)))
    rough[7] = 0
    ids = tuple(map(str, range(200)))
    words = {"ids": ids, "titles": ids, "texts": ids, "categories": ((),) * 200}
    whole = Catalogue(**words, groups={"text": unit_rows_of(quantise(rough).values)})
    save_catalogue(Catalogue(**words, groups={"text": rough}), tmp_path / "floats.npz")
    save_catalogue(whole, tmp_path / "bytes.npz")
    assert same(load_catalogue(tmp_path / "bytes.npz"), whole)
    assert load_catalogue(tmp_path / "bytes.npz").version() == whole.version()
    assert read_arrays(tmp_path / "bytes.npz")["group/text"].dtype == np.int8
    assert read_arrays(tmp_path / "floats.npz")["group/text"].dtype == np.float32
    assert (tmp_path / "bytes.npz").stat().st_size < 0.3 * (tmp_path / "floats.npz").stat().st_size


def test_a_row_that_differs_in_the_sign_of_a_zero_alone_is_not_written_as_bytes(tmp_path):
    signed = small(groups={"text": np.array([[1.0, -0.0], [0.0, 1.0]], np.float32)})
    save_catalogue(signed, tmp_path / "c.npz")
    assert load_catalogue(tmp_path / "c.npz").version() == signed.version()
