"""Rows of an xlsx sheet, streamed, with the standard library only.

An xlsx file is a zip of XML parts (ECMA-376): ``xl/workbook.xml`` names the sheets, ``xl/_rels/workbook.xml.rels`` says
where they are, ``xl/sharedStrings.xml`` holds most texts, and a sheet holds rows of cells such as
``<c r="B7" t="s"><v>12</v></c>``. Half a million rows take about a minute and little memory.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final
from xml.etree import ElementTree as ET

from shared.errors import DataError

_MAIN: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LINK: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
# Excel's day 0 (https://support.microsoft.com: 1900 date system; right for dates from March 1900 on).
_DAY_ZERO: Final = datetime(1899, 12, 30, tzinfo=UTC).timestamp()


def sheet_rows(stream: BinaryIO | Path, sheet: str) -> Iterator[list[str]]:
    """The rows of one sheet as texts: numbers as written, empty cells as empty texts.

    Args:
        stream: the xlsx file.
        sheet: the sheet's name.

    Raises:
        DataError: not an xlsx file, or no such sheet.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            part = _sheet_part(archive, sheet)
            words = _shared_strings(archive)
            with archive.open(part) as cells:
                for element in _elements(cells, f"{_MAIN}row"):
                    yield _row(element, words)
    except (zipfile.BadZipFile, zlib.error, KeyError, IndexError, ET.ParseError) as error:
        raise DataError(f"sheet {sheet!r}: not a readable xlsx file ({error})") from error


def date_seconds(number: str) -> float:
    """Unix seconds of an Excel date, to the second, with the sheet's clock read as UTC."""
    return round(_DAY_ZERO + float(number) * 86_400.0)


def _sheet_part(archive: zipfile.ZipFile, sheet: str) -> str:
    book = ET.fromstring(archive.read("xl/workbook.xml"))  # noqa: S314 - expat 2.4.1 and later refuses entity bombs
    links = {found.get("name"): found.get(_LINK) for found in book.iter(f"{_MAIN}sheet")}
    if sheet not in links:
        raise DataError(f"no sheet {sheet!r}; the file has {', '.join(str(name) for name in links)}")
    targets = ET.fromstring(archive.read("xl/_rels/workbook.xml.rels"))  # noqa: S314 - expat 2.4.1 and later refuses entity bombs
    target = next(str(found.get("Target")) for found in targets if found.get("Id") == links[sheet])
    return target.removeprefix("/") if target.startswith("/") else f"xl/{target}"


def _shared_strings(archive: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    with archive.open("xl/sharedStrings.xml") as part:
        return ["".join(text.text or "" for text in entry.iter(f"{_MAIN}t")) for entry in _elements(part, f"{_MAIN}si")]


def _elements(part: object, tag: str) -> Iterator[ET.Element]:
    root: ET.Element | None = None
    for event, element in ET.iterparse(part, events=("start", "end")):  # type: ignore[call-overload]  # noqa: S314 - expat 2.4.1 and later refuses entity bombs
        root = element if root is None else root
        if event == "end" and element.tag == tag:
            yield element
            root.clear() if element is not root else None


def _row(element: ET.Element, words: list[str]) -> list[str]:
    row: list[str] = []
    for cell in element.iter(f"{_MAIN}c"):
        column = _column(cell.get("r", ""), len(row))
        row.extend([""] * (column - len(row)))
        value = cell.findtext(f"{_MAIN}v") or ""
        if cell.get("t") == "s":
            value = words[int(value)]
        elif cell.get("t") == "inlineStr":
            value = "".join(text.text or "" for text in cell.iter(f"{_MAIN}t"))
        row.append(value)
    return row


def _column(reference: str, following: int) -> int:
    """``"AB7"`` -> 27, counted from 0; a cell without a reference follows the one before."""
    number = 0
    for letter in reference.rstrip("0123456789"):
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1 if number else following
