"""Text tables read strictly: a broken row is an error that names ``file:line``, never a row quietly left out."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError

# Seconds of the year 5138: a larger "unix time" is milliseconds.
_LATEST_SECOND: Final = 1e11


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


def read_atomic(path: Path) -> Table:
    """A RecBole atomic file: tab separated, header fields ``name:type`` (recbole.io, user guide, atomic files).

    Raises:
        DataError: no file, empty file, a header without types, a row with another number of fields, or not UTF-8.
    """
    lines = ((number, line.split("\t")) for number, line in _text_lines(path))
    table = _table(path, lines)
    named = {}
    for field in table.columns:
        name, colon, kind = field.rpartition(":")
        if not colon:
            raise DataError(f"{path}:1: header field {field!r} has no type; RecBole writes user_id:token and so on")
        named[name] = (kind, table.columns[field])
    columns = {name: values for name, (_, values) in named.items()}
    return Table(path, columns, {name: kind for name, (kind, _) in named.items()}, table.lines)


def read_csv(path: Path) -> Table:
    """A comma separated file with a header line and RFC 4180 quotes.

    Raises:
        DataError: as ``read_atomic``.
    """

    def rows() -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader((line + "\n" for _, line in _text_lines(path)), strict=True)
        start = 1
        try:
            for row in reader:
                yield start, row
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{start}: broken row ({error})") from error

    return _table(path, rows())


def read_parquet(path: Path) -> Table:
    """A Parquet file; lists become texts joined by ``|``, times unix seconds, nulls empty texts.

    Raises:
        DataError: no file, no rows, or not Parquet.
    """
    import pyarrow as pa  # noqa: PLC0415 - heavy import
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy import

    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    if table.num_rows == 0:
        raise DataError(f"{path}: no rows; at least one is needed")
    columns = {name: [_as_text(value) for value in table[name].to_pylist()] for name in table.column_names}
    return Table(path, columns, {}, range(1, table.num_rows + 1))


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


def numbers(
    table: Table, column: str, *, low: float, high: float, parse: Callable[[str], float] = float
) -> NDArray[np.float64]:
    """(rows,) a column of numbers in [low, high]; an empty text or ``nan`` is NaN.

    Raises:
        DataError: a value that is no number, or out of range.
    """
    out = np.full(len(table), np.nan)
    for row, value in enumerate(table.columns[column]):
        if not value.strip():
            continue
        try:
            out[row] = parse(value)
        except (ValueError, OverflowError):
            raise DataError(f"{table.place(row)}: {column} is {value!r}, which is no number") from None
    wrong = np.flatnonzero(~np.isnan(out) & ~((out >= low) & (out <= high)))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{table.place(row)}: {column} is {table.columns[column][row]!r}; it must be between {low:g} and {high:g}"
        )
    return out


def times(table: Table, column: str) -> NDArray[np.float64]:
    """(rows,) unix seconds from numbers or ISO 8601 dates (without a zone: UTC).

    Raises:
        DataError: neither of the two, missing, or so large that it must be milliseconds.
    """
    values = numbers(table, column, low=-_LATEST_SECOND, high=_LATEST_SECOND, parse=_seconds)
    missing = np.flatnonzero(np.isnan(values))
    if len(missing):
        raise DataError(
            f"{table.place(int(missing[0]))}: {column} is empty; every event needs unix seconds or an ISO date"
        )
    return values


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        date = datetime.fromisoformat(value.strip())
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            yield number, line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError:
            raise DataError(f"{path}:{number}: not UTF-8 text; convert the file") from None


def _table(path: Path, rows: Iterator[tuple[int, list[str]]]) -> Table:
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


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return str((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, list):
        return "|".join(str(part) for part in value)
    return str(value)
