"""A client's folder on its own machine: its store, its consent, its key, its ledger, the public catalogue.

Two layouts: that of simulated people and of Flower's own SuperNodes (``open_host``), and that of a device
(:mod:`client.home`, ``open_device_host``), whose behaviour lies encrypted.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np

from client.consent import MISSING, Consent, read_consent
from client.home import Home
from client.host import Host, Randomness
from client.session import Seat, seat_bytes, seat_of
from client.settings import read_settings
from client.store import load_store
from client.vault import Vault, store_of
from shared.catalogue import Catalogue, load_catalogue
from shared.errors import ConfigError, DataError
from shared.files import sync_folder
from shared.keys import own_key
from shared.privacy.noise import os_noise
from shared.secagg.keys import SIGNATURE

CONSENT, KEY = "consent.toml", "ledger-key.pem"
SEAT = "seat"  # in a session of secure aggregation, between two of its messages
REGISTRATION = "registration"  # hex: a registrar's signature over this client's key, where consent asks for one


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
    consents, unconsented = _consents(folder / CONSENT, store.client)
    key = own_key(folder / KEY)
    return Host(
        {store.client: store},
        catalogue,
        folder / "ledger.jsonl",
        key,
        system_randomness(),
        consents=consents,
        clock=system_day,
        identity=lambda _client: key,
        registrations=_registrations(folder / REGISTRATION, store.client),
        unconsented=unconsented,
    )


def open_device_host(home: Home, vault: Vault, catalogue: Catalogue, name: str) -> Host:
    """The host of a device, in a process that holds its vault open.

    Args:
        home: the device.
        vault: its behaviour.
        catalogue: the one that the run goes by.
        name: what both sides' ledgers call this client.

    Raises:
        DataError: the vault or a key is broken.
        ConfigError: the device's settings cannot be read.
        LedgerError: the ledger is broken or in use.
    """
    consents, unconsented = _consents(home.consent, name)
    key = own_key(home.ledger_key)
    return Host(
        {name: store_of(vault, catalogue, name)},
        catalogue,
        home.ledger,
        key,
        system_randomness(),
        consents=consents,
        clock=system_day,
        identity=lambda _client: key,
        registrations=_registrations(home.folder / REGISTRATION, name),
        unconsented=unconsented,
        device=read_settings(home).device,
    )


def take_seat(folder: Path) -> Seat | None:
    """A client's seat in a session, taken out for good; None = it sits in none.

    To be called with the client's host open: the lock of its ledger lets one process in, so no step is answered twice,
    however many processes Flower starts at once and whatever becomes of them.

    Raises:
        ProtocolError: what was kept cannot be read; it is forgotten.
        OSError: the disk refuses.
    """
    path = folder / SEAT
    if not path.exists():
        return None
    raw = path.read_bytes()
    path.unlink()
    sync_folder(folder)
    return seat_of(raw)


def keep_seat(folder: Path, seat: Seat) -> None:
    """Keep a seat for the session's next message, readable by its owner only: the session's private keys are in it.

    Raises:
        OSError: the disk refuses; there is no seat then.
    """
    with os.fdopen(os.open(folder / SEAT, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(seat_bytes(seat))


def _consents(path: Path, client: str) -> tuple[Mapping[str, Consent], str]:
    """The client's consent, or the clause why there is none: who cannot be understood has not consented."""
    if not path.exists():
        return {}, MISSING
    try:
        return {client: read_consent(path)}, MISSING
    except ConfigError as error:
        return {}, str(error)


def _registrations(path: Path, client: str) -> dict[str, bytes]:
    """The registrar's signature over this client's key, if one was given.

    Raises:
        DataError: the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        registration = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError as error:
        raise DataError(f"{path}: expected a signature of {SIGNATURE} bytes in hex") from error
    if len(registration) != SIGNATURE:
        raise DataError(f"{path}: a signature of {len(registration)} bytes, expected {SIGNATURE} in hex")
    return {client: registration}


def system_day() -> date:
    """Today, by this machine's clock, in UTC: the same day whatever the time zone does."""
    return datetime.now(UTC).date()


def system_randomness() -> Randomness:
    """Chance for a deployment: nothing is seeded, nothing comes from a peer."""
    return Randomness(
        noise=lambda _client, _round, _release: os_noise(),
        key=lambda _user, _round: secrets.randbits(64),
        rng=lambda _user, _round: np.random.default_rng(),
        entropy=lambda _client, _session, _step: os.urandom,
    )
