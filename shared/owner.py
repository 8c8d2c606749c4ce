"""Whose a folder is."""

from __future__ import annotations

import os
from pathlib import Path

from shared.errors import ConfigError


def check_own(folder: Path) -> None:
    """That a folder is this account's: its owner could not read what another account, root say, wrote into it.

    Raises:
        ConfigError: it belongs to another account.
    """
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise ConfigError(f"{folder}: belongs to account {owner}; run this as that account: sudo -u '#{owner}' ...")
