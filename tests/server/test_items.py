"""The CSV file of items: what is read of it, and where it is wrong."""

from __future__ import annotations

import pytest

from server.items import LONGEST_ID, Item, described, read_items
from shared.errors import DataError


def written(tmp_path, content):
    path = tmp_path / "items.csv"
    path.write_text(content, encoding="utf-8")
    return path


def test_a_description_is_read_behind_the_title_and_a_text_in_place_of_both(tmp_path):
    items, available = read_items(
        written(
            tmp_path,
            "id,title,text,description,categories,available\n"
            '1, Blue mug ,,"Holds tea, and coffee",kitchen| gifts |kitchen,yes\n'
            "2,Red pen,writes well,not read,,no\n"
            "3,Ménilmontant,,,,\n",
        )
    )
    assert items == [
        Item("1", "Blue mug", "Blue mug Holds tea, and coffee kitchen gifts", ("kitchen", "gifts")),
        Item("2", "Red pen", "writes well"),
        Item("3", "Ménilmontant", "Ménilmontant"),
    ]
    assert available == {"1": True, "2": False, "3": True}


def test_two_columns_are_enough_and_say_nothing_of_what_can_be_had(tmp_path):
    assert read_items(written(tmp_path, "title,id\nmug,7\n")) == ([Item("7", "mug", "mug")], {})


def test_one_item_is_described_like_a_row_of_the_file():
    assert described("7", " Mug ", "Mug", ["b", "a", "b"]) == Item("7", "Mug", "Mug b a", ("b", "a"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("id,title,price\n1,a,2\n", r"items\.csv:1: column 'price' is unknown; the columns are id, title, text"),
        ("id\n1\n", r"column 'title' is missing"),
        ("id,title\n1,a\n2,b\n1,c\n", r"items\.csv:4: item '1' is there twice \(first on line 2\)"),
        ("id,title\n1,a\n,b\n", r"items\.csv:3: id is empty"),
        ("id,title\n1,a\n2, \n", r"items\.csv:3: title is empty"),
        ("id,title,available\n1,a,perhaps\n", r"items\.csv:2: available is 'perhaps'; it must be yes or no"),
        ("id,title,description\n1,a," + "x" * 20_001 + "\n", r"items\.csv:2: item '1': title and text have at most"),
        (
            "id,title\n" + "x" * (LONGEST_ID + 1) + ",a\n",
            r"items\.csv:2: item id 'x+': it needs 1 to 200 printable characters",
        ),
    ],
)
def test_a_broken_file_is_a_sentence_with_its_line(tmp_path, content, sentence):
    with pytest.raises(DataError, match=sentence):
        read_items(written(tmp_path, content))


@pytest.mark.parametrize("item", [("", "a"), (" 1", "a"), ("1", " "), ("1\n2", "a"), ("\x1b[2J", "a"), ("\udcff", "a")])
def test_an_item_without_an_id_or_a_title_is_none(item):
    with pytest.raises(DataError, match=r"it needs 1 to 200 printable characters|the title is empty"):
        Item(*item, "text")


@pytest.mark.parametrize("item", [("\udcff", "text", ()), ("a", "\udcff", ()), ("a", "text", ("\udcff",))])
def test_bytes_of_a_terminal_that_are_no_utf_8_are_no_item(item):
    """Python takes them for text; a catalogue that held them could not be read again."""
    title, text, categories = item
    with pytest.raises(DataError, match="not UTF-8 text"):
        Item("1", title, text, categories)
