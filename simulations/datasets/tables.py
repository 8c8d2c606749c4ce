"""Tables of behaviour in other formats than CSV, and columns of numbers; as strict as ``shared/tables.py``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.tables import Table, table_of, text_lines

# Seconds of the year 5138: a larger "unix time" is milliseconds.
_LATEST_SECOND: Final = 1e11


def read_atomic(path: Path) -> Table:
    """A RecBole atomic file: tab separated, header fields ``name:type`` (recbole.io, user guide, atomic files).

    Raises:
        DataError: no file, empty file, a header without types, a row with another number of fields, or not UTF-8.
    """
    lines = ((number, line.split("\t")) for number, line in text_lines(path))
    table = table_of(path, lines)
    named = {}
    for field in table.columns:
        name, colon, kind = field.rpartition(":")
        if not colon:
            raise DataError(f"{path}:1: header field {field!r} has no type; RecBole writes user_id:token and so on")
        named[name] = (kind, table.columns[field])
    columns = {name: values for name, (_, values) in named.items()}
    return Table(path, columns, {name: kind for name, (kind, _) in named.items()}, table.lines)


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


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return str((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, list):
        return "|".join(str(part) for part in value)
    return str(value)
