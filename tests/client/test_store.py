"""The client's store: what was written comes back, and a hostile file is a sentence."""

from __future__ import annotations

import contextlib
import io
import json
import math
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.store import ClientStore, Event, add_event, ages_of, load_store, save_store, with_event, with_user_event
from shared.errors import DataError
from shared.history import KINDS, NOT_INTERESTED, History

ITEMS = 48


@pytest.fixture
def store(history):
    histories = history(1, 12, 3), history(2, 0, 0), history(3, 5, 1)
    return ClientStore("shop", ("ann", "bob", "eve"), histories, (17, None, 64))


def columns(store):
    arrays = {f.name: np.concatenate([getattr(h, f.name) for h in store.histories]) for f in fields(History)}
    arrays["lengths"] = np.array([len(h) for h in store.histories])
    arrays["names"] = np.frombuffer(json.dumps([store.client, *store.users]).encode(), np.uint8)
    arrays["ages"] = np.array([17, -1, 64], np.int16)
    return arrays


def write(path, arrays):
    np.savez(path, **arrays)
    return path


def test_what_was_saved_is_loaded(store, tmp_path):
    save_store(store, tmp_path / "store.npz")
    again = load_store(tmp_path / "store.npz", ITEMS)
    assert (again.client, again.users, again.ages) == (store.client, store.users, store.ages)
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
    "ages of somebody else": (lambda a: a.update(ages=np.zeros(2, np.int16)), "one age for each of the 3 users"),
    "an age that nobody has": (changed("ages", 0, 151), "0 to 150, -1 = unknown"),
    "an age below unknown": (changed("ages", 0, -2), "0 to 150, -1 = unknown"),
    "ages of another type": (recast("ages", np.int64), "one age for each"),
    "no ages": (lambda a: a.pop("ages"), "not a client store"),
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


def test_ages_that_nobody_told_are_unknown(history, tmp_path):
    silent = ClientStore("c", ("ann", "bob"), (history(1), history(2)))
    assert ages_of(silent) == (None, None)
    save_store(silent, tmp_path / "s.npz")
    assert load_store(tmp_path / "s.npz", ITEMS).ages == ()


# --- events --------------------------------------------------------------------------------------------------------

events = st.builds(
    Event,
    item=st.integers(0, 9),
    kind=st.sampled_from(KINDS),
    time=st.floats(0, 2e9),
    dwell=st.floats(0, 1, width=32),
    rating=st.just(math.nan) | st.floats(0, 1, width=32),
)


@given(arriving=st.lists(events, max_size=12))
def test_events_become_one_row_an_item_oldest_first(history, arriving):
    """The rules of docs/protocols.md, from the events themselves."""
    one = history(0, 0, 0)
    for event in arriving:
        one = with_event(one, event)
    assert len(set(one.item.tolist())) == len(one)
    assert set(one.item.tolist()) == {event.item for event in arriving}
    assert (np.diff(one.time) >= 0).all()
    for row, item in enumerate(one.item):
        own = [event for event in arriving if event.item == item]
        ratings = [event.rating for event in own if not math.isnan(event.rating)]
        assert one.count[row] == len(own)
        assert one.time[row] == own[0].time
        assert one.dwell[row] == max(event.dwell for event in own)
        assert one.rating[row] == (ratings[-1] if ratings else pytest.approx(math.nan, nan_ok=True))
        assert (one.kind[row] == NOT_INTERESTED) == (own[-1].kind == "not_interested")
    for field in fields(History):
        assert getattr(one, field.name).dtype == getattr(history(1), field.name).dtype


@pytest.mark.parametrize(
    ("before", "event", "after"),
    [
        ("view", "purchase", "purchase"),
        ("purchase", "view", "purchase"),
        ("rating", "dwell", "rating"),
        ("purchase", "not_interested", "not_interested"),
        ("not_interested", "view", "view"),
    ],
)
def test_the_strongest_kind_stays_but_the_last_word_is_not_interested(history, before, event, after):
    one = with_event(with_event(history(0, 0, 0), Event(3, before, 1.0)), Event(3, event, 2.0))
    assert KINDS[one.kind[0]] == after


