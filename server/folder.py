"""The server's folder: what to run, written by whoever set it up (``fedrecall-sim prepare``)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from flwr.serverapp import Grid

from shared.config import Config, validate
from shared.errors import ConfigError, RunError
from shared.privacy.plan import Kind

POLL = 0.5  # seconds between looks for nodes


@dataclass(frozen=True)
class Service:
    """What a server was set up to run.

    Attributes:
        config: the resolved configuration.
        kind: "simulation" or "deployment".
        clients: nodes to wait for.
        users_per_client: public normaliser.
        users: users in all, public.
        registered: the clients' registered keys, hex; no other takes part in secure aggregation.
    """

    config: Config
    kind: Kind
    clients: int
    users_per_client: int
    users: int
    registered: tuple[str, ...]


def write_service(service: Service, path: Path) -> None:
    """Write ``service.json``."""
    raw: dict[str, Any] = {
        "config": service.config.model_dump(mode="json"),
        "kind": service.kind,
        "clients": service.clients,
    }
    raw |= {"users_per_client": service.users_per_client, "users": service.users}
    raw["registered"] = list(service.registered)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw, indent=1), encoding="utf-8")


def read_service(path: Path) -> Service:
    """Read ``service.json``.

    Raises:
        ConfigError: missing or broken.
    """
    try:
        raw = dict(json.loads(path.read_text(encoding="utf-8")))
        config = validate(Config, raw.pop("config"), str(path))
        registered = tuple(bytes.fromhex(key).hex() for key in raw.pop("registered"))
        service = Service(config=config, registered=registered, **raw)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read; set FEDRECALL_HOME to a folder made by fedrecall-sim prepare"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a service description: {error}") from error
    if service.kind not in get_args(Kind):
        raise ConfigError(f"{path}: kind {service.kind!r} must be one of {', '.join(get_args(Kind))}")
    for name in ("clients", "users_per_client", "users"):
        value = getattr(service, name)
        if type(value) is not int or value < 1:
            raise ConfigError(f"{path}: {name} {value!r} must be a whole number above 0")
    return service


def wait_for_nodes(grid: Grid, wanted: int, patience: float, sleep: Callable[[float], None] = time.sleep) -> list[int]:
    """The node ids of the federation, once ``wanted`` of them are there; sorted.

    Raises:
        RunError: fewer are there after ``patience`` seconds.
    """
    waited = 0.0
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= wanted:
            return nodes
        if waited >= patience:
            raise RunError(
                f"{len(nodes)} of {wanted} nodes are there after {patience:.0f} s; start more, or prepare fewer clients"
            )
        sleep(POLL)
        waited += POLL
