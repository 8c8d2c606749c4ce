"""To be forgotten, with a receipt: what went, what was looked through for remnants, signed by this client's own key.

What was learned for the person from the events goes with them. The ledger stays: what was released cannot be called
back, and a budget that was spent must not come back with an empty vault. A copy of the whole folder from before, a
backup say, is beyond a device's reach while the vault key of then is: ``fedrecall-client rotate-key`` afterwards takes
that away, too, for whoever has no copy of the key.

Formal guarantees: none of differential privacy; epsilon that was spent before stays spent.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client.behaviour import pseudonym
from client.home import Home
from client.vault import Forgotten, open_vault
from shared.errors import DataError
from shared.files import sync_folder, write_atomically
from shared.keys import own_key
from shared.privacy.ledger import public_hex

_FORMAT: Final = "fedrecall-forgotten-1"
_PURPOSE: Final = "forgotten"
_MALFORMED: Final = (AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Receipt:
    """A signed statement of this device on what it forgot.

    Attributes:
        number: counted from 1.
        time: unix seconds.
        items: pseudonyms, 64 hex digits each: whoever has the vault open can tell which items are meant
            (:func:`names`), nobody else; None = any item.
        before: only what was older, unix seconds; None = of any time.
        forgotten: what was done.
        key: the client's public key, hex.
    """

    number: int
    time: float
    items: tuple[str, ...] | None
    before: float | None
    forgotten: Forgotten
    key: str


def forget(
    home: Home, key: bytes, items: Collection[str] | None = None, before: float | None = None, *, now: float
) -> Receipt:
    """Forget, prove it, and leave a receipt in ``forgotten/``. Interrupted or refused, it is called again.

    Args:
        home: whose vault.
        key: the vault's.
        items: of these items; None = of any.
        before: only what is older, unix seconds; None = of any time. Neither = everything.
        now: unix seconds.

    Raises:
        DataError: see :meth:`client.vault.Vault.forget`, or the ledger's key is broken; there is no receipt then.
        OSError: the disk refuses; what is forgotten by then stays forgotten.
    """
    signer = own_key(home.ledger_key)  # first: what cannot be signed is not begun
    with open_vault(home.vault, key) as vault:
        meant = None if items is None else tuple(sorted(_named(one, vault.secret()) for one in set(items)))
        done = vault.forget(items, before)
    home.adapted.unlink(missing_ok=True)
    sync_folder(home.folder)
    with (home.folder / ".forgotten.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes at once leave two receipts
        number = 1 + max((int(path.stem) for path in _receipts(home)), default=0)
        receipt = Receipt(number, now, meant, before, done, public_hex(signer))
        said = asdict(receipt)
        content = said | {"format": _FORMAT, "signature": signer.sign(_signed(said)).hex()}
        write_atomically(home.forgotten / f"{number:06d}.json", json.dumps(content, indent=1, sort_keys=True).encode())
    return receipt


def receipts(home: Home) -> list[Receipt]:
    """All that this device wrote, oldest first.

    Raises:
        DataError: one is broken, or not signed by this device's key.
    """
    key = public_hex(own_key(home.ledger_key))
    return [check_receipt(path, key) for path in _receipts(home)]


def check_receipt(path: Path, key: str) -> Receipt:
    """A receipt, if the client of ``key`` (hex) signed it.

    Raises:
        DataError: broken, changed, or another client's.
    """
    try:
        said: dict[str, Any] = json.loads(path.read_bytes())
        signature = bytes.fromhex(said.pop("signature"))
        good = said.pop("format") == _FORMAT and said["key"] == key
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, _signed(said))
        items = None if said["items"] is None else tuple(said["items"])
        receipt = Receipt(**said | {"items": items, "forgotten": Forgotten(**said["forgotten"])})
    except InvalidSignature as error:
        raise DataError(f"{path}: not signed by {key[:16]}…, or changed since") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except _MALFORMED as error:
        raise DataError(f"{path}: not a receipt ({type(error).__name__}: {error})") from error
    if not good:
        raise DataError(f"{path}: not a receipt of {key[:16]}…")
    return receipt


def names(receipt: Receipt, item: str, secret: bytes) -> bool:
    """Whether a receipt is about an item, for whoever has the vault's secret."""
    return receipt.items is None or _named(item, secret) in receipt.items


def _named(item: str, secret: bytes) -> str:
    return pseudonym(item, secret, _PURPOSE).hex()


def _receipts(home: Home) -> list[Path]:
    return sorted(path for path in home.forgotten.glob("*.json") if path.stem.isdecimal())


def _signed(said: dict[str, Any]) -> bytes:
    """The bytes under the signature: the receipt's fields in one spelling."""
    return f"{_FORMAT}\n{json.dumps({one.name: said[one.name] for one in fields(Receipt)}, sort_keys=True)}".encode()
