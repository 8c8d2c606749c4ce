"""Whether this is a moment to train: battery and metered networks, read from the system where it tells."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from client.settings import Settings

_SUPPLIES: Final = Path("/sys/class/power_supply")  # Linux; elsewhere nothing is there and the settings decide
_PATIENCE: Final = 3.0  # seconds for NetworkManager to answer


def reason_to_wait(
    settings: Settings, supplies: Path = _SUPPLIES, metered: Callable[[], bool | None] | None = None
) -> str:
    """Why the server is left alone for now; "" = nothing speaks against a word with it.

    Args:
        settings: what the person said; it wins over what the system says.
        supplies: where Linux tells of power.
        metered: whether the network is; None = the system does not tell, which counts as unmetered.
    """
    if settings.on_battery == "serve only" and _on_battery(settings, supplies):
        return "on battery"
    if settings.metered == "serve only" and _metered(settings, metered or network_manager_says):
        return "on a metered network"
    return ""


def _on_battery(settings: Settings, supplies: Path) -> bool:
    if settings.power != "ask the system":
        return settings.power == "battery"
    found = [supply for supply in sorted(supplies.glob("*")) if _read(supply / "scope") != "Device"]  # no mouse
    if any(_read(supply / "online") == "1" for supply in found):
        return False
    return any(_read(supply / "status") == "Discharging" for supply in found)


def _metered(settings: Settings, metered: Callable[[], bool | None]) -> bool:
    if settings.network != "ask the system":
        return settings.network == "metered"
    return metered() is True


def network_manager_says() -> bool | None:
    """Whether any connection is metered, as NetworkManager sees it; None = it is not here, or does not say."""
    tool = shutil.which("nmcli")
    if tool is None:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(  # noqa: S603 - a fixed question to a system's tool
            [tool, "--terse", "--get-values", "GENERAL.METERED", "device", "show"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_PATIENCE,
            env={"PATH": os.defpath, "LC_ALL": "C"},  # in English, and nothing of ours, a passphrase say, in it
        )
        said = [line.strip() for line in done.stdout.splitlines()]
        return any(line.startswith("yes") for line in said) if any(said) else None
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
