"""Setting a server up: one folder with configuration, keys, certificates and secrets.

``fedrecall.toml`` is written last of what the folder needs: whatever stops this half-way, there is no server there yet,
and the same command goes on, with the keys that were made already.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from server.certificates import issue, make_authority
from server.house import CONFIG, OWNER_ONLY, House, ServerConfig, ServiceSection
from server.promise import parameters_of, promised
from shared.config import assignments, merged, validate
from shared.errors import ConfigError
from shared.files import write_atomically
from shared.keys import own_key

_OURS: Final = frozenset({"keys", "tls", "secrets", "enrolment", "catalogue", "control", "runs", "superlink"})
_NOBODYS: Final = frozenset({"lost+found"})  # of a fresh disk
_HEAD: Final = """\
# What this server runs; docs/config.md has every key. What is not here keeps its default. plan.json and policy.json say
# what follows from it and was signed off: after a change, `fedrecall-server plan` writes them anew.
"""


def configured(address: str, clients: int, sets: Sequence[str]) -> tuple[ServerConfig, dict[str, Any]]:
    """The configuration that a new server gets, and what of it is not left to defaults.

    Raises:
        ConfigError: an unknown key, or a value out of bounds.
        PlanError: a promise that cannot be kept.
    """
    given = merged({"service": {"address": address, "clients": clients}}, assignments(sets))
    config = validate(ServerConfig, given, "init")
    port = int(config.service.address.rpartition(":")[2])
    if not 1 <= port <= 65_535:
        raise ConfigError(f"init: service.address = {config.service.address!r}: the port must lie between 1 and 65535")
    promised(config, parameters_of(config, None))
    return config, given


def init_house(folder: Path, config: ServerConfig, given: Mapping[str, Any], now: datetime) -> House:
    """Everything but the catalogue and the promise.

    Args:
        folder: must not exist, be empty, or hold what an earlier try left.
        config, given: of :func:`configured`.
        now: with its zone.

    Raises:
        ConfigError: something else is in the folder, or a server.
        OSError: the disk refuses.
    """
    house = House(folder)
    if house.settings.exists():
        raise ConfigError(f"{folder}: a server is here already ({CONFIG}); its keys and clients would be lost")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    foreign = sorted({entry.name for entry in folder.iterdir()} - _OURS - _NOBODYS)
    if foreign:
        raise ConfigError(f"{folder}: not empty ({foreign[0]}); choose another folder")
    folder.chmod(0o700)
    for path in (house.ledger_key, house.certificate, house.superexec_secret, house.clients):
        path.parent.mkdir(exist_ok=True)
    for path in (house.catalogue, house.control, house.runs, house.database.parent):
        path.mkdir(exist_ok=True)
    own_key(house.ledger_key)
    own_key(house.registrar_key)
    make_authority(house, now)
    issue(house, config.service.address, now)
    write_atomically(house.superexec_secret, secrets.token_hex(32).encode(), mode=OWNER_ONLY)
    write_atomically(house.settings, settings_text(config.service, given).encode())
    return house


def settings_text(service: ServiceSection, given: Mapping[str, Any]) -> str:
    """``fedrecall.toml``: what was given, a line a key, then ``[service]`` with the meaning of each key."""
    rest = {name: value for name, value in given.items() if name != "service"}
    lines = [_HEAD, *(f"{key} = {value}" for key, value in _flat(rest)), "", "[service]"]
    for name, value in service.model_dump(mode="json").items():
        lines += ["", f"# {ServiceSection.model_fields[name].description}", f"{name} = {json.dumps(value)}"]
    return "\n".join(lines) + "\n"


def _flat(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys with TOML values: JSON's spelling of texts, numbers, truths and lists of them is TOML's."""
    for key, value in raw.items():
        name = prefix + (key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False))
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, json.dumps(value, ensure_ascii=False)
