"""The operator's catalogue: editions, the changes between them, and what a device is sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from server.catalogue_cli import catalogue_app
from server.features import ROOM
from server.house import House
from server.items import LONGEST_ID, described
from server.stock import MOST_UNAVAILABLE, catalogue_of_stock, change_for, served, stock_of
from server.stock_orders import add, import_items, rebuild, remove, set_available
from shared import publication
from shared.catalogue import catalogue_of
from shared.catalogue_change import apply_change, change_of
from shared.errors import DataError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOUNS, COLOURS = ("mug", "pen", "tent", "yarn", "drum"), ("red", "blue", "green", "cedar", "enamel")


def rows(numbers):
    """Lines of a CSV file: an item a number."""
    return "".join(f"i{n},{COLOURS[n % 5]} {NOUNS[n // 5 % 5]} {n % 7},{NOUNS[n // 5 % 5]}s,\n" for n in numbers)


def csv(tmp_path, numbers, more=""):
    path = tmp_path / "items.csv"
    path.write_text("id,title,categories,available\n" + rows(numbers) + more, encoding="utf-8")
    return path


def item(name, title="Blue tent with pockets", kind="tents"):
    return described(name, title, "", [kind])


@pytest.fixture
def house(tmp_path):
    """A server whose text encoder is "none"."""
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "fedrecall.toml").write_text('[model]\ntext_encoder = "none"\n', encoding="utf-8")
    return House(folder)


@pytest.fixture
def stocked(house, tmp_path):
    import_items(house, csv(tmp_path, range(20)), now=NOW)
    return house


def brought(house, have, version=""):
    """What a device that has one catalogue has after it took what the server sends."""
    base, content = change_for(house, have.version(), version or stock_of(house).version)
    if not content:
        return have
    return apply_change(have, change_of(content, "wire")) if base else catalogue_of(content, "wire")


def test_the_first_import_makes_the_catalogue_in_the_order_of_the_file(house, tmp_path):
    outcome = import_items(house, csv(tmp_path, range(3), "i9,Gone pen,,no\n"), now=NOW)
    catalogue, stock = catalogue_of_stock(house), stock_of(house)
    assert catalogue.ids == ("i0", "i1", "i2", "i9")
    assert catalogue.version() == stock.version == outcome.edition.version
    assert stock.unavailable == ("i9",)
    assert (outcome.added, outcome.changed, outcome.removed, outcome.edition.number) == (4, 0, 0, 1)
    assert outcome.edition.when == "2026-03-01T12:00:00+00:00"


def test_an_item_that_is_added_has_vectors_and_moves_no_other_row(stocked):
    before = catalogue_of_stock(stocked)
    add(stocked, [item("new")], now=NOW)
    after = catalogue_of_stock(stocked)
    assert after.ids == (*before.ids, "new")
    for name, vectors in before.groups.items():
        np.testing.assert_array_equal(after.groups[name][:20], vectors)
        assert np.linalg.norm(after.groups[name][20]) == pytest.approx(1.0)


def test_an_import_adds_changes_and_leaves_the_others(stocked, tmp_path):
    before = catalogue_of_stock(stocked)
    path = csv(tmp_path, [0, 1, 25], "i2,Another title,mugs,\n")
    outcome = import_items(stocked, path, now=NOW)
    assert (outcome.added, outcome.changed, outcome.removed) == (1, 1, 0)
    after = catalogue_of_stock(stocked)
    assert after.ids == (*(name for name in before.ids if name != "i2"), "i25", "i2")
    assert after.titles[-1] == "Another title"
    again = import_items(stocked, path, now=NOW)
    assert (again.added, again.changed, again.edition) == (0, 0, outcome.edition)


def test_a_whole_import_removes_what_the_file_does_not_name(stocked, tmp_path):
    outcome = import_items(stocked, csv(tmp_path, range(5, 22)), now=NOW, whole=True)
    assert (outcome.added, outcome.changed, outcome.removed) == (2, 0, 5)
    assert set(catalogue_of_stock(stocked).ids) == {f"i{n}" for n in range(5, 22)}


def test_what_cannot_be_had_is_said_without_a_new_edition_and_goes_with_the_item(stocked, tmp_path):
    number = stock_of(stocked).number
    set_available(stocked, ["i3", "i4"], available=False)
    set_available(stocked, ["i4"], available=True)
    assert (stock_of(stocked).unavailable, stock_of(stocked).number) == (("i3",), number)
    import_items(stocked, csv(tmp_path, [], "i5,enamel mug 5,mugs,no\n"), now=NOW)
    assert stock_of(stocked).unavailable == ("i3", "i5")
    remove(stocked, ["i3"], now=NOW)
    assert stock_of(stocked).unavailable == ("i5",)


orders = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(100, 105)),
        st.tuples(st.just("remove"), st.integers(0, 5)),
        st.tuples(st.just("whole"), st.integers(0, 6)),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(orders=orders)
def test_a_device_that_was_away_gets_all_it_missed_as_one_change(tmp_path_factory, orders):
    folder = tmp_path_factory.mktemp("stock")
    (folder / "fedrecall.toml").write_text('[model]\ntext_encoder = "none"\n', encoding="utf-8")
    house = House(folder)
    import_items(house, csv(folder, range(12)), now=NOW)
    seen = [catalogue_of_stock(house)]
    for order, number in orders:
        ids = catalogue_of_stock(house).ids
        if order == "add" and f"i{number}" not in ids:
            add(house, [item(f"i{number}")], now=NOW)
        if order == "remove":
            remove(house, [ids[number % len(ids)]], now=NOW)
        if order == "whole":
            import_items(house, csv(folder, range(number, number + 8)), now=NOW, whole=True)
        seen.append(catalogue_of_stock(house))
    for at, have in enumerate(seen):
        assert brought(house, have).version() == seen[-1].version()
        later = seen[(at + len(seen)) // 2].version()
        assert brought(house, have, later).version() == later
        assert catalogue_of_stock(house, have.version()).version() == have.version()
    assert len(list(house.catalogue.glob("?" * 64 + ".npz"))) <= 2


def test_a_change_is_smaller_than_the_whole_and_no_more_than_it_must_be(stocked):
    have = catalogue_of_stock(stocked)
    for name in ("a", "b"):
        add(stocked, [item(name)], now=NOW)
    remove(stocked, ["a", "i0"], now=NOW)
    base, content = change_for(stocked, have.version(), stock_of(stocked).version)
    change = change_of(content, "wire")
    assert base == have.version()
    assert (change.removed, change.added.ids) == (("i0",), ("b",))
    assert len(content) < len(change_for(stocked, "", stock_of(stocked).version)[1]) / 2


@pytest.mark.parametrize("base", ["", "0" * 64])
def test_who_has_none_or_an_unknown_one_gets_the_whole(stocked, base):
    version = stock_of(stocked).version
    said, content = change_for(stocked, base, version)
    assert said == ""
    assert catalogue_of(content, "wire").version() == version


def test_who_has_it_gets_nothing(stocked):
    version = stock_of(stocked).version
    assert change_for(stocked, version, version) == (version, b"")


def test_where_nearly_everything_is_new_the_whole_is_sent(stocked, tmp_path):
    have = catalogue_of_stock(stocked)
    import_items(stocked, csv(tmp_path, range(100, 120)), now=NOW, whole=True)
    assert change_for(stocked, have.version(), stock_of(stocked).version)[0] == ""
    assert brought(stocked, have).version() == stock_of(stocked).version


def test_a_version_that_comes_back_is_the_same_one(stocked):
    have = catalogue_of_stock(stocked)
    add(stocked, [item("new")], now=NOW)
    between = catalogue_of_stock(stocked)
    remove(stocked, ["new"], now=NOW)
    assert stock_of(stocked).version == have.version()
    assert stock_of(stocked).number == 3
    assert brought(stocked, between).version() == have.version()
    assert brought(stocked, have) is have


def test_a_model_is_served_with_the_last_edition_of_its_own_basis(stocked):
    trained = stock_of(stocked).version
    assert served(stock_of(stocked), "") == trained
    add(stocked, [item("a")], now=NOW)
    old = stock_of(stocked).version
    assert served(stock_of(stocked), trained) == old
    outcome = rebuild(stocked, now=NOW)
    add(stocked, [item("b", "Zeppelin", "zeppelins")], now=NOW)
    stock = stock_of(stocked)
    assert [one.basis for one in stock.editions] == [1, 1, 2, 2]
    assert served(stock, trained) == served(stock, old) == old
    assert served(stock, outcome.edition.version) == served(stock, "") == stock.version
    assert change_for(stocked, old, stock.version)[0] == ""
    for one in stock.editions:
        assert catalogue_of_stock(stocked, one.version).version() == one.version
    with pytest.raises(DataError, match="no edition has version 000000000000…; there are 4 editions"):
        served(stock, "0" * 64)


def test_a_rebuild_learns_the_words_that_came_and_keeps_what_cannot_be_had(stocked):
    set_available(stocked, ["i1"], available=False)
    came = add(stocked, [item("z", "Zeppelin zeppelin", "airships")], now=NOW)
    assert came.unknown_words == 1.0
    assert came.unknown_categories == ("airships",)
    assert not catalogue_of_stock(stocked).groups["lexical"][-1, :-ROOM].any()
    rebuild(stocked, now=NOW)
    assert catalogue_of_stock(stocked).groups["lexical"][-1, :-ROOM].any()
    assert stock_of(stocked).unavailable == ("i1",)


def test_a_crash_before_the_last_write_leaves_the_catalogue_as_it_was(stocked, monkeypatch):
    from server import stock

    before, real = stock_of(stocked), stock.write_atomically

    def full(path, content):
        if path.name == "current.json":
            raise OSError(28, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(stock, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        add(stocked, [item("new")], now=NOW)
    monkeypatch.undo()
    assert stock_of(stocked) == before
    assert catalogue_of_stock(stocked).version() == before.version
    add(stocked, [item("other")], now=NOW)
    assert catalogue_of_stock(stocked).ids[-1] == "other"
    assert brought(stocked, catalogue_of_stock(stocked, before.version)).ids[-1] == "other"


def test_new_items_are_read_by_the_text_encoder_that_the_catalogue_was_built_with(house, tmp_path, tiny_bert):
    settings_of(house, text_encoder=tiny_bert)
    import_items(house, csv(tmp_path, range(20)), now=NOW)
    add(house, [item("twin", "red mug 0", "mugs")], now=NOW)
    after = catalogue_of_stock(house)
    assert after.texts[-1] == after.texts[0]
    for name, vectors in after.groups.items():
        np.testing.assert_allclose(vectors[-1], vectors[0], atol=2e-5, err_msg=name)
    settings_of(house, text_encoder="none")
    with pytest.raises(DataError, match=r"model\.text_encoder 'none': the catalogue was built with another one"):
        add(house, [item("more")], now=NOW)
    remove(house, ["twin"], now=NOW)  # needs no text encoder


def test_an_adapted_text_encoder_is_kept_for_items_that_come_later(house, tmp_path, tiny_bert):
    settings_of(house, text_encoder=tiny_bert, adaptation="contrastive")
    import_items(house, csv(tmp_path, range(70)), now=NOW)
    add(house, [item("twin", "red mug 0", "mugs")], now=NOW)
    after = catalogue_of_stock(house)
    np.testing.assert_allclose(after.groups["text"][-1], after.groups["text"][0], atol=2e-5)


def settings_of(house, **model):
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in model.items())
    house.settings.write_text(f"[model]\n{lines}", encoding="utf-8")


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        (lambda house: add(house, [item("i0")], now=NOW), "item 'i0' is in the catalogue already"),
        (lambda house: add(house, [item("n"), item("n")], now=NOW), "'n' appears twice"),
        (lambda house: remove(house, ["i0", "x"], now=NOW), "item 'x' is not in the catalogue of 20 items"),
        (lambda house: set_available(house, ["x"], available=False), "item 'x' is not in the catalogue"),
        (lambda house: remove(house, [f"i{n}" for n in range(20)], now=NOW), "no item would be left"),
        (lambda house: catalogue_of_stock(house, "0" * 64), "no edition has version 000000000000…"),
    ],
)
def test_an_order_that_makes_no_sense_is_a_sentence_and_changes_nothing(stocked, order, sentence):
    before = stock_of(stocked)
    with pytest.raises(DataError, match=sentence):
        order(stocked)
    assert stock_of(stocked) == before


def test_more_items_that_cannot_be_had_than_a_publication_names_are_refused(stocked, monkeypatch):
    monkeypatch.setattr("server.stock.MOST_UNAVAILABLE", 2)
    with pytest.raises(DataError, match="3 items cannot be had; at most 2 may be named so, remove the others"):
        set_available(stocked, ["i1", "i2", "i3"], available=False)


def test_the_limits_are_those_of_a_publication():
    assert MOST_UNAVAILABLE == publication._MOST_ITEMS
    assert LONGEST_ID == publication._LONGEST_ID


def test_without_a_catalogue_the_first_step_is_named(house):
    for order in (stock_of, catalogue_of_stock, lambda h: add(h, [item("a")], now=NOW), lambda h: rebuild(h, now=NOW)):
        with pytest.raises(
            DataError, match=r"no catalogue yet; make one: fedrecall-server catalogue import .*items\.csv"
        ):
            order(house)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other"}', '{"format": "fedrecall-stock-1"}'])
def test_a_damaged_file_of_the_stock_is_a_sentence(stocked, content):
    (stocked.catalogue / "current.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"current\.json: "):
        stock_of(stocked)


def told(*arguments):
    result = CliRunner().invoke(catalogue_app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_command_line_says_what_each_order_did(house, tmp_path):
    assert "20 items added, 0 changed, 0 removed" in told("import", house.folder, csv(tmp_path, range(20)))
    said = told("add", house.folder, "z", "--title", "Zeppelin", "--category", "airships", "--description", "red mug")
    assert "1 items added" in said
    assert "Of the words of what came, 50% are new to the catalogue: they count between new items only" in said
    assert "count for nothing: airships" in said
    assert json.loads(told("unavailable", house.folder, "i3", "i4", "--json"))["unavailable"] == 2
    assert "1 cannot be had" in told("available", house.folder, "i4")
    assert "0 added, 0 changed, 2 removed" in told("remove", house.folder, "i0", "z").replace("items ", "")
    assert "Edition 4: 19 items" in told("rebuild", house.folder)
    shown = told("show", house.folder)
    assert shown.count("\n") == 6
    assert "1 items cannot be had at the moment." in shown
    assert json.loads(told("show", house.folder, "--json"))["editions"][-1]["basis"] == 2
