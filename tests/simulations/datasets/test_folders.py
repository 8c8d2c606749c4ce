from __future__ import annotations

import math

import numpy as np
import pytest

from shared.errors import ConfigError, DataError
from shared.history import KINDS
from simulations.datasets.folders import load_folder

ITEMS = "id,title,text,categories\na,Red pen,a pen that writes red,pens|office\nb,Mug,,kitchen\nc,Cup,for tea,\n"


def folder(tmp_path, interactions, items=ITEMS, names=("interactions.csv", "items.csv")):
    for name, content in zip(names, (interactions, items), strict=True):
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def kinds(data):
    return [KINDS[kind] for kind in data.kind]


def test_a_folder_of_csv_files(tmp_path):
    rows = "user,item,time,kind,count,dwell,rating\n9,a,3,purchase,2,,\n10,b,1,rating,1,,5\n10,c,2,dwell,,30,\n"
    data = load_folder(folder(tmp_path, rows))
    assert (data.name, data.public) == (tmp_path.name, False)
    assert data.users == ("9", "10")
    assert (data.user.tolist(), data.item.tolist()) == ([0, 1, 1], [0, 1, 2])
    assert kinds(data) == ["purchase", "rating", "dwell"]
    assert data.count.tolist() == [2, 1, 1]
    assert data.time.tolist() == [3, 1, 2]
    assert data.dwell.tolist() == [0, 0, 1]
    assert data.items.texts == ("Red pen a pen that writes red pens office", "Mug kitchen", "Cup for tea")
    assert data.items.categories == (("pens", "office"), ("kitchen",), ())


def test_a_folder_of_recbole_files(tmp_path):
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t1\t3\t10\nv\t2\t5\t20\nu\t2\t1\t5\n"
    header = "item_id:token\tname:token_seq\tblurb:token_seq\tyear:token\tgenre:token_seq\n"
    item = f"{header}1\tUp\tgoes up\t2009\tdrama\n2\tBig\tis big\t1988\t\n"
    data = load_folder(folder(tmp_path, inter, item, names=("shop.inter", "shop.item")))
    assert data.rating.tolist() == [0.5, 1.0, 0.0]
    assert kinds(data) == ["rating"] * 3
    assert data.items.titles == ("Up", "Big")
    assert data.items.texts == ("Up goes up drama", "Big is big")
    assert data.items.categories == (("drama",), ())
    assert data.notes == ("ratings 1 to 5 are scaled to 0..1",)


def test_a_folder_of_parquet_files(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"user": [1], "item": [7], "time": pa.array([60], pa.timestamp("s"))}),
        tmp_path / "interactions.parquet",
    )
    pq.write_table(pa.table({"id": [7], "text": ["a pen"], "categories": [["x", "y"]]}), tmp_path / "items.parquet")
    data = load_folder(tmp_path)
    assert (data.users, data.items.ids, data.time.tolist()) == (("1",), ("7",), [60.0])
    assert data.items.categories == (("x", "y"),)


def test_other_column_names_are_given_as_a_map(tmp_path):
    made = folder(tmp_path, "customer,sku,when\nu,a,2020-01-01\n", "sku,description\na,a red pen\n")
    names = {"user": "customer", "item": "sku", "time": "when", "id": "sku", "text": "description"}
    data = load_folder(made, names)
    assert data.items.titles == data.items.texts == ("a red pen",)
    assert data.time.tolist() == [1_577_836_800.0]


def test_a_map_with_an_unknown_field_or_a_column_that_is_not_there_is_an_error(tmp_path):
    made = folder(tmp_path, "user,item\nu,a\n")
    with pytest.raises(ConfigError, match="field 'price' is unknown"):
        load_folder(made, {"price": "x"})
    with pytest.raises(DataError, match=r"interactions\.csv: column map says time = 'when'; there are user, item"):
        load_folder(made, {"time": "when"})


def test_an_unknown_item_is_named_with_its_line_and_how_many_there_are(tmp_path):
    with pytest.raises(DataError, match=r"interactions\.csv:3: item 'zz' is not in the item table \(2 such rows\)"):
        load_folder(folder(tmp_path, "user,item\nu,a\nu,zz\nv,y\n"))


def test_a_row_without_a_user_is_named(tmp_path):
    with pytest.raises(DataError, match=r"interactions\.csv:3: user is empty"):
        load_folder(folder(tmp_path, "user,item\nu,a\n,a\n"))


