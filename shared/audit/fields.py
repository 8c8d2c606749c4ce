"""Fields of a hostile event: each read with its form, or :class:`OddError` that names the field and repeats nothing."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from datetime import date
from typing import Any, Final, cast, get_args

from shared.privacy.chain import Receipt
from shared.privacy.plan import RELEASES, Kind, Release

Event = Mapping[str, Any]

LONGEST_NAME: Final = 256  # characters of a client's or a run's name
LONGEST_TEXT: Final = 300  # of a clause or a reason: the rest is cut off
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")
_MOST: Final = 1 << 53  # what every JSON reader can tell from its neighbours


class OddError(Exception):
    """A field is missing, or of no honest form; its name is ``str(error)``. ``records`` catches it."""


def whole(event: Event, name: str, least: int = 0) -> int:
    """A whole number of at least ``least``."""
    value = event.get(name)
    if type(value) is not int or not least <= value <= _MOST:
        raise OddError(name)
    return value


def number(event: Event, name: str) -> float:
    """A finite number, not negative."""
    value = event.get(name)
    if type(value) not in (int, float):
        raise OddError(name)
    try:
        made = float(cast(float, value))
    except OverflowError as error:
        raise OddError(name) from error
    if not (math.isfinite(made) and made >= 0):
        raise OddError(name)
    return made


def price(event: Event) -> float | None:
    """What a release costs in zCDP; None = there is no privacy."""
    return None if "rho" in event and event["rho"] is None else number(event, "rho")


def text(event: Event, name: str) -> str:
    """A short text, as one object however often it comes."""
    value = event.get(name)
    if type(value) is not str or len(value) > LONGEST_NAME:
        raise OddError(name)
    return sys.intern(value)


def long_text(event: Event, name: str) -> str:
    """A text of any length, cut off."""
    value = event.get(name)
    if type(value) is not str:
        raise OddError(name)
    return value[:LONGEST_TEXT]


def digest(event: Event, name: str) -> str:
    """64 hexadecimal digits: a hash or a public key."""
    value = event.get(name)
    if type(value) is not str or _HASH.fullmatch(value) is None:
        raise OddError(name)
    return sys.intern(value)


def release(event: Event) -> Release:
    """One of the four kinds."""
    value = event.get("release")
    if type(value) is not str or value not in RELEASES:
        raise OddError("release")
    return cast(Release, sys.intern(value))


def kind(event: Event) -> Kind:
    """Simulation or deployment."""
    value = event.get("kind")
    if type(value) is not str or value not in get_args(Kind):
        raise OddError("kind")
    return cast(Kind, value)


def flag(event: Event, name: str) -> bool:
    """True or false, and nothing that only counts as it."""
    value = event.get(name)
    if type(value) is not bool:
        raise OddError(name)
    return value


def day(event: Event) -> str:
    """An ISO date."""
    value = text(event, "day")
    try:
        made = date.fromisoformat(value)
    except ValueError as error:
        raise OddError("day") from error
    if made.isoformat() != value:
        raise OddError("day")
    return value


def names(event: Event, name: str) -> tuple[str, ...]:
    """Names of clients, each once."""
    value = event.get(name)
    if type(value) is not list or not all(type(one) is str and len(one) <= LONGEST_NAME for one in value):
        raise OddError(name)
    if len(set(value)) != len(value):
        raise OddError(name)
    return tuple(map(sys.intern, value))


def receipts(event: Event) -> tuple[tuple[Receipt, tuple[str, ...]], ...]:
    """Receipts with their clients; whether they are signed is for a check to say."""
    value = event.get("receipts")
    if type(value) is not list:
        raise OddError("receipts")
    return tuple(map(_receipt, value))


def _receipt(group: object) -> tuple[Receipt, tuple[str, ...]]:
    if type(group) is not dict or set(group) != {"key", "seq", "tip", "round", "signature", "clients"}:
        raise OddError("receipts")
    try:
        key, seq, tip = digest(group, "key"), whole(group, "seq", 1), digest(group, "tip")
        return Receipt(key, seq, tip, whole(group, "round"), signature(group)), names(group, "clients")
    except OddError as error:
        raise OddError("receipts") from error


def signature(event: Event) -> str:
    """128 hexadecimal digits."""
    value = event.get("signature")
    if type(value) is not str or _SIGNATURE.fullmatch(value) is None:
        raise OddError("signature")
    return value


def mapping(event: Event, name: str) -> dict[str, Any]:
    """An object of JSON."""
    value = event.get(name)
    if type(value) is not dict:
        raise OddError(name)
    return value
