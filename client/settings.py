"""``device.toml``: how a device behaves. Nothing in it is a promise; those are in ``consent.toml``."""

from __future__ import annotations

import json
from typing import Final, Literal

from pydantic import Field

from client.home import Home
from shared.config import Section, read_toml, validate
from shared.device import Device
from shared.files import write_atomically

_OPENING: Final = "# How this device behaves. What it takes part in stands in consent.toml."
Reach = Literal["train", "serve only"]


class Settings(Section):
    """What a person or an engineer may set."""

    api_port: int = Field(
        8765, ge=0, le=65_535, description="port of the local API on 127.0.0.1, 1 to 65535; 0 = no local API"
    )
    ttl_days: int = Field(730, ge=1, le=36_500, description="days, 1 to 36500, after which an event is deleted")
    poll_seconds: float = Field(
        3.0,
        ge=0.1,
        le=86_400,
        description="seconds, 0.1 to 86400, between two questions to the server; less in a round",
    )
    linger_seconds: float = Field(
        60.0, ge=0, le=86_400, description="seconds, 0 to 86400, that the training process stays after its last task"
    )
    on_battery: Reach = Field(
        "serve only", description='on battery: "train" = as on mains, "serve only" = no word with the server'
    )
    metered: Reach = Field("serve only", description='on a metered network: "train" or "serve only", as above')
    power: Literal["ask the system", "mains", "battery"] = Field(
        "ask the system", description='"ask the system", or what to take for true: "mains", "battery"'
    )
    network: Literal["ask the system", "unmetered", "metered"] = Field(
        "ask the system", description='"ask the system", or what to take for true: "unmetered", "metered"'
    )
    device: Device = Field(
        "auto", description='what local training computes on: "cuda", "cpu", or "auto" = the GPU where torch finds one'
    )
    adapt: bool = Field(True, description="whether each event changes a personal part of the model, on this device")


def read_settings(home: Home) -> Settings:
    """A device's settings.

    Raises:
        ConfigError: names the file, the key, its value and what would be right.
    """
    return validate(Settings, read_toml(home.settings), str(home.settings))


def write_settings(settings: Settings, home: Home) -> None:
    """Write ``device.toml``, each key with its meaning and bounds.

    Raises:
        OSError: the disk refuses; an old file stays as it was then.
    """
    lines = [_OPENING]
    for name, value in settings.model_dump(mode="json").items():
        lines += ["", f"# {Settings.model_fields[name].description}", f"{name} = {json.dumps(value)}"]
    write_atomically(home.settings, ("\n".join(lines) + "\n").encode())
