"""The client's own log, ``log.jsonl``: what happened and why, for the person whose device it is. It never leaves.

It is kept short and may lose lines (a full disk, two generations of a megabyte); nothing is decided by it. What must
not be lost stands in the ledger.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from client.home import Home

_MOST: Final = 1 << 20  # bytes, then a new file is begun
_LONGEST: Final = 500  # characters of a text: what a server wrote must not fill a disk
Fact = str | int | float | bool | None


def log(home: Home, event: str, **facts: Fact) -> None:
    """Add a line; a disk that refuses is no reason to stop.

    Args:
        home: the device.
        event: what happened, a few words.
        facts: what belongs to it; never behaviour.
    """
    short = {name: fact[:_LONGEST] if isinstance(fact, str) else fact for name, fact in facts.items()}
    line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **short}) + "\n"
    with suppress(OSError):
        if home.log.exists() and home.log.stat().st_size > _MOST:
            home.log.replace(home.log.with_suffix(".1.jsonl"))
        handle = os.open(home.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "ab") as file:
            file.write(line.encode())


def last_lines(home: Home, most: int) -> list[dict[str, Fact]]:
    """The newest lines, oldest first; what cannot be read is left out."""
    if not home.log.exists():
        return []
    lines: list[dict[str, Fact]] = []
    for raw in home.log.read_text(encoding="utf-8", errors="replace").splitlines()[-most:]:
        with suppress(ValueError):
            lines.append(json.loads(raw))
    return lines
