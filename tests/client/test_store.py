"""The client's store: what was written comes back, and a hostile file is a sentence."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.store import ClientStore, load_store, save_store
from shared.errors import DataError
from shared.history import History

ITEMS = 48


@pytest.fixture
def store(history):
    return ClientStore("shop", ("ann", "bob", "eve"), (history(1, 12, 3), history(2, 0, 0), history(3, 5, 1)))


def columns(store):
    arrays = {f.name: np.concatenate([getattr(h, f.name) for h in store.histories]) for f in fields(History)}
    arrays["lengths"] = np.array([len(h) for h in store.histories])
    arrays["names"] = np.frombuffer(json.dumps([store.client, *store.users]).encode(), np.uint8)
    return arrays


def write(path, arrays):
    np.savez(path, **arrays)
    return path


def test_what_was_saved_is_loaded(store, tmp_path):
    save_store(store, tmp_path / "store.npz")
    again = load_store(tmp_path / "store.npz", ITEMS)
    assert (again.client, again.users) == (store.client, store.users)
    for ours, theirs in zip(again.histories, store.histories, strict=True):
        for field in fields(History):
            got, want = getattr(ours, field.name), getattr(theirs, field.name)
            assert got.dtype == want.dtype
            assert np.array_equal(got, want, equal_nan=field.name == "rating")


def changed(name, place, value):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return change


def recast(name, dtype):
    return lambda arrays: arrays.update({name: arrays[name].astype(dtype)})


HOSTILE = {
    "an item outside": (changed("item", 3, ITEMS), "an item outside the catalogue's 48"),
    "a negative item": (changed("item", 3, -1), "an item outside the catalogue's 48"),
    "an unknown kind": (changed("kind", 0, 5), "a kind of behaviour outside"),
    "a negative kind": (changed("kind", 0, -1), "a kind of behaviour outside"),
    "a negative count": (changed("count", 0, -1), "a count below 0 or not finite"),
    "a NaN count": (changed("count", 0, np.nan), "a count below 0 or not finite"),
    "an infinite count": (changed("count", 0, np.inf), "a count below 0 or not finite"),
    "a long dwell": (changed("dwell", 0, 1.5), "a dwell time outside"),
    "a NaN dwell": (changed("dwell", 0, np.nan), "a dwell time outside"),
    "a high rating": (changed("rating", 0, 5.0), "a rating outside"),
    "a NaN time": (changed("time", 0, np.nan), "a time that is not finite"),
    "float items": (recast("item", np.float64), "column item is float64"),
    "whole numbers for flags": (recast("held_out", np.int64), "column held_out is int64"),
    "lengths that do not fit": (changed("lengths", 0, 11), "column"),
    "negative lengths": (lambda a: a.update(lengths=np.array([20, -3, 0])), "one length of a history for each"),
    "too few lengths": (lambda a: a.update(lengths=a["lengths"][:2]), "one length of a history for each"),
    "float lengths": (recast("lengths", np.float64), "one length of a history for each"),
    "no users": (lambda a: a.update(names=np.frombuffer(b'["shop"]', np.uint8)), "at least one user"),
    "numbers for names": (lambda a: a.update(names=np.frombuffer(b'["shop", 1, 2, 3]', np.uint8)), "at least one user"),
    "names that are no JSON": (
        lambda a: a.update(names=np.frombuffer(b"[", np.uint8)),
        "not a client store",
    ),
    "a missing column": (lambda a: a.pop("dwell"), "not a client store"),
    "objects": (lambda a: a.update(dwell=np.array([{}] * 17)), "not a readable"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_file_is_refused_with_a_sentence(how, store, tmp_path):
    change, sentence = HOSTILE[how]
    arrays = columns(store)
    change(arrays)
    with pytest.raises(DataError, match=sentence) as caught:
        load_store(write(tmp_path / "store.npz", arrays), ITEMS)
    assert str(tmp_path / "store.npz") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"not a store", b"\x80\x04K\x01."])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    (tmp_path / "store.npz").write_bytes(content)
    with pytest.raises(DataError, match="not a readable"):
        load_store(tmp_path / "store.npz", ITEMS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.npz"):
        load_store(tmp_path / "nowhere.npz", ITEMS)


def test_a_column_that_says_it_is_huge_is_refused(store, tmp_path):
    write(tmp_path / "store.npz", columns(store))
    header = io.BytesIO()
    form = {"descr": "<i4", "fortran_order": False, "shape": (1 << 50,)}
    np.lib.format.write_array_header_1_0(header, form)
    with zipfile.ZipFile(tmp_path / "store.npz") as old, zipfile.ZipFile(tmp_path / "huge.npz", "w") as new:
        for name in old.namelist():
            new.writestr(name, header.getvalue() if name == "item.npy" else old.read(name))
    with pytest.raises(DataError, match="not a readable"):
        load_store(tmp_path / "huge.npz", ITEMS)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read(data, tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("store")
    save_store(ClientStore("c", ("u",), (history(1, 9, 2),)), folder / "s.npz")
    raw = bytearray((folder / "s.npz").read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "s.npz").write_bytes(raw)
    with contextlib.suppress(DataError):
        assert load_store(folder / "s.npz", ITEMS).users
