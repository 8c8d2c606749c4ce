"""Behaviour from other places into a vault, and everything that a device holds about a person out of it."""

from __future__ import annotations

import csv
import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from client.behaviour import Behaviour, Events, events_of
from client.home import Home
from client.learning import ADAPTED
from client.privacy_view import whole_lines
from client.vault import Vault
from shared.errors import DataError

COLUMNS: Final = ("item", "kind", "time", "dwell", "rating")
_NEEDED: Final = frozenset(COLUMNS[:3])
_FORMAT: Final = "fedrecall-export-2"


def read_events(path: Path) -> Events:
    """Events of a file.

    Args:
        path: ``.csv`` with a header, or ``.jsonl`` with an object a line: columns item, kind, time (unix seconds),
            and, where known, dwell and rating (0 to 1); an empty cell or null is unknown. Or ``.json``, as
            :func:`export` wrote it: its events; a "line" is then the number of the event.

    Raises:
        DataError: names the file and the line; nothing is taken then.
    """
    rows = {".csv": _csv_rows, ".jsonl": _json_rows, ".json": _export_rows}.get(path.suffix)
    if rows is None:
        raise DataError(f"{path}: expected a file that ends in .csv or .jsonl, or an export's .json")
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return events_of(_behaviours(path, rows(path, lines)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def export(vault: Vault, home: Home) -> dict[str, Any]:
    """Everything about the person on this device, as one JSON document.

    In answer to the right of access and to portability (GDPR, articles 15 and 20): every event as
    :func:`read_events` takes it back, what the device learned from them for this person alone (``client/adapting.py``;
    None = nothing), every line of the ledger, the consent, the receipts of what was forgotten.

    Args:
        vault: the open one of ``home``.
        home: the device.

    Raises:
        DataError: the vault is damaged, or the consent or a receipt cannot be read.
        LedgerError: the ledger is broken.
    """
    return {
        "format": _FORMAT,
        "events": [_as_row(event) for event in vault.events()],
        "learned": _learned(vault, home.adapted),
        "ledger": [dict(line.event) for line in whole_lines(home.ledger)],
        "consent": _consent(home.consent),
        "forgotten": [_receipt(path) for path in sorted(home.forgotten.glob("*.json"))],
    }


def _as_row(event: Behaviour) -> dict[str, Any]:
    """An event as JSON has it: no NaN."""
    rating = None if math.isnan(event.rating) else event.rating
    return {"item": event.item, "kind": event.kind, "time": event.time, "dwell": event.dwell, "rating": rating}


def _consent(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _learned(vault: Vault, path: Path) -> dict[str, Any] | None:
    """None, too, where it is from before something was forgotten: the device has dropped it, or is about to."""
    try:
        said: dict[str, Any] = json.loads(vault.unseal(ADAPTED, path.read_bytes()))
    except (FileNotFoundError, DataError):
        return None
    return said


def _receipt(path: Path) -> Any:  # noqa: ANN401 - as it was written
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _behaviours(path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Behaviour]:
    for line, row in rows:
        try:
            yield Behaviour(
                row["item"],
                row["kind"],
                _number(row["time"], "time", math.nan),
                _number(row.get("dwell"), "dwell", 0.0),
                _number(row.get("rating"), "rating", math.nan),
            )
        except DataError as error:
            raise DataError(f"{path}:{line}: {error}") from error


def _number(value: object, column: str, unknown: float) -> float:
    if value is None or value == "":
        return unknown
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise DataError(f"{column} {value!r:.80}; expected a number")


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(lines)
    try:
        header = next(reader, [])
        _check_columns(f"{path}:1", header)
        for row in reader:
            if len(row) != len(header) and row:
                raise DataError(f"{path}:{reader.line_num}: {len(row)} cells under {len(header)} columns")
            if row:
                yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error})") from error


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON ({error})") from error
        yield number, _object(f"{path}:{number}", row)


def _export_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        document = json.loads("".join(lines))
        form, events = document["format"], document["events"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise DataError(f"{path}: not an export ({type(error).__name__}: {error})") from error
    if form != _FORMAT or not isinstance(events, list):
        raise DataError(f"{path}: format {form!r:.80}; expected {_FORMAT}, with a list of events")
    for number, row in enumerate(events, 1):
        yield number, _object(f"{path}:{number}", row)


def _object(place: str, row: object) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected an object with the fields {', '.join(COLUMNS)}")
    _check_columns(place, row)
    return row


def _check_columns(place: str, columns: Iterable[str]) -> None:
    names = list(columns)
    wrong = [name for name in names if name not in COLUMNS or names.count(name) > 1]
    missing = sorted(_NEEDED - set(names))
    if wrong or missing:
        raise DataError(
            f"{place}: columns {', '.join(names) or 'none'}; expected {', '.join(COLUMNS)}, the first three"
        )
