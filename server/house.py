"""A server's folder: which file lies where, and what its configuration says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field

from shared.config import Config, Section, read_toml, validate
from shared.errors import ConfigError
from shared.owner import check_own

CONFIG: Final = "fedrecall.toml"
OWNER_ONLY: Final = 0o600  # mode of every file that holds a secret


class ServiceSection(Section):
    """Where the server is reached, and how many clients its promise is made for."""

    address: str = Field(
        "localhost:8443",
        pattern=r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$",
        description="host:port that devices use: the proxy, which lets /v1/fleet/* through and nothing else",
    )
    superlink_host: str = Field(
        "127.0.0.1",
        pattern=r"^[0-9A-Fa-f:.]+$",
        description="address that Flower's SuperLink listens on; another than loopback only behind a wall (compose)",
    )
    superlink_port: int = Field(9091, ge=1, le=65_535, description="of the SuperLink")
    operator_port: int = Field(9444, ge=1, le=65_535, description="of the operator API, on loopback")
    clients: int = Field(
        10, ge=1, le=1_000_000, description="clients that the plan is made for; a run waits until so many are enrolled"
    )
    users_per_client: int = Field(1, ge=1, le=1_000_000, description="users that one client holds")
    open_metrics: bool = Field(False, description="/metrics without a token: for a Prometheus on the same machine")


class ServerConfig(Config):
    """``fedrecall.toml``: what a deployed server runs, and where."""

    service: ServiceSection = ServiceSection()


@dataclass(frozen=True)
class House:
    """The folder of one server.

    Attributes:
        folder: of mode 700.
    """

    folder: Path

    @property
    def settings(self) -> Path:
        """``fedrecall.toml``, written by ``init``, edited by the operator."""
        return self.folder / CONFIG

    @property
    def plan(self) -> Path:
        """``plan.json``: the plan that follows from the configuration, to be signed off (``server/promise.py``)."""
        return self.folder / "plan.json"

    @property
    def policy(self) -> Path:
        """``policy.json``: version 1 of the recall policy and the item rules, to be signed off."""
        return self.folder / "policy.json"

    @property
    def ca(self) -> Path:
        """Certificate of the house's own authority, PEM; every invitation carries it."""
        return self.folder / "tls" / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """Its private key; may be kept elsewhere between renewals; not under ``tls``, which the proxy reads."""
        return self.folder / "keys" / "ca-key.pem"

    @property
    def certificate(self) -> Path:
        """The server's TLS certificate, PEM: of the proxy, the SuperLink and the operator API."""
        return self.folder / "tls" / "server.pem"

    @property
    def certificate_key(self) -> Path:
        """Its private key."""
        return self.folder / "tls" / "server-key.pem"

    @property
    def superexec_secret(self) -> Path:
        """Shared by SuperLink and superexec, and nobody else."""
        return self.folder / "secrets" / "superexec"

    @property
    def operators(self) -> Path:
        """``operators.json``: names, roles and hashes of tokens (``server/operators.py``)."""
        return self.folder / "operators.json"

    @property
    def ledger_key(self) -> Path:
        """Ed25519; signs the server's ledger, its tasks and its publications."""
        return self.folder / "keys" / "ledger-key.pem"

    @property
    def registrar_key(self) -> Path:
        """Ed25519; signs the identity of every client that an operator let in."""
        return self.folder / "keys" / "registrar-key.pem"

    @property
    def catalogue(self) -> Path:
        """The operator's catalogue (``server/stock.py``)."""
        return self.folder / "catalogue"

    @property
    def invitations(self) -> Path:
        """Invitations: open, used and withdrawn ones (``server/enrolling.py``)."""
        return self.folder / "enrolment" / "invitations.json"

    @property
    def clients(self) -> Path:
        """Clients that were let in, revoked ones included (``server/enrolling.py``)."""
        return self.folder / "enrolment" / "clients.json"

    @property
    def database(self) -> Path:
        """The SuperLink's SQLite database."""
        return self.folder / "superlink" / "state.db"

    @property
    def flwr_home(self) -> Path:
        """``FLWR_HOME`` of everything of Flower's that runs here."""
        return self.folder / "superlink" / "flwr-home"

    @property
    def runs(self) -> Path:
        """A folder a run: ledger, checkpoint, ``rounds.jsonl``, orders."""
        return self.folder / "runs"

    @property
    def app(self) -> Path:
        """What ``flwr run`` is given: a shim that calls the installed package."""
        return self.folder / "app"

    @property
    def control(self) -> Path:
        """Flags for the run loop."""
        return self.folder / "control"

    @property
    def paused(self) -> Path:
        """While it is there, no round begins."""
        return self.control / "paused"

    @property
    def begin(self) -> Path:
        """Asks for the next run; taken away when it begins."""
        return self.control / "begin"

    @property
    def published(self) -> Path:
        """What was given out last, and who has it (``server/publishing.py``)."""
        return self.folder / "published"

    @property
    def lock(self) -> Path:
        """Held by ``up``."""
        return self.folder / "up.lock"

    def config(self) -> ServerConfig:
        """The configuration as it stands in ``fedrecall.toml``.

        Raises:
            ConfigError: names the key, its value and what would be right.
        """
        return validate(ServerConfig, read_toml(self.settings), str(self.settings))

    def check_whole(self) -> None:
        """That every key and certificate is there: a new one in its place would be another server to every device.

        Raises:
            ConfigError: one is not; which.
        """
        keys = (self.ledger_key, self.registrar_key, self.certificate_key, self.superexec_secret)
        for path in (*keys, self.ca, self.certificate):
            if not path.is_file():
                raise ConfigError(f"{path}: missing; put it back from a backup")


def house_at(folder: Path) -> House:
    """A server's folder that was set up before, by its full path: processes that work elsewhere are told of it.

    Raises:
        ConfigError: there is none, or it belongs to another account: the server could not read what root wrote for it.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder}: no server here ({CONFIG} is missing); make one: fedrecall-server init {folder}")
    check_own(folder)
    return House(folder.resolve())
