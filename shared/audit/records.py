"""From the events of a ledger to typed records: pure. A hostile event becomes an :class:`Odd`, never an exception.

An event's fields are those of ``docs/ledger.md``. What is not there, or not of its form, is nobody's honest writing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from json import dumps, loads
from typing import Any, Final, Literal, TypeVar

from shared.audit import fields
from shared.audit.evidence import Charge, Head, Payment, Pin, Refusal, Sealed, Sum
from shared.audit.fields import OddError
from shared.errors import PlanError
from shared.privacy.calibration import plan_from_dict
from shared.privacy.chain import FIRST, Line
from shared.privacy.plan import PrivacyPlan

Event = Mapping[str, Any]
Check = Literal["entry-malformed", "entry-unknown", "entry-misplaced"]


@dataclass(frozen=True, slots=True)
class Odd:
    """An event that is none.

    Attributes:
        check: what is wrong with it.
        type: as it names itself, cut short.
        field: that is missing or malformed; "" = none in particular.
    """

    line: int
    check: Check
    type: str
    field: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An event that is kept as it stands: ``decision``, ``order``, ``end``."""

    line: int
    event: Event


@dataclass(frozen=True, slots=True)
class Opened:
    """The first line of a ledger.

    Attributes:
        server: whether it is a server's.
        key: the signer's, hex.
        event: all of it.
    """

    server: bool
    key: str
    event: Event


ServerRecord = Charge | Sum | Head | Kept | Odd
ClientRecord = Pin | Payment | Sealed | Refusal | Head | Odd


def opened(line: Line) -> Opened | Odd:
    """The first line, whose key the chain has verified already."""
    event = line.event
    try:
        return Opened(event["type"] == "plan", fields.digest(event, "key"), event)
    except OddError as error:
        return Odd(line.number, "entry-malformed", _type(event), str(error))


def server_record(line: Line, tip: str) -> ServerRecord:
    """What a line of a server's ledger says, the first one excepted.

    Args:
        line: verified.
        tip: hash of the line before.
    """
    return _record(line, tip, _SERVER, _CLIENT, _CLIENTS_FIELDS)


def client_record(line: Line, tip: str) -> ClientRecord:
    """As :func:`server_record`, of a client's ledger."""
    return _record(line, tip, _CLIENT, _SERVER, _SERVERS_FIELDS)


def plan_of(raw: object) -> tuple[PrivacyPlan | None, str]:
    """A plan as a ledger names it, and why it is none."""
    try:
        return _plan_of(dumps(raw, sort_keys=True))
    except (TypeError, ValueError, RecursionError) as error:
        return None, f"no plan: {type(error).__name__}"


@lru_cache(maxsize=64)
def _plan_of(raw: str) -> tuple[PrivacyPlan | None, str]:
    """Cached: a thousand clients pin one plan."""
    try:
        return plan_from_dict(loads(raw)), ""
    except PlanError as error:
        return None, str(error)[: fields.LONGEST_TEXT]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        return None, f"no plan: {type(error).__name__}"


T = TypeVar("T")


def _record(
    line: Line, tip: str, own: Mapping[str, Callable[[Line, str], T]], others: Collection[str], foreign: frozenset[str]
) -> T | Odd:
    """A line by the reader of its type.

    Args:
        line, tip: as in :func:`server_record`.
        own: type -> reader, of this side.
        others: types of the other side.
        foreign: fields that only the other side's intents and results have.
    """
    event = line.event
    kind = event["type"] if type(event.get("type")) is str else ""
    read = own.get(kind)
    if read is None:
        known = kind in others or kind in FIRST
        return Odd(line.number, "entry-misplaced" if known else "entry-unknown", _type(event), "")
    if kind in _BOTH and not foreign.isdisjoint(event):
        return Odd(line.number, "entry-misplaced", _type(event), "")
    try:
        return read(line, tip)
    except OddError as error:
        return Odd(line.number, "entry-malformed", _type(event), str(error))


def _type(event: Event) -> str:
    return str(event["type"])[:40] if type(event.get("type")) is str else "?"


def _charge(line: Line, _tip: str) -> Charge:
    e = line.event
    return Charge(
        line.number,
        line.hash,
        fields.whole(e, "round"),
        fields.whole(e, "attempt", 1),
        fields.release(e),
        fields.digest(e, "task"),
        fields.names(e, "cohort"),
        fields.price(e),
        fields.text(e, "noise_source"),
    )


def _sum(line: Line, _tip: str) -> Sum:
    """Fields that an exchange without receipts does not write count as empty; that they lack shows in the checks."""
    e = {"declined": [], "failed": [], "aborted": False, "why": "", "receipts": [], **line.event}
    return Sum(
        line.number,
        fields.whole(e, "round"),
        fields.whole(e, "attempt", 1),
        fields.release(e),
        fields.whole(e, "survivors"),
        fields.names(e, "declined"),
        fields.names(e, "failed"),
        fields.number(e, "sum_sigma"),
        fields.digest(e, "sum"),
        fields.flag(e, "aborted"),
        fields.long_text(e, "why"),
        fields.receipts(e),
    )


def _head(line: Line, tip: str) -> Head:
    return Head(line.number, fields.whole(line.event, "round"), tip, fields.signature(line.event))


def _kept(line: Line, _tip: str) -> Kept:
    if line.event["type"] != "end":
        fields.whole(line.event, "round")
    return Kept(line.number, line.event)


def _pin(line: Line, _tip: str) -> Pin:
    e = line.event
    named = fields.mapping(e, "plan")
    return Pin(
        line.number,
        fields.text(e, "run"),
        fields.kind(e),
        plan_of(named)[0],
        named,
        fields.text(e, "catalogue"),
        fields.digest(e, "server"),
    )


def _payment(line: Line, _tip: str) -> Payment:
    e = line.event
    return Payment(
        line.number,
        fields.text(e, "client"),
        fields.text(e, "run"),
        fields.whole(e, "round"),
        fields.whole(e, "attempt", 1),
        fields.release(e),
        fields.digest(e, "task"),
        fields.digest(e, "server"),
        fields.day(e),
        fields.price(e),
        fields.number(e, "share_sigma"),
        fields.text(e, "noise_source"),
    )


def _sealed(line: Line, _tip: str) -> Sealed:
    e = line.event
    return Sealed(
        line.number,
        fields.text(e, "client"),
        fields.text(e, "run"),
        fields.whole(e, "round"),
        fields.whole(e, "attempt", 1),
        fields.release(e),
        fields.digest(e, "sealed"),
    )


def _refusal(line: Line, _tip: str) -> Refusal:
    e = line.event
    return Refusal(
        line.number,
        fields.text(e, "client"),
        fields.long_text(e, "clause"),
        fields.text(e, "run") if "run" in e else None,
        fields.whole(e, "round") if "round" in e else None,
        fields.release(e) if "release" in e else None,
    )


_BOTH: Final = frozenset({"intent", "result"})
_SERVERS_FIELDS: Final = frozenset({"cohort", "survivors"})
_CLIENTS_FIELDS: Final = frozenset({"client"})
_SERVER: Final[Mapping[str, Callable[[Line, str], ServerRecord]]] = {
    "intent": _charge,
    "result": _sum,
    "head": _head,
    "decision": _kept,
    "order": _kept,
    "end": _kept,
}
_CLIENT: Final[Mapping[str, Callable[[Line, str], ClientRecord]]] = {
    "plan": _pin,
    "intent": _payment,
    "result": _sealed,
    "decline": _refusal,
    "head": _head,
}
