"""Letting clients in and out: invitations that work once, clients by their keys, and the registrar's word on them.

An invitation is used by the line of ``clients.json`` that names it, so that letting a client in and burning the code is
one write of one file; the code is wiped from ``invitations.json`` afterwards. What the SuperLink knows follows from
``clients.json`` (:func:`settle`): nothing is lost when it is down, or killed in between.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from server.house import OWNER_ONLY, House
from server.operators import changing
from shared.enrolment import EnrolRequest, Pass, check_request
from shared.errors import DataError, RunError
from shared.files import write_atomically
from shared.keys import own_key
from shared.privacy.ledger import public_hex
from shared.secagg.client import registration

LONGEST_DAYS: Final = 365
MOST_OPEN: Final = 100_000
Standing = Literal["open", "used", "expired", "withdrawn"]


@dataclass(frozen=True)
class IssuedPass:
    """An invitation, as the operator keeps it.

    Attributes:
        id: its public name.
        code: secret; "" once it was used or withdrawn.
        expires: ISO time with zone.
        by: the operator who made it.
        withdrawn: by whom; "" = nobody.
    """

    id: str
    code: str
    expires: str
    by: str
    withdrawn: str = ""


@dataclass(frozen=True)
class Enrolled:
    """A client that was let in.

    Attributes:
        name: the first 16 digits of ``identity``; what ledgers and cohorts call it.
        identity: its ledger key, hex.
        node_key: its node key, OpenSSH form.
        registration: the registrar's signature over ``identity``, hex.
        invitation: which one it used.
        since: ISO time; ``by``: the operator.
        node: Flower's id while its key is registered at the SuperLink; None = it is not.
        revoked: ISO time; None = it is in. A revoked key never comes back.
        revoked_by: the operator; "" = nobody.
    """

    name: str
    identity: str
    node_key: str
    registration: str
    invitation: str
    since: str
    by: str
    node: int | None = None
    revoked: str | None = None
    revoked_by: str = ""


AnyRecord = TypeVar("AnyRecord", IssuedPass, Enrolled)


def invite(house: House, by: str, days: int, now: datetime) -> Pass:
    """A new invitation; the code is in what is returned.

    Raises:
        DataError: days out of range, or more open invitations than anybody hands out.
    """
    if not 1 <= days <= LONGEST_DAYS:
        raise DataError(f"days {days}: an invitation lasts 1 to {LONGEST_DAYS} days")
    expires = (now + timedelta(days=days)).isoformat(timespec="seconds")
    made = IssuedPass(secrets.token_hex(8), secrets.token_hex(20), expires, by)
    with changing(house):
        invitations = read_invitations(house)
        if sum(bool(each.code) for each in invitations) >= MOST_OPEN:
            raise DataError(f"{MOST_OPEN} invitations are open; withdraw some")
        _write(house.invitations, (*invitations, made))
    return Pass(
        address=house.config().service.address,
        ca=house.ca.read_text("ascii"),
        server=public_hex(own_key(house.ledger_key)),
        roster=public_hex(own_key(house.registrar_key)),
        invitation=made.id,
        code=made.code,
        expires=expires,
    )


def withdraw(house: House, invitation: str, by: str) -> None:
    """Make an open invitation worthless.

    Raises:
        DataError: there is no such open invitation.
    """
    with changing(house):
        invitations = read_invitations(house)
        if not any(each.id == invitation and each.code for each in invitations):
            raise DataError(f"invitation {invitation[:40]!r}: none of this name is open")
        changed = [replace(i, code="", withdrawn=by) if i.id == invitation else i for i in invitations]
        _write(house.invitations, tuple(changed))


def standing_of(invitation: IssuedPass, clients: tuple[Enrolled, ...], now: datetime) -> Standing:
    """How an invitation stands."""
    if any(each.invitation == invitation.id for each in clients):
        return "used"
    if not invitation.code:
        return "withdrawn"
    return "open" if now < datetime.fromisoformat(invitation.expires) else "expired"


def approve(house: House, request: EnrolRequest, by: str, now: datetime) -> Enrolled:
    """Let a client in and burn its invitation; the SuperLink hears of it in :func:`settle`.

    Raises:
        DataError: no such open invitation, one that expired or was used, a request that was not made with its code, or
            keys that were seen before.
    """
    with changing(house):
        clients, invitations = read_clients(house), read_invitations(house)
        invitation = next((each for each in invitations if each.id == request.invitation), None)
        stands = "unknown" if invitation is None else standing_of(invitation, clients, now)
        if invitation is None or stands != "open":
            raise DataError(f"invitation {request.invitation} is {stands}: invite the person anew")
        check_request(request, invitation.code)
        for each in clients:
            if request.identity[:16] == each.name or request.node_key == each.node_key:
                raise DataError(f"client {each.name} has one of these keys already; a key is enrolled once, for good")
        word = registration(own_key(house.registrar_key), bytes.fromhex(request.identity))
        name, since = request.identity[:16], now.isoformat(timespec="seconds")
        made = Enrolled(name, request.identity, request.node_key, word.hex(), invitation.id, since, by)
        _write(house.clients, (*clients, made))
        burnt = [replace(each, code="") if each.id == invitation.id else each for each in invitations]
        _write(house.invitations, tuple(burnt))
    return made


def revoke(house: House, name: str, by: str, now: datetime) -> Enrolled:
    """Shut a client out, for good; the SuperLink hears of it in :func:`settle`.

    Raises:
        DataError: there is no such client, or it is out already.
    """
    with changing(house):
        clients = read_clients(house)
        found = next((each for each in clients if each.name == name), None)
        if found is None:
            raise DataError(f"client {name[:40]!r}: none of this name is enrolled")
        if found.revoked is not None:
            raise DataError(f"client {name}: revoked already, on {found.revoked}")
        out = replace(found, revoked=now.isoformat(timespec="seconds"), revoked_by=by)
        _write(house.clients, tuple(out if each is found else each for each in clients))
    return out


def settle(house: House, register: Callable[[str], int], unregister: Callable[[int], None]) -> int:
    """Make the SuperLink know what ``clients.json`` says: register who is in, unregister who was revoked.

    Args:
        house: the server's.
        register: node key -> Flower node id; gives the id of a key that is registered already.
        unregister: takes a node id away; one that is gone is fine.

    Returns:
        How many clients changed.

    Raises:
        RunError: the first of what ``register`` and ``unregister`` raised; the others were settled all the same, so
            that one client whom the SuperLink does not take keeps nobody else out.
    """
    changes, failed = 0, None
    for client in read_clients(house):
        try:
            node = _settled(client, register, unregister)
        except RunError as error:
            failed = failed or error
            continue
        if node != client.node:
            with changing(house):  # the list may have changed while the SuperLink worked: only the id is set
                known = read_clients(house)
                _write(house.clients, tuple(replace(c, node=node) if c.name == client.name else c for c in known))
            changes += 1
    if failed is not None:
        raise failed
    return changes


def _settled(client: Enrolled, register: Callable[[str], int], unregister: Callable[[int], None]) -> int | None:
    """A client's node id once the SuperLink knows what the list says."""
    if client.revoked is None:
        return register(client.node_key) if client.node is None else client.node
    if client.node is not None:
        unregister(client.node)
    return None


def read_invitations(house: House) -> tuple[IssuedPass, ...]:
    """All invitations, oldest first.

    Raises:
        DataError: the file is broken.
    """
    return _read(house.invitations, IssuedPass)


def read_clients(house: House) -> tuple[Enrolled, ...]:
    """All clients, in the order in which they were let in, revoked ones included.

    Raises:
        DataError: the file is broken.
    """
    return _read(house.clients, Enrolled)


def _read(path: Path, shape: type[AnyRecord]) -> tuple[AnyRecord, ...]:
    if not path.exists():
        return ()
    try:
        raw: list[dict[str, Any]] = json.loads(path.read_bytes())
        return tuple(shape(**each) for each in raw)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: not what this server wrote ({type(error).__name__}); put it back from a backup"
        ) from error


def _write(path: Path, records: tuple[AnyRecord, ...]) -> None:
    content = json.dumps([asdict(each) for each in records], indent=1) + "\n"
    write_atomically(path, content.encode(), mode=OWNER_ONLY)
