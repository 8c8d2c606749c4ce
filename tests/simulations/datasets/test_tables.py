from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import DataError
from shared.tables import read_csv, texts
from simulations.datasets.tables import numbers, read_atomic, read_parquet, times


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_an_atomic_file_has_columns_types_and_lines(tmp_path):
    table = read_atomic(written(tmp_path, "a.inter", "user_id:token\trating:float\r\nu1\t3\r\n\r\nu2\t4"))
    assert table.columns == {"user_id": ("u1", "u2"), "rating": ("3", "4")}
    assert table.types == {"user_id": "token", "rating": "float"}
    assert table.place(1).endswith("a.inter:4")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "a.inter: the file is empty"),
        ("\n\n", "a.inter: the file is empty"),
        ("user_id:token\titem_id:token\n", "a header and no rows"),
        ("user_id\titem_id\n1\t2\n", "a.inter:1: header field 'user_id' has no type"),
        ("user_id:token\titem_id:token\n1\t2\n3\n", "a.inter:3: 1 fields, the header has 2"),
        ("user_id:token\titem_id:token\n1\t2\t3\n", "a.inter:2: 3 fields, the header has 2"),
        ("user_id:token\tuser_id:token\n1\t2\n", "column 'user_id:token' appears twice"),
        (b"user_id:token\n1\n\xff\xfe\n", "a.inter:3: not UTF-8"),
    ],
)
def test_a_broken_atomic_file_is_named_with_its_line(tmp_path, content, sentence):
    with pytest.raises(DataError, match=sentence):
        read_atomic(written(tmp_path, "a.inter", content))


def test_a_missing_file_is_named(tmp_path):
    for read in (read_atomic, read_csv, read_parquet):
        with pytest.raises(DataError, match="nowhere"):
            read(tmp_path / "nowhere")


def test_csv_quotes_may_span_lines_and_line_numbers_stay_right(tmp_path):
    table = read_csv(written(tmp_path, "a.csv", '\ufeffid,text\n1,"two\nlines, ""quoted"""\n2,plain\n'))
    assert table.columns == {"id": ("1", "2"), "text": ('two\nlines, "quoted"', "plain")}
    assert list(table.lines) == [2, 4]


@pytest.mark.parametrize("content", ['id,text\n1,"never closed\n', 'id,text\n1,"a"b\n'])
def test_broken_quotes_are_an_error(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.csv:2: broken row"):
        read_csv(written(tmp_path, "a.csv", content))


cell = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=5))
def test_what_the_csv_module_writes_is_read_back(tmp_path, rows):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("id", "text"), *rows])
    table = read_csv(path)
    assert list(zip(table.columns["id"], table.columns["text"], strict=True)) == rows


def test_parquet_times_lists_and_nulls_become_texts(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    columns = {"time": pa.array([0, None], pa.timestamp("s")), "tags": [["a", "b"], []], "n": [1, 2]}
    pq.write_table(pa.table(columns), path)
    table = read_parquet(path)
    assert table.columns == {"time": ["0.0", ""], "tags": ["a|b", ""], "n": ["1", "2"]}


def test_a_parquet_file_without_rows_and_one_that_is_none_are_errors(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"user": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match=r"empty\.parquet: no rows"):
        read_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_parquet(written(tmp_path, "a.parquet", "user,item\n"))


def test_needed_texts_must_be_there_and_filled(tmp_path):
    table = read_csv(written(tmp_path, "a.csv", "user,item\n u1 ,i1\n ,i2\n"))
    assert texts(table, "item") == ["i1", "i2"]
    with pytest.raises(DataError, match=r"a\.csv:3: user is empty"):
        texts(table, "user")
    with pytest.raises(DataError, match="column 'sku' is missing; there are user, item"):
        texts(table, "sku")


def test_numbers_are_numbers_in_range_or_nan(tmp_path):
    table = read_csv(written(tmp_path, "a.csv", "good,word,large,infinite\n1,x,7,inf\n,1,1,1\nnan,1,1,1\n"))
    np.testing.assert_array_equal(numbers(table, "good", low=0, high=1), [1, np.nan, np.nan])
    with pytest.raises(DataError, match=r"a\.csv:2: word is 'x', which is no number"):
        numbers(table, "word", low=0, high=1)
    for column in ("large", "infinite"):
        with pytest.raises(DataError, match=f"a.csv:2: {column} is .* must be between 0 and 5"):
            numbers(table, column, low=0, high=5)


def test_times_are_unix_seconds_or_iso_dates(tmp_path):
    content = "time\n1.5\n1970-01-02\n1970-01-01T01:00:00+01:00\n"
    assert times(read_csv(written(tmp_path, "a.csv", content)), "time").tolist() == [1.5, 86_400.0, 0.0]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [("yesterday", "no number"), ("", "is empty"), ("1700000000000", "must be between"), ("nan", "is empty")],
)
def test_other_times_are_errors(tmp_path, value, sentence):
    with pytest.raises(DataError, match=sentence):
        times(read_csv(written(tmp_path, "a.csv", f"time,x\n{value},1\n")), "time")
