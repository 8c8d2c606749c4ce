"""Text tables read strictly: a broken row is an error that names ``file:line``, never a row quietly left out."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import DataError


@dataclass(frozen=True)
class Table:
    """Columns of text.

    Attributes:
        path: where they come from.
        columns: column name -> one text per row.
        types: column name -> RecBole type (``token``, ``token_seq``, ``float``, ``float_seq``); empty for other files.
        lines: the line of each row in the file (for Parquet: the row's number).
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    types: Mapping[str, str]
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """``file:line`` of a row, for messages."""
        return f"{self.path}:{self.lines[row]}"


def read_csv(path: Path) -> Table:
    """A comma separated file with a header line and RFC 4180 quotes.

    Raises:
        DataError: no file, empty file, a broken row or one with another number of fields, or not UTF-8.
    """

    def rows() -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader((line + "\n" for _, line in text_lines(path)), strict=True)
        start = 1
        try:
            for row in reader:
                yield start, row
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{start}: broken row ({error})") from error

    return table_of(path, rows())


def texts(table: Table, column: str) -> list[str]:
    """A column that must hold something in every row.

    Raises:
        DataError: no such column, or an empty value.
    """
    if column not in table.columns:
        raise DataError(f"{table.path}: column {column!r} is missing; there are {', '.join(table.columns)}")
    values = [value.strip() for value in table.columns[column]]
    empty = next((row for row, value in enumerate(values) if not value), None)
    if empty is not None:
        raise DataError(f"{table.place(empty)}: {column} is empty; every row needs one")
    return values


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and line of a UTF-8 file, without the line's end.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            yield number, line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError:
            raise DataError(f"{path}:{number}: not UTF-8 text; convert the file") from None


def table_of(path: Path, rows: Iterator[tuple[int, list[str]]]) -> Table:
    """A table of the rows of a file, the first of which is the header; empty rows do not count.

    Raises:
        DataError: no row, a column twice, or a row with another number of fields.
    """
    header = next((row for _, row in rows if row not in ([], [""])), None)
    if header is None:
        raise DataError(f"{path}: the file is empty; a header and at least one row are needed")
    repeated = next((name for name in header if header.count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"{path}:1: column {repeated!r} appears twice")
    lines: list[int] = []
    kept: list[list[str]] = []
    for number, row in rows:
        if row in ([], [""]):
            continue
        if len(row) != len(header):
            raise DataError(f"{path}:{number}: {len(row)} fields, the header has {len(header)}")
        lines.append(number)
        kept.append(row)
    if not kept:
        raise DataError(f"{path}: a header and no rows; at least one row is needed")
    return Table(path, dict(zip(header, zip(*kept, strict=True), strict=True)), {}, lines)
