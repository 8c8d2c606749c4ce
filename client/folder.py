"""A client's folder on its own machine: its store, its key, its ledger, the public catalogue."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.host import Host, Randomness
from client.store import load_store
from shared.catalogue import load_catalogue
from shared.keys import own_key
from shared.privacy.noise import os_noise


def client_folder(home: Path, partition: int) -> Path:
    """Where client number ``partition`` keeps its things."""
    return home / "clients" / f"{partition:06d}"


def open_host(home: Path, partition: int) -> Host:
    """The host of one client.

    Args:
        home: holds ``catalogue.npz`` and the clients' folders.
        partition: which client; chosen by this side.

    Raises:
        DataError: the folder is not there or broken.
        LedgerError: the ledger is broken or in use.
    """
    folder = client_folder(home, partition)
    catalogue = load_catalogue(home / "catalogue.npz")
    store = load_store(folder / "store.npz", len(catalogue.ids))
    key = own_key(folder / "ledger-key.pem")
    return Host({store.client: store}, catalogue, folder / "ledger.jsonl", key, system_randomness())


def system_randomness() -> Randomness:
    """Chance for a deployment: nothing is seeded, nothing comes from a peer."""
    return Randomness(
        noise=lambda _client, _round, _release: os_noise(), rng=lambda _user, _round: np.random.default_rng()
    )
