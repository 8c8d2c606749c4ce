"""Persons' orders about the policy: small files in the run's folder, carried out between rounds.

::

    RUN/orders/NAME.json        waits; names begin with the time, so that sorted by name is first come, first served
    RUN/orders/taken/           in hand, one at a time
    RUN/orders/done/            carried out
    RUN/orders/refused/         refused, with the sentence beside it in NAME.txt

An order is taken, written into the ledger under a signed head, closed by a checkpoint, and put away; each step is on
disk before the next. Killed in between, the order in hand is the first that the next process sees: it carries it out,
or only puts it away if the ledger holds it already. So an order counts once, whatever happens. A seeded run that
repeats what it did before it was killed repeats the ledger's orders, and looks at the folder again behind them.

Who may write into the run's folder may give orders; names and reasons in them are claims. What an order does is decided
in ``shared/policy/orders.py``, which an auditor replays.
"""

from __future__ import annotations

import json
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from server.checkpoint import State, load_state
from server.desk import Desk
from shared.errors import FedrecallError, ProtocolError, RunError
from shared.files import sync_folder, write_atomically
from shared.policy.control import after_order, memory_from_dict, memory_to_dict
from shared.policy.orders import (
    Order,
    OrderKind,
    Ruling,
    apply_order,
    order_from_dict,
    order_to_dict,
    proposal_from_dict,
    proposal_to_dict,
    versions_of,
)
from shared.policy.recall_policy import RecallPolicy, policy_from_dict, policy_to_dict
from shared.privacy.chain import read_ledger
from shared.privacy.ledger import Ledger

ORDERS: Final = "orders"
LEDGER: Final = "ledger.jsonl"
CHECKPOINT: Final = "checkpoint.safetensors"
LARGEST: Final = 1 << 16  # bytes of an order

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """What a person sees before ordering anything.

    Attributes:
        state: of the last checkpoint.
        versions: every policy that was in force, by version.
        events: decisions and orders so far, oldest first.
        waiting: orders that were given and not read yet, oldest first; None for a file that is no order.
    """

    state: State
    versions: Mapping[int, RecallPolicy]
    events: tuple[Event, ...]
    waiting: Mapping[str, Order | None]


def oversee(desk: Desk, state: State, close: Callable[[State], State]) -> State:
    """Carry out every order that lies in the run's folder; one that does not fit is refused and changes nothing.

    Args:
        desk: of the run; its ledger gets a line an order.
        state: after the last round.
        close: writes the checkpoint.

    Raises:
        LedgerError: the ledger cannot be read.
        OSError: the disk refuses.
    """
    while (ahead := _ahead(desk.ledger)) is not None and ahead["type"] == "order":
        state = _stand(desk, state, ahead, close)
    if ahead is None:
        for path in _due(desk.folder / ORDERS):
            state = _carry_out(desk, state, path, close)
    return state


def refuse_rest(folder: Path, stopped: str) -> None:
    """Put away the orders that nobody will read any more, since the run has ended.

    Args:
        folder: of the run.
        stopped: why there is no other round.
    """
    for path in _due(folder / ORDERS):
        _put_away(folder / ORDERS, path, f"the run has ended ({stopped}): its policy is frozen")


def after_event(state: State, event: Event) -> State:
    """The state after an order, from its line in the ledger.

    Raises:
        ProtocolError: the line cannot be read.
    """
    given = event["order"] or {}
    said = {
        "file": event["file"],
        "order": given.get("kind"),
        "who": given.get("who"),
        "when": given.get("when"),
        "why": given.get("why"),
        "outcome": event["outcome"],
        "reason": event["reason"],
        "version": event["after"]["version"],
    }
    return replace(
        state,
        policy=policy_from_dict(event["after"]),
        controller=memory_from_dict(event["memory"]),
        pending=None if event["pending"] is None else proposal_from_dict(event["pending"]),
        orders=(*state.orders, said),
    )


def give_order(folder: Path, order: Order) -> Path:
    """Leave an order for the run that has, or will have, this folder; where it lies.

    Raises:
        RunError: the folder cannot be written.
    """
    path = folder / ORDERS / f"{order.id}.json"
    try:
        write_atomically(path, json.dumps(order_to_dict(order), indent=1).encode())
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from error
    return path


def standing(folder: Path) -> Standing:
    """How the policy of a run stands, as its last checkpoint knows it; the run may be going on meanwhile.

    Raises:
        RunError: no checkpoint, or a broken one.
        LedgerError: the ledger is missing or broken.
    """
    if not (folder / CHECKPOINT).is_file():
        raise RunError(f"{folder}: no run here that has closed a round ({CHECKPOINT} is missing)")
    state = load_state(folder / CHECKPOINT)
    events = _events(folder / LEDGER, state.ledgers.get(LEDGER, 0))
    waiting: dict[str, Order | None] = {}
    for path in _due(folder / ORDERS):
        try:
            waiting[path.stem] = read_order(path)
        except FedrecallError:
            waiting[path.stem] = None
    return Standing(state, versions_of(events, state.policy), events, waiting)


def would_come_of(order: Order, stands: Standing) -> Ruling:
    """What would come of an order if no round came before it; those that wait already are carried out first."""
    policy, pending, versions = stands.state.policy, stands.state.pending, stands.versions
    for earlier in [*filter(None, stands.waiting.values()), order]:
        ruling = apply_order(earlier, policy, pending, versions)
        policy, pending = ruling.policy, ruling.pending
        versions = {**versions, policy.version: policy}
    return ruling


