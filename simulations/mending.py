"""What a killed simulation left behind, made fit to go on, beyond what a deployment does (``server/resuming.py``)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from server.resuming import SERVER_LEDGER, begun
from shared.errors import RunError
from shared.privacy.ledger import read_ledger
from simulations.download import sha256_of

CONFIG: Final = "config.toml"
CLIENT_LEDGER: Final = "clients.jsonl"
_KEYS: Final = {SERVER_LEDGER: "server.pem", CLIENT_LEDGER: "clients.pem"}


def founded(folder: Path) -> str | None:
    """The run's name in its ledger; None when nothing was written yet.

    Raises:
        RunError: the configuration beside the ledger is not the one that the run began with.
    """
    path = folder / SERVER_LEDGER
    if not begun(path):
        return None
    first = next(read_ledger(path))
    if first.event["config"] != sha256_of(folder / CONFIG):
        raise RunError(
            f"{folder / CONFIG}: changed since the run began, so its promise would no longer be the one in {path}; "
            "put the old file back, or start a new run with it"
        )
    return str(first.event["run"])


def clear(folder: Path, *, everything: bool) -> None:
    """Before the first checkpoint: take away the ledgers that hold no whole line, and the keys that so signed nothing.

    Args:
        folder: of the run.
        everything: the simulation is seeded and repeats all of it, byte for byte: take away both ledgers as they are.
    """
    for ledger, key in _KEYS.items():
        if everything or not begun(folder / ledger):
            (folder / ledger).unlink(missing_ok=True)
            (folder / "keys" / key).unlink(missing_ok=True)