def test_what_is_turned_down_is_not_held_out_any_more(history):
    one = history(1, 6, 3)
    viewed = with_event(one, Event(int(one.item[5]), "view", 2e9))
    refused = with_event(one, Event(int(one.item[5]), "not_interested", 2e9))
    assert viewed.held_out.tolist() == one.held_out.tolist()
    assert refused.held_out.tolist() == [*one.held_out.tolist()[:5], False]


def test_an_event_leaves_the_history_that_it_came_to_as_it_was(history):
    one = history(1, 6, 3)
    before = replace(one, **{f.name: getattr(one, f.name).copy() for f in fields(History)})
    for item in (int(one.item[2]), int(np.setdiff1d(np.arange(ITEMS), one.item)[0])):
        with_event(one, Event(item, "purchase", 2e9, 1.0, 1.0))
    for field in fields(History):
        assert np.array_equal(getattr(one, field.name), getattr(before, field.name), equal_nan=field.name == "rating")


def test_an_event_is_its_users_alone(store):
    after = with_user_event(store, "bob", Event(7, "view", 1.0))
    assert [len(one) for one in after.histories] == [12, 1, 5]
    assert after.histories[0] is store.histories[0]
    assert (after.users, after.ages) == (store.users, store.ages)
    with pytest.raises(DataError, match="store of client 'shop': no user 'zoe' among its 3"):
        with_user_event(store, "zoe", Event(7, "view", 1.0))


def test_an_event_is_on_disk_at_once(store, tmp_path):
    path = tmp_path / "s.npz"
    save_store(store, path)
    told = add_event(path, ITEMS, "bob", Event(7, "not_interested", 1.0))
    again = load_store(path, ITEMS)
    assert again.histories[1].item.tolist() == told.histories[1].item.tolist() == [7]
    assert again.histories[1].kind.tolist() == [NOT_INTERESTED]


def test_events_that_come_at_once_are_all_kept(store, tmp_path):
    path = tmp_path / "s.npz"
    save_store(store, path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: add_event(path, ITEMS, "bob", Event(item, "view", 1.0)), range(20)))
    assert sorted(load_store(path, ITEMS).histories[1].item.tolist()) == list(range(20))


def test_an_event_that_cannot_be_written_changes_nothing(store, tmp_path, monkeypatch):
    path = tmp_path / "s.npz"
    save_store(store, path)
    before = path.read_bytes()

    def full(path, arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.store.write_arrays", full)
    with pytest.raises(OSError, match="No space"):
        add_event(path, ITEMS, "bob", Event(7, "view", 1.0))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"kind": "liked"}, "kind 'liked'; choose one of view"),
        ({"item": -1}, "item -1; items are counted from 0"),
        ({"time": math.inf}, "time inf"),
        ({"dwell": 1.5}, "dwell 1.5; must lie between 0 and 1"),
        ({"rating": 5.0}, "rating 5.0; must lie between 0 and 1"),
    ],
)
def test_an_event_out_of_range_is_a_sentence(wrong, sentence):
    with pytest.raises(DataError, match=sentence):
        Event(**({"item": 1, "kind": "view", "time": 0.0} | wrong))


def test_an_event_of_nothing_known_is_a_sentence(store, tmp_path):
    save_store(store, tmp_path / "s.npz")
    with pytest.raises(DataError, match="item 48, but the catalogue has 48 items"):
        add_event(tmp_path / "s.npz", ITEMS, "bob", Event(48, "view", 1.0))
    with pytest.raises(DataError, match=r"nowhere\.npz: no such file"):
        add_event(tmp_path / "nowhere.npz", ITEMS, "bob", Event(1, "view", 1.0))