def place_order(
    folder: Path,
    kind: OrderKind,
    *,
    who: str,
    why: str,
    now: datetime,
    proposal: str | None = None,
    version: int | None = None,
) -> tuple[Order, Ruling, Path]:
    """Check an order against what the run looks like now, then leave it there; named by its time, first come first.

    Args:
        folder: of the run.
        kind, who, why: of the order.
        now: with its zone.
        proposal: which one is answered (approve, reject); None = the one that waits.
        version: which one is to come back (rollback).

    Returns:
        The order, what will come of it if no round comes before it, and where it lies.

    Raises:
        RunError: the run has ended or closed no round yet, or the order would be refused.
        ProtocolError: a field of the order is malformed.
    """
    stands = standing(folder)
    if stands.state.stopped is not None:
        raise RunError(f"{folder}: the run has ended ({stands.state.stopped}): its policy is frozen")
    if kind in {"approve", "reject"} and proposal is None:
        if stands.state.pending is None:
            raise RunError(f"no proposal waits, so there is nothing to {kind}")
        proposal = stands.state.pending.id
    order = order_from_dict(
        {
            "id": f"{now:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}-{kind}",
            "kind": kind,
            "who": who,
            "when": now.isoformat(timespec="seconds"),
            "why": why,
            "proposal": proposal,
            "version": version,
            "seen": stands.state.policy.version if kind == "rollback" else None,
        }
    )
    ruling = would_come_of(order, stands)
    if ruling.outcome == "refused":
        raise RunError(f"{folder}: {ruling.reason}")
    return order, ruling, give_order(folder, order)


def read_order(path: Path) -> Order:
    """An order from its file.

    Raises:
        ProtocolError: the file is no order; says why.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ProtocolError("not a plain file")
        if status.st_size > LARGEST:
            raise ProtocolError(f"{status.st_size} bytes, an order has at most {LARGEST}")
        order = order_from_dict(json.loads(path.read_bytes()))
    except OSError as error:
        raise ProtocolError(f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    if order.id != path.stem:
        raise ProtocolError(f"order.id: {order.id!r}, must be the file's name, {path.stem[:100]!r}")
    return order


def _carry_out(desk: Desk, state: State, path: Path, close: Callable[[State], State]) -> State:
    folder, name = desk.folder / ORDERS, path.name
    events = _events(desk.ledger.path, desk.ledger.count)
    known = [event for event in events if event["type"] == "order" and event["file"] == name]
    if path.parent == folder:
        _move(path, folder / "taken")
    elif known:
        _put_away(folder, path, _sentence(known[-1]))
        return state
    event = _event(state, folder / "taken" / name, events, given_before=bool(known))
    state = _stand(desk, state, event, close)
    _put_away(folder, folder / "taken" / name, _sentence(event))
    return state


def _stand(desk: Desk, state: State, event: Event, close: Callable[[State], State]) -> State:
    """Write an order down, and close it."""
    desk.ledger.append([event], head=max(0, state.round))
    return close(after_event(state, event))


def _ahead(ledger: Ledger) -> Event | None:
    """What a seeded run wrote next before it was killed, and writes again now; None = what comes is new."""
    lines = ledger.expected[ledger.count - ledger.start :]
    event: Event | None = json.loads(lines[0])["event"] if lines else None
    return event


def _event(state: State, path: Path, events: tuple[Event, ...], *, given_before: bool) -> Event:
    """The ledger's line of an order: who, when, why, what changed; enough to replay it."""
    order, ruling = None, Ruling("refused", "", state.policy, state.pending)
    try:
        order = read_order(path)
    except ProtocolError as error:
        ruling = replace(ruling, reason=f"not an order: {error}")
    else:
        if given_before:
            order, ruling = None, replace(ruling, reason="an order of this name was dealt with already")
        else:
            ruling = apply_order(order, state.policy, state.pending, versions_of(events, state.policy))
    return {
        "type": "order",
        "round": state.round,
        "file": path.name,
        "order": None if order is None else order_to_dict(order),
        "outcome": ruling.outcome,
        "reason": ruling.reason,
        "before": policy_to_dict(state.policy),
        "after": policy_to_dict(ruling.policy),
        "pending": None if ruling.pending is None else proposal_to_dict(ruling.pending),
        "memory": memory_to_dict(after_order(state.controller, ruling)),
    }


def _events(path: Path, lines: int) -> tuple[Event, ...]:
    """Decisions and orders among the first lines of a ledger; what may stand behind them is not read."""
    events = (line.event for line in islice(read_ledger(path), lines))
    return tuple(event for event in events if event["type"] in {"decision", "order"})


def _due(folder: Path) -> list[Path]:
    """The order in hand first, then those that wait, oldest first."""
    return sorted((folder / "taken").glob("*.json")) + sorted(folder.glob("*.json"))


def _sentence(event: Event) -> str | None:
    return str(event["reason"]) if event["outcome"] == "refused" else None


def _put_away(folder: Path, path: Path, refused: str | None) -> None:
    """From wherever it lies to where it ends; ``refused`` says why it was, None = it was carried out."""
    if refused is not None:
        write_atomically(folder / "refused" / f"{path.stem}.txt", f"{refused}\n".encode())
    _move(path, folder / ("done" if refused is None else "refused"))


def _move(path: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    path.replace(folder / path.name)
    sync_folder(folder)
    sync_folder(path.parent)
