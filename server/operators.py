"""Who may do what with a server: names, roles and hashes of tokens, in ``operators.json``.

A role holds all that those before it hold. Tokens have 256 random bits, so that a plain SHA-256 of one gives nothing
away: there is no dictionary to try. A change counts from the next request on.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from server.house import OWNER_ONLY, House
from shared.errors import ConfigError
from shared.files import write_atomically

Role = Literal["view", "run", "approve"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}"


@dataclass(frozen=True)
class Operator:
    """Somebody with a token.

    Attributes:
        name: what orders and the log call them.
        role: "view" looks; "run" also pauses, begins, invites and revokes; "approve" also lets clients in and decides
            about the policy.
        token: SHA-256 of the token, hex.
        since: ISO time.
    """

    name: str
    role: Role
    token: str
    since: str


@dataclass(frozen=True)
class Credential:
    """What an operator needs, and nothing of the house: where the operator API is, how to know it, the token.

    Attributes:
        api: host:port.
        ca: PEM certificate of the house's authority.
        token: secret.
    """

    api: str
    ca: str
    token: str


def add_operator(house: House, name: str, role: str, now: datetime) -> Credential:
    """A new operator; the token is in what is returned and nowhere else.

    Raises:
        ConfigError: a name that is taken or malformed; no such role.
    """
    if re.fullmatch(_NAME, name) is None:
        raise ConfigError(f"operator {name[:80]!r}: expected a name of letters, digits and . _ @ -, at most 63 of them")
    known: Role | None = next((each for each in ROLES if each == role), None)
    if known is None:
        raise ConfigError(f"role {role[:80]!r}: expected one of {', '.join(ROLES)}")
    token = secrets.token_urlsafe(32)
    with changing(house):
        operators = read_operators(house)
        if any(each.name == name for each in operators):
            raise ConfigError(f"operator {name!r} is there already; remove it first: fedrecall-server operator remove")
        _write(house, (*operators, Operator(name, known, _hash(token), now.isoformat(timespec="seconds"))))
    return Credential(f"127.0.0.1:{house.config().service.operator_port}", house.ca.read_text("ascii"), token)


def remove_operator(house: House, name: str) -> None:
    """Take an operator's token away.

    Raises:
        ConfigError: there is no such operator.
    """
    with changing(house):
        operators = read_operators(house)
        left = tuple(each for each in operators if each.name != name)
        if len(left) == len(operators):
            raise ConfigError(
                f"operator {name[:80]!r}: not among {', '.join(each.name for each in operators) or 'any'}"
            )
        _write(house, left)


def read_operators(house: House) -> tuple[Operator, ...]:
    """All operators; none before there is a file.

    Raises:
        ConfigError: the file is broken: nobody is let in by half a file.
    """
    if not house.operators.exists():
        return ()
    try:
        raw = json.loads(house.operators.read_bytes())
        operators = tuple(Operator(**each) for each in raw)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{house.operators}: not a list of operators ({type(error).__name__})") from error
    for each in operators:
        if each.role not in ROLES or re.fullmatch(r"[0-9a-f]{64}", str(each.token)) is None:
            raise ConfigError(f"{house.operators}: operator {each.name!r} has no known role, or no SHA-256 of a token")
    return operators


def operator_of(house: House, token: str) -> Operator | None:
    """Whose token it is; None = nobody's. Every hash is compared, whatever the token, in constant time.

    Raises:
        ConfigError: the file is broken.
    """
    found, said = None, _hash(token)
    for each in read_operators(house):
        if hmac.compare_digest(each.token, said):
            found = each
    return found


def may(operator: Operator, role: Role) -> bool:
    """Whether an operator's role holds ``role``."""
    return ROLES.index(operator.role) >= ROLES.index(role)


def write_credential(credential: Credential, path: Path) -> None:
    """Write a credential, readable by its owner only.

    Raises:
        OSError: the disk refuses.
    """
    write_atomically(path, (json.dumps(asdict(credential), indent=1) + "\n").encode(), mode=OWNER_ONLY)


def read_credential(path: Path) -> Credential:
    """Read a credential.

    Raises:
        ConfigError: missing or broken; the token is not repeated.
    """
    try:
        raw: dict[str, Any] = dict(json.loads(path.read_bytes()))
        credential = Credential(**raw)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not a credential; make one: fedrecall-server operator add") from error
    if not all(isinstance(value, str) for value in raw.values()):
        raise ConfigError(f"{path}: not a credential; make one: fedrecall-server operator add")
    return credential


@contextmanager
def changing(house: House) -> Iterator[None]:
    """One change of the house's lists at a time, whichever process makes it.

    Raises:
        OSError: the disk refuses.
    """
    with (house.folder / ".change.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _write(house: House, operators: tuple[Operator, ...]) -> None:
    content = json.dumps([asdict(each) for each in operators], indent=1) + "\n"
    write_atomically(house.operators, content.encode(), mode=OWNER_ONLY)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
