"""How a vault's key is kept: in the system's keyring where there is one, else wrapped under a passphrase.

A passphrase is stretched by scrypt (C. Percival, RFC 7914) with n = 2^17, r = 8, p = 1, 128 MiB for about half a
second, as OWASP's Password Storage Cheat Sheet asks; the key is then sealed by AES-256-GCM. What is on disk is
``vault-key.json``: where the key is, or its wrapped form with scrypt's numbers. While a key is being changed, two keys
stand there; whichever opens the vault is the one in force, so that a change can be killed anywhere.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from client.home import Home
from client.sealing import KEY, Unreadable, seal, unseal
from client.vault import WrongKeyError, open_vault, opens
from shared.errors import DataError
from shared.files import write_atomically

COST: Final = 1 << 17  # scrypt's n
SHORTEST: Final = 8  # characters of a passphrase: NIST SP 800-63B, section 5.1.1.2
_SERVICE: Final = "fedrecall"
_FORMAT: Final = 1
_PLACE: Final = "vault key"
_COSTS: Final = range(1 << 14, (1 << 20) + 1)
_MALFORMED: Final = (AttributeError, KeyError, TypeError, ValueError)
Entry = Mapping[str, Any]


def keyring_there() -> bool:
    """Whether the system has a keyring that keeps a key safe: an installed backend that is recommended."""
    try:
        import keyring.core  # noqa: PLC0415 - an optional extra
    except ImportError:
        return False
    return bool(keyring.core.recommended(keyring.get_keyring()))


def new_key(home: Home, passphrase: str | None) -> bytes:
    """A key for a vault to come, kept.

    Args:
        home: has no key yet.
        passphrase: what it is wrapped under; None = the system's keyring keeps it.

    Returns:
        32 bytes.

    Raises:
        DataError: there is a key already, the passphrase is too short, or the keyring refuses.
        OSError: the disk refuses.
    """
    with _locked(home):
        if home.vault_key.exists():
            raise DataError(f"{home.vault_key}: there is a key already; change it with: fedrecall-client rotate-key")
        if home.vault.exists():
            raise DataError(f"{home.vault}: there is a vault already, whose key is missing; restore {home.vault_key}")
        key = os.urandom(KEY)
        _write(home, [_kept(key, passphrase)])
        return key


def unlock(home: Home, passphrase: Callable[[], str]) -> bytes:
    """The vault's key.

    Args:
        home: where it is kept.
        passphrase: asks for it; not called where a keyring keeps the key.

    Raises:
        WrongKeyError: another passphrase.
        DataError: the key is lost, its file is broken, or the keyring refuses.
    """
    with _locked(home):
        return _settled(home, _asked_once(passphrase))


def rotate(home: Home, passphrase: Callable[[], str], fresh: str | None) -> bytes:
    """Another key for the vault; every page is sealed anew. Killed anywhere, one of the two keys opens it.

    Args:
        home: where the key is kept.
        passphrase: asks for the one until now, where there is one.
        fresh: the passphrase from now on; None = the system's keyring keeps the new key.

    Returns:
        The new key; whoever has the vault open with the old one must unlock it again.

    Raises:
        WrongKeyError: another passphrase.
        DataError: as for :func:`unlock` and :func:`new_key`.
        OSError: the disk refuses; the old key still opens the vault.
    """
    with _locked(home):
        old = _settled(home, _asked_once(passphrase))
        before = _read(home)
        key = os.urandom(KEY)
        after = _kept(key, fresh)
        _write(home, [*before, after])
        with open_vault(home.vault, old) as vault:
            vault.rekey(key)
        _keep_only(home, after, [*before, after])
        return key


def _settled(home: Home, passphrase: Callable[[], str]) -> bytes:
    """The key in force; of a change that was interrupted, the other one is given up."""
    entries = _read(home)
    if len(entries) == 1:
        return _revealed(home, entries[0], passphrase)
    for entry in entries:
        try:
            key = _revealed(home, entry, passphrase)
        except WrongKeyError:
            continue
        if opens(home.vault, key):
            _keep_only(home, entry, entries)
            return key
    raise WrongKeyError(
        f"{home.vault_key}: the passphrase is wrong; a change of it was interrupted, so try both the old and the new"
    )


def _kept(key: bytes, passphrase: str | None) -> Entry:
    """Keep a key.

    Returns:
        What the file says of it.
    """
    if passphrase is None:
        name = os.urandom(8).hex()
        _in_keyring("set_password", name, key.hex())
        return {"kept": "keyring", "name": name}
    if len(passphrase) < SHORTEST:
        raise DataError(f"a passphrase of {len(passphrase)} characters; at least {SHORTEST}")
    salt = os.urandom(16)
    wrapped = seal(_stretched(passphrase, salt, COST, 8, 1), _PLACE, key)
    return {"kept": "passphrase", "n": COST, "r": 8, "p": 1, "salt": salt.hex(), "wrapped": wrapped.hex()}


def _revealed(home: Home, entry: Entry, passphrase: Callable[[], str]) -> bytes:
    if entry["kept"] == "keyring":
        found = _in_keyring("get_password", entry["name"])
        if found is None:
            raise DataError(f"{home.vault_key}: the system's keyring has no entry {_SERVICE}/{entry['name']} any more")
        if not re.fullmatch(f"[0-9a-f]{{{2 * KEY}}}", found):
            raise DataError(f"{home.vault_key}: the keyring's entry {_SERVICE}/{entry['name']} is not a vault's key")
        return bytes.fromhex(found)
    wrapping = _stretched(passphrase(), bytes.fromhex(entry["salt"]), entry["n"], entry["r"], entry["p"])
    try:
        return unseal(wrapping, _PLACE, bytes.fromhex(entry["wrapped"]))
    except Unreadable as error:
        raise WrongKeyError(f"{home.vault_key}: the passphrase is wrong") from error


def _keep_only(home: Home, entry: Entry, entries: Sequence[Entry]) -> None:
    """Give up the other keys: in the file first, so that it never names one that is lost."""
    _write(home, [entry])
    for other in entries:
        if other != entry and other["kept"] == "keyring":
            _in_keyring("delete_password", other["name"])


def _stretched(passphrase: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    """The key that a passphrase stands for; typed on any keyboard, it is the same text (NFKC)."""
    text = unicodedata.normalize("NFKC", passphrase).encode()
    return Scrypt(salt=salt, length=KEY, n=cost, r=block, p=lanes).derive(text)


def _in_keyring(method: Literal["get_password", "set_password", "delete_password"], *said: str) -> str | None:
    """What the system's keyring answers.

    Raises:
        DataError: there is none, or it refuses.
    """
    if not keyring_there():
        raise DataError("no keyring here (it takes fedrecall[keyring] and a desktop's login); use a passphrase")
    import keyring  # noqa: PLC0415 - an optional extra
    from keyring.errors import KeyringError  # noqa: PLC0415 - as above

    try:
        answer: str | None = getattr(keyring, method)(_SERVICE, *said)
    except KeyringError as error:
        raise DataError(f"the system's keyring refuses ({type(error).__name__}: {error}); unlock it") from error
    return answer


def _read(home: Home) -> list[Entry]:
    """What the file says.

    Raises:
        DataError: it is missing or broken.
    """
    try:
        said = json.loads(home.vault_key.read_bytes())
        entries = list(said["keys"])
        good = said["format"] == _FORMAT and 1 <= len(entries) <= 2 and all(map(_is_entry, entries))
    except FileNotFoundError as error:
        raise DataError(f"{home.vault_key}: no such file; without it nothing opens the vault") from error
    except _MALFORMED as error:
        raise DataError(f"{home.vault_key}: not a vault's key file ({type(error).__name__}: {error})") from error
    if not good:
        raise DataError(f"{home.vault_key}: not a vault's key file of format {_FORMAT}")
    return entries


def _is_entry(entry: Entry) -> bool:
    if entry["kept"] == "keyring":
        return set(entry) == {"kept", "name"} and type(entry["name"]) is str
    numbers = all(type(entry[name]) is int for name in ("n", "r", "p"))
    bounded = numbers and entry["n"] in _COSTS and entry["n"].bit_count() == 1 and entry["r"] == 8 and entry["p"] == 1
    return bounded and entry["kept"] == "passphrase" and bool(bytes.fromhex(entry["salt"] + entry["wrapped"]))


def _write(home: Home, entries: Sequence[Entry]) -> None:
    content = json.dumps({"format": _FORMAT, "keys": entries}, indent=1).encode()
    write_atomically(home.vault_key, content, mode=0o600)


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    """One process at a time."""
    with (home.folder / ".vault-key.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _asked_once(passphrase: Callable[[], str]) -> Callable[[], str]:
    said: list[str] = []

    def ask() -> str:
        if not said:
            said.append(passphrase())
        return said[0]

    return ask
