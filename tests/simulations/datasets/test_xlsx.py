from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime

import pytest

from shared.errors import DataError
from simulations.datasets.xlsx import date_seconds, sheet_rows

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
REL = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def xlsx(sheets, strings=()):
    """A workbook from XML rows; ``sheets``: name -> content of sheetData."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        names = "".join(f'<sheet name="{name}" sheetId="{i}" r:id="rId{i}"/>' for i, name in enumerate(sheets, 1))
        archive.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{MAIN}" xmlns:r="{REL}"><sheets>{names}</sheets></workbook>'
        )
        links = "".join(
            f'<Relationship Id="rId{i}" Target="worksheets/sheet{i}.xml"/>' for i in range(1, len(sheets) + 1)
        )
        archive.writestr("xl/_rels/workbook.xml.rels", f"<Relationships>{links}</Relationships>")
        if strings:
            words = "".join(f"<si>{word}</si>" for word in strings)
            archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{MAIN}">{words}</sst>')
        for i, rows in enumerate(sheets.values(), 1):
            archive.writestr(
                f"xl/worksheets/sheet{i}.xml", f'<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData></worksheet>'
            )
    made.seek(0)
    return made


def test_shared_inline_and_number_cells_are_read_in_their_columns():
    rows = (
        '<row r="1"><c r="A1" t="s"><v>1</v></c><c r="C1"><v>2.5</v></c></row>'
        '<row r="2"><c r="B2" t="inlineStr"><is><t>a</t><t>b</t></is></c></row>'
        "<row><c><v>7</v></c><c><v>8</v></c></row>"
    )
    book = xlsx({"first": "", "second": rows}, strings=("<t>x</t>", "<r><t>rich </t></r><r><t>text</t></r>"))
    assert list(sheet_rows(book, "second")) == [["rich text", "", "2.5"], ["", "ab"], ["7", "8"]]
    assert list(sheet_rows(book, "first")) == []


def test_columns_beyond_z():
    book = xlsx({"s": '<row><c r="AB1"><v>1</v></c></row>'})
    assert next(sheet_rows(book, "s")) == [""] * 27 + ["1"]


def test_an_unknown_sheet_is_named():
    with pytest.raises(DataError, match="no sheet 'third'; the file has first, second"):
        list(sheet_rows(xlsx({"first": "", "second": ""}), "third"))


def test_other_files_are_refused():
    with pytest.raises(DataError, match="not a readable xlsx"):
        list(sheet_rows(io.BytesIO(b"PK is not enough"), "s"))
    with pytest.raises(DataError, match="not a readable xlsx"):
        list(sheet_rows(xlsx({"s": '<row><c t="s"><v>9</v></c></row>'}), "s"))
    with pytest.raises(DataError, match="not a readable xlsx"):
        list(sheet_rows(xlsx({"s": "<row>"}), "s"))


def test_dates():
    assert date_seconds("40513") == datetime(2010, 12, 1, tzinfo=UTC).timestamp()
    assert date_seconds("40513.351388888892") == datetime(2010, 12, 1, 8, 26, tzinfo=UTC).timestamp()
