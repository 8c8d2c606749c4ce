"""A device's folder: which file lies where. Only this side names paths; a task never does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shared.errors import DataError
from shared.owner import check_own


@dataclass(frozen=True)
class Home:
    """The folder of one device; nothing in it is anybody else's.

    Attributes:
        folder: of mode 700.
    """

    folder: Path

    @property
    def settings(self) -> Path:
        """``device.toml``: how this device behaves (``client/settings.py``)."""
        return self.folder / "device.toml"

    @property
    def consent(self) -> Path:
        """``consent.toml``: what the person allows."""
        return self.folder / "consent.toml"

    @property
    def server(self) -> Path:
        """``server.json``: the server's address, certificate and keys, as invited (``client/enrolling.py``)."""
        return self.folder / "server.json"

    @property
    def node_key(self) -> Path:
        """EC P-384, says to Flower who is there."""
        return self.folder / "node-key.pem"

    @property
    def ledger_key(self) -> Path:
        """Ed25519, signs the ledger and what is said in secure aggregation."""
        return self.folder / "ledger-key.pem"

    @property
    def ledger(self) -> Path:
        """What this device paid for and declined; outlives everything else here."""
        return self.folder / "ledger.jsonl"

    @property
    def vault(self) -> Path:
        """Encrypted behaviour, SQLite (``client/vault.py``)."""
        return self.folder / "behaviour.db"

    @property
    def vault_key(self) -> Path:
        """How the vault's key is kept: a keyring's entry, or wrapped under a passphrase (``client/vault_key.py``)."""
        return self.folder / "vault-key.json"

    @property
    def forgotten(self) -> Path:
        """Signed receipts of what was forgotten."""
        return self.folder / "forgotten"

    @property
    def catalogues(self) -> Path:
        """``<version>.npz``: the one that is served, and those of runs that go on."""
        return self.folder / "catalogues"

    @property
    def published(self) -> Path:
        """The last publication taken (``client/published.py``)."""
        return self.folder / "published"

    @property
    def shelf(self) -> Path:
        """Arrays that serving maps into memory (``client/shelving.py``)."""
        return self.folder / "shelf"

    @property
    def trending(self) -> Path:
        """What is trending; a store of its own, refreshed without a new model."""
        return self.folder / "trending.json"

    @property
    def adapted(self) -> Path:
        """What was learned for this person alone, encrypted like behaviour."""
        return self.folder / "adapted.bin"

    @property
    def token(self) -> Path:
        """The local API's token, mode 600."""
        return self.folder / "api-token"

    @property
    def log(self) -> Path:
        """The client's own log: JSON lines; the only place where a reason is told."""
        return self.folder / "log.jsonl"


def home_at(folder: Path) -> Home:
    """A device's folder that was set up before.

    Raises:
        DataError: there is none.
        ConfigError: it belongs to another account.
    """
    if not (folder / "device.toml").is_file():
        raise DataError(f"{folder}: no device here (device.toml is missing); make one: fedrecall-client init {folder}")
    check_own(folder)
    return Home(folder)
