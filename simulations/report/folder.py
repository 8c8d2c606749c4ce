"""Read one run folder: what the report and the comparison know of a run.

A run folder is written by the simulator while it runs, so a reader must live with what is not there yet: no rounds, no
summary, no examples. What *is* there must parse; a broken line is an error that names ``file:line``.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import RunError

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """The files of one run folder, parsed but not interpreted.

    ``rounds`` is sorted by round, one record a round. ``summary`` is None until the run has ended; ``examples`` is None
    when the folder holds no ``examples.json``.
    """

    folder: Path
    config_text: str
    config: Json
    rounds: tuple[Json, ...]
    summary: Json | None
    examples: tuple[Json, ...] | None


def read_run(folder: Path) -> Run:
    """Parse the run folder.

    Raises:
        RunError: the folder holds no ``config.toml``, or one of its files does not parse (names ``file:line``).
    """
    config_path = folder / "config.toml"
    if not config_path.is_file():
        raise RunError(
            f"{folder} holds no run: there is no config.toml in it; name a folder that `fedrecall-sim` wrote"
        )
    config_text = _text(config_path)
    try:
        config = tomllib.loads(config_text)
    except tomllib.TOMLDecodeError as error:
        raise RunError(f"{config_path}: {error}; it must be the TOML that the run wrote") from error
    return Run(
        folder=folder,
        config_text=config_text,
        config=config,
        rounds=_rounds(folder / "rounds.jsonl"),
        summary=_summary(folder / "summary.json"),
        examples=_examples(folder / "examples.json"),
    )


def dig(value: object, *keys: str) -> object:
    """Return ``value[keys[0]][keys[1]]...``, or None as soon as a step is missing or is not a mapping."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def number(value: object) -> float | None:
    """Return a finite number as a float; None for anything else (null, NaN, text, true)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def mapping(value: object) -> Json:
    """Return the value when it is a mapping, an empty one otherwise."""
    return value if isinstance(value, Mapping) else {}


def strings(value: object) -> tuple[str, ...]:
    """Return the items of a list as strings; a lone string is a list of one; anything else is empty."""
    if isinstance(value, str):
        return (value,)
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not UTF-8 text (byte {error.start}); it must be what the run wrote") from error


def _rounds(path: Path) -> tuple[Json, ...]:
    """One record a round, sorted; of a round that was written twice (a retry) the later line stands."""
    if not path.is_file():
        return ()
    found: dict[int, Json] = {}
    for at, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        record = _json(line, f"{path}:{at}")
        place = record.get("round") if isinstance(record, dict) else None
        if not isinstance(record, dict) or isinstance(place, bool) or not isinstance(place, int):
            raise RunError(f"{path}:{at}: not a round record; it must be a JSON object with an integer `round`")
        found[place] = record
    return tuple(found[place] for place in sorted(found))


def _summary(path: Path) -> Json | None:
    if not path.is_file():
        return None
    summary = _json(_text(path), str(path))
    if not isinstance(summary, dict):
        raise RunError(f"{path}: holds a {type(summary).__name__}; it must be one JSON object")
    return summary


def _examples(path: Path) -> tuple[Json, ...] | None:
    if not path.is_file():
        return None
    examples = _json(_text(path), str(path))
    if not isinstance(examples, list) or not all(isinstance(example, dict) for example in examples):
        raise RunError(f"{path}: must be a JSON list of objects, one a user")
    return tuple(examples)


def _json(text: str, place: str) -> object:
    try:
        parsed: object = json.loads(text)
    except json.JSONDecodeError as error:
        where = place if error.lineno == 1 else f"{place}:{error.lineno}"
        raise RunError(
            f"{where}: not JSON ({error.msg}, column {error.colno}); it must be what the run wrote"
        ) from error
    return parsed
