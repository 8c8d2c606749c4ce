"""One run in a process of its own: ``python -m simulations.sweep.child``, an order on its standard input.

The order is one line of JSON. Nothing follows it: when the other end of standard input closes, however the process at
that end came to its end, this one ends too, at once. A run survives that at any point (``simulations/mending.py``), so
nobody goes on working on a folder that a later sweep opens.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from shared.config import validate
from shared.errors import FedrecallError
from simulations.config import SimulationConfig

INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Order:
    """What one process is to do.

    Attributes:
        folder: of the run; absolute.
        config: resolved, as JSON values.
        source: folder to take a preset's files from, "" = the network.
    """

    folder: str
    config: dict[str, Any]
    source: str

    def to_line(self) -> bytes:
        """As the child reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"


def carry_out(order: Order) -> None:
    """Begin the run, or go on with it.

    Raises:
        FedrecallError: with one sentence.
        KeyboardInterrupt: passed on after the state was saved.
    """
    from simulations.download import cache_folder  # noqa: PLC0415 - heavy, and the parent imports this module
    from simulations.run import new_run, resume_run  # noqa: PLC0415 - as above
    from simulations.screen import open_screen  # noqa: PLC0415 - as above

    folder, source = Path(order.folder), Path(order.source) if order.source else None
    with open_screen(quiet=False, folder=folder) as screen:
        if (folder / "config.toml").exists():
            resume_run(folder, cache=cache_folder(), source=source, screen=screen)
            return
        if folder.exists():
            for draft in folder.glob(".*"):  # a kill while the configuration was being written
                draft.unlink()
        config = validate(SimulationConfig, order.config, folder.name)
        new_run(config, folder, cache=cache_folder(), source=source, screen=screen)


def _leave_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(INTERRUPTED)


def main() -> None:
    """Read an order, carry it out; a sentence on standard error and exit code 1 where that fails."""
    order = Order(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        carry_out(order)
    except FedrecallError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
