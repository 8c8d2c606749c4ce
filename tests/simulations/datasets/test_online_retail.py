from __future__ import annotations

import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DataError
from shared.history import KINDS
from simulations.datasets.online_retail import k_core, load_online_retail, tidy


def tables(folder, lines, items="stock_code,description\nA,APPLE\nB,BOX\nC,CUP\nD,DISH\nE,EGG\nF,FAN\n"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    columns = list(zip(*lines, strict=True)) if lines else [[], [], []]
    table = {
        "customer_id": pa.array(columns[0], pa.int64()),
        "stock_code": pa.array(columns[1], pa.string()),
        "timestamp": pa.array([int(time * 1e6) for time in columns[2]], pa.timestamp("us")),
    }
    pq.write_table(pa.table(table), folder / "interactions.parquet")
    (folder / "items.csv").write_text(items, encoding="utf-8")
    return folder


def everybody_buys(customers, codes):
    return [
        (customer, code, 1_000.0 + i) for i, (customer, code) in enumerate((c, p) for c in customers for p in codes)
    ]


def test_repeated_purchases_become_one_row_at_the_first_time_with_the_number_of_lines(tmp_path):
    lines = [*everybody_buys(range(1, 6), "ABCDE"), (1, "A", 500.0), (1, "A", 9_000.0)]
    data = load_online_retail(tables(tmp_path, lines))
    first = (data.user == 0) & (data.item == 0)
    assert data.count[first] == 3
    assert data.time[first] == 500.0
    assert set(data.kind.tolist()) == {KINDS.index("purchase")}
    assert data.items.titles[:2] == ("APPLE", "BOX")
    assert data.notes[0].startswith("2 of 27 events repeat")


def test_the_five_core_is_iterated(tmp_path):
    # F has five buyers, but customer 9 buys F alone and goes; then F has four and goes too.
    lines = [*everybody_buys(range(1, 6), "ABCDE"), *((c, "F", 1.0) for c in (1, 2, 3, 4, 9))]
    data = load_online_retail(tables(tmp_path, lines))
    assert data.users == ("1", "2", "3", "4", "5")
    assert data.items.ids == ("A", "B", "C", "D", "E")
    assert "5-core: 25 of 30 pairs, 5 customers and 5 products remain" in data.notes


def test_anonymous_lines_booked_on_customer_0_are_said(tmp_path):
    data = load_online_retail(tables(tmp_path, everybody_buys(range(5), "ABCDE")))
    assert data.notes[-1] == "customer 0 stands for 5 anonymous purchase lines; it is kept as one user"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), unique=True), st.integers(1, 4))
def test_the_core_is_the_largest_set_in_which_everybody_has_k(pairs, k):
    kept = k_core(np.array([u for u, _ in pairs], np.int32), np.array([i for _, i in pairs], np.int32), k)
    expected = set(pairs)
    while True:
        users, items = [u for u, _ in expected], [i for _, i in expected]
        fewer = {(u, i) for u, i in expected if users.count(u) >= k and items.count(i) >= k}
        if fewer == expected:
            break
        expected = fewer
    assert {pair for pair, keep in zip(pairs, kept, strict=True) if keep} == expected


def test_broken_tables_are_named(tmp_path):
    with pytest.raises(DataError, match=r"interactions\.parquet: no such file"):
        load_online_retail(tmp_path)
    with pytest.raises(DataError, match=r"interactions\.parquet: no rows"):
        load_online_retail(tables(tmp_path, []))
    with pytest.raises(DataError, match=r"stock_code 'Z' is not in items\.csv"):
        load_online_retail(tables(tmp_path, [(1, "Z", 0.0)]))
    (tmp_path / "interactions.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="not the tidy purchase lines"):
        load_online_retail(tmp_path)


HEADER = ("Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country")


def official(path, sheets, header=HEADER):
    """The official archive: a zip with one workbook of two sheets, all cells inline."""
    main, rel = (
        "http://schemas.openxmlformats.org/spreadsheetml/2006/main",
        "http://schemas.openxmlformats.org/officeDocument/2006/relationships",
    )
    book = path.with_suffix(".xlsx")
    with zipfile.ZipFile(book, "w") as archive:
        names = "".join(f'<sheet name="{name}" r:id="r{i}"/>' for i, name in enumerate(sheets))
        archive.writestr("xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{rel}">{names}</workbook>')
        links = "".join(f'<Relationship Id="r{i}" Target="s{i}.xml"/>' for i in range(len(sheets)))
        archive.writestr("xl/_rels/workbook.xml.rels", f"<Relationships>{links}</Relationships>")
        for i, lines in enumerate(sheets.values()):
            rows = "".join(
                "<row>" + "".join(f'<c t="inlineStr"><is><t>{cell}</t></is></c>' for cell in line) + "</row>"
                for line in (header, *lines)
            )
            archive.writestr(f"xl/s{i}.xml", f'<worksheet xmlns="{main}">{rows}</worksheet>')
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(book, "online_retail_II.xlsx")
    return path


def line(**changes):
    cells = ("489434", "85048", "GLASS BALL", "12", "40148", "6.95", "13085", "UK")
    names = ("invoice", "code", "text", "quantity", "day", "price", "customer", "country")
    return tuple((dict(zip(names, cells, strict=True)) | changes).values())


def test_tidying_drops_what_is_no_purchase_by_a_known_customer(tmp_path):
    import pyarrow.parquet as pq

    first = [
        line(),
        line(invoice="C489449"),
        line(customer=""),
        line(code="POST"),
        line(quantity="-1"),
        line(price="0"),
        line(code="79323p", text="PINK LIGHTS", customer="13086.0"),
        line(day="40515"),  # 3 December 2010: in both years, taken from the second
    ]
    second = [line(day="40515.5", text="GLASS BALLS"), line(day="40516", text="GLASS BALLS")]
    said = []
    archive = official(tmp_path / "a.zip", {"Year 2009-2010": first, "Year 2010-2011": second})
    tidy(archive, tmp_path / "made", said.append)
    found = pq.read_table(tmp_path / "made" / "interactions.parquet").to_pydict()
    assert found["customer_id"] == [13085, 13086, 13085, 13085]
    assert found["stock_code"] == ["85048", "79323P", "85048", "85048"]
    assert str(found["timestamp"][2]) == "2010-12-03 12:00:00"
    items = (tmp_path / "made" / "items.csv").read_text(encoding="utf-8").split()
    assert items == ["stock_code,description", "79323P,PINK", "LIGHTS", "85048,GLASS", "BALLS"]
    assert said[-1].startswith("Online Retail: 4 purchase lines of 2 products")


def test_another_archive_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"an error page")
    with pytest.raises(DataError, match="not the Online Retail II archive"):
        tidy(tmp_path / "a.zip", tmp_path / "made")
    archive = official(tmp_path / "b.zip", {"Year 2009-2010": [], "Year 2010-2011": []}, header=HEADER[1:])
    with pytest.raises(DataError, match="has no column 'Invoice'"):
        tidy(archive, tmp_path / "made")
    assert not (tmp_path / "made").exists()
