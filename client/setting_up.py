"""A new device's folder."""

from __future__ import annotations

import secrets
from pathlib import Path

from client.consent import Consent, write_consent
from client.enrolling import node_key
from client.home import Home
from client.settings import Settings, write_settings
from client.vault import open_vault
from client.vault_key import new_key
from shared.errors import DataError
from shared.files import write_atomically
from shared.keys import own_key


def make_device(folder: Path, port: int, passphrase: str | None) -> Home:
    """Make a device; ``device.toml`` is written last and makes it one.

    Args:
        folder: where; may be there, but with no device in it.
        port: of the local API; 0 = none.
        passphrase: that the vault's key is kept under; None = the system's keyring keeps it.

    Raises:
        DataError: there is a device, or what a half-made one left; or the passphrase is too short.
        OSError: the disk refuses.
    """
    home = Home(folder.resolve())
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise DataError(f"{folder}: not empty; a device gets a folder of its own")
    folder.chmod(0o700)
    key = new_key(home, passphrase)
    with open_vault(home.vault, key):
        own_key(home.ledger_key)
        node_key(home)
    write_atomically(home.token, secrets.token_urlsafe(32).encode(), mode=0o600)
    write_consent(Consent(), home.consent)
    write_settings(Settings(api_port=port), home)
    return home
