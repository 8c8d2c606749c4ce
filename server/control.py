"""What passes between an operator, the supervisor and the run loop: small files in the house's ``control`` folder.

::

    control/paused         while it is there, no round begins (the operator)
    control/begin          asks for the next run (the operator)
    control/stopping       asks the run loop to end between two rounds (the supervisor)
    control/serving.lock   held by the run loop while it lives
    control/standing.json  what the run loop is doing
    control/log            named pipe: its log lines on their way to the supervisor
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from server.house import House
from shared.files import write_atomically


@dataclass(frozen=True)
class Standing:
    """What the run loop is doing.

    Attributes:
        run: folder of the run in progress, or of the last one; "" before the first.
        waiting: why no round goes on; "" while one does.
        online: clients that were heard of lately; None = not known.
        behind: clients that do not have the current issue yet.
    """

    run: str = ""
    waiting: str = ""
    online: int | None = None
    behind: int = 0


def lock_of(house: House) -> Path:
    """Held by the run loop while it lives."""
    return house.control / "serving.lock"


def pipe_of(house: House) -> Path:
    """Where the run loop writes its log lines."""
    return house.control / "log"


def stopping_of(house: House) -> Path:
    """The supervisor's wish to end."""
    return house.control / "stopping"


def write_standing(house: House, standing: Standing) -> None:
    """Say what the run loop is doing.

    Raises:
        OSError: the disk refuses.
    """
    write_atomically(house.control / "standing.json", json.dumps(asdict(standing)).encode())


def read_standing(house: House) -> Standing:
    """What the run loop said last; a file that is missing or broken says nothing."""
    try:
        return Standing(**json.loads((house.control / "standing.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return Standing()