def test_a_missing_text_column_says_what_to_do(tmp_path):
    with pytest.raises(
        DataError, match="no text column 'text' among id, name; the text encoder needs one, name it in the column map"
    ):
        load_folder(folder(tmp_path, "user,item\nu,a\n", "id,name\na,Pen\n"))


def test_an_item_that_is_there_twice_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"items\.csv:3: item 'a' is there twice \(first on line 2\)"):
        load_folder(folder(tmp_path, "user,item\nu,a\n", "id,text\na,x\na,y\n"))


def test_an_unknown_kind_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"interactions\.csv:2: kind is 'bought'; it must be one of view, purchase"):
        load_folder(folder(tmp_path, "user,item,kind\nu,a,bought\n"))


@pytest.mark.parametrize(("column", "value"), [("count", "0"), ("dwell", "-1"), ("rating", "inf"), ("rating", "good")])
def test_values_out_of_range_are_errors(tmp_path, column, value):
    with pytest.raises(DataError, match=rf"interactions\.csv:2: {column} is '{value}'"):
        load_folder(folder(tmp_path, f"user,item,{column}\nu,a,{value}\n"))


def test_a_rating_that_is_nan_is_no_rating(tmp_path):
    data = load_folder(folder(tmp_path, "user,item,rating\nu,a,4\nu,b,nan\nu,c,2\n"))
    assert kinds(data) == ["rating", "view", "rating"]
    assert [math.isnan(rating) for rating in data.rating] == [False, True, False]
    assert any(note.startswith("1 ratings are empty or NaN") for note in data.notes)


def test_one_and_the_same_rating_everywhere_is_the_best(tmp_path):
    assert load_folder(folder(tmp_path, "user,item,rating\nu,a,4\nu,b,4\n")).rating.tolist() == [1.0, 1.0]


def test_dwell_in_seconds_is_scaled_and_dwell_in_0_to_1_is_left_alone(tmp_path):
    seconds = load_folder(folder(tmp_path, "user,item,dwell\nu,a,10\nu,b,20\nu,c,0\n"))
    np.testing.assert_allclose(seconds.dwell, [10 / 19.5, 1.0, 0.0])
    assert any(note.startswith("dwell times are divided by 19.5") for note in seconds.notes)
    assert kinds(seconds) == ["dwell", "dwell", "view"]
    unit = load_folder(folder(tmp_path, "user,item,dwell\nu,a,0.25\nu,b,1\n"))
    assert unit.dwell.tolist() == [0.25, 1.0]
    assert not any("dwell" in note for note in unit.notes)


def test_repeated_rows_are_added_up_and_said(tmp_path):
    data = load_folder(folder(tmp_path, "user,item,time\nu,a,5\nu,a,3\nu,b,4\n"))
    assert data.count.tolist() == [2, 1]
    assert data.time.tolist() == [3, 4]
    assert data.notes == ("1 of 3 events repeat a (user, item) pair: counts added up, 2 rows remain",)


def test_without_a_time_column_the_file_order_counts_and_that_is_said(tmp_path):
    data = load_folder(folder(tmp_path, "user,item\nu,b\nu,a\n"))
    assert data.time.tolist() == [0, 1]
    assert data.notes == ("interactions.csv has no column 'time': file order stands for time",)


@pytest.mark.parametrize(
    ("interactions", "items", "sentence"),
    [
        (None, ITEMS, "neither interactions.csv nor interactions.parquet"),
        ("user,item\nu,a\n", None, "neither items.csv nor items.parquet"),
        ("", ITEMS, "interactions.csv: the file is empty"),
        ("user,item\n", ITEMS, "a header and no rows"),
        ("user,item\nu\n", ITEMS, "interactions.csv:2: 1 fields, the header has 2"),
    ],
)
def test_missing_and_empty_files_are_named(tmp_path, interactions, items, sentence):
    with pytest.raises(DataError, match=sentence):
        load_folder(folder(tmp_path, interactions, items))


def test_a_missing_folder_and_two_inter_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load_folder(tmp_path / "nowhere")
    made = folder(tmp_path, "user_id:token\n1\n", "user_id:token\n1\n", names=("a.inter", "b.inter"))
    with pytest.raises(DataError, match=r"2 files end in \.inter"):
        load_folder(made)


def test_events_of_several_kinds_on_one_item_become_the_strongest(tmp_path):
    rows = "user,item,time,kind\nu,a,1,view\nu,a,2,purchase\nu,b,1,purchase\nu,b,2,not_interested\n"
    data = load_folder(folder(tmp_path, rows))
    assert kinds(data) == ["purchase", "not_interested"]
    np.testing.assert_array_equal(data.count, [2, 2])
